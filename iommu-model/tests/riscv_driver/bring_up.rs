//! Hardware of every kind; what the driver sets up.

use crate::scene::{
    ADDRESS, DEVICE, PLAIN, READ_ONLY, Scene, Table, WRITABLE, invalidate, iotlb, page, pasid,
    schedules,
};
use iommu_core::error::ProbeError;
use iommu_core::ids::PhysicalAddress;
use iommu_core::iommu::Iommu;
use iommu_core::operation::Levels;
use iommu_core::platform::WalkerCoherency;
use iommu_model::riscv::{Configuration, InterruptGeneration};
use iommu_model::{Access, Coherency, Policy, Refusal};
use iommu_riscv::Config;
use iommu_riscv::debug::TranslateError;

#[test]
fn the_driver_comes_up_on_every_kind_of_hardware() {
    let all = Configuration::default();
    let kinds = [
        all,
        Configuration {
            msi_flat: false,
            ..all
        },
        Configuration {
            second_stage_modes: 0,
            ..all
        },
        Configuration { ats: false, ..all },
        Configuration {
            interrupts: InterruptGeneration::Messages,
            ..all
        },
        Configuration {
            interrupts: InterruptGeneration::Wires,
            ..all
        },
        Configuration {
            directory_levels: [false, false, true],
            ..all
        },
        Configuration {
            log2_commands: 7,
            log2_faults: 3,
            ..all
        },
        Configuration {
            pd17: false,
            pd20: false,
            ..all
        },
    ];
    for configuration in kinds {
        schedules(|policy, seed| {
            let scene = Scene::new(policy, seed, configuration);
            let unit = scene.driver();
            unit.enable_device(DEVICE, PLAIN).unwrap();
            let refused = scene.ask(None, 0, Access::Read);
            assert_eq!(refused, Err(Refusal::NotPresent));
            drop(unit);
            let refused = scene.ask(None, 0, Access::Read);
            assert_eq!(refused, Err(Refusal::UnsupportedRequest));
            scene.assert_specified();
            assert_eq!(scene.machine.memory.blocks(), 0);
        });
    }
}

#[test]
fn the_driver_says_what_is_missing() {
    let all = Configuration::default();
    let kinds = [
        Configuration {
            version: 0x20,
            ..all
        },
        Configuration {
            first_stage_modes: 0,
            ..all
        },
        Configuration {
            pd8: false,
            pd17: false,
            pd20: false,
            ..all
        },
        Configuration {
            directory_levels: [true, false, false],
            ..all
        },
        Configuration {
            log2_commands: 6,
            ..all
        },
    ];
    for configuration in kinds {
        let scene = Scene::new(Policy::STRICT, 0, configuration);
        let error = scene.try_driver(Config::default()).unwrap_err();
        assert!(
            matches!(error, ProbeError::MissingCapability { .. }),
            "{configuration:?}: {error}"
        );
        scene.assert_specified();
    }
    let scene = Scene::new(Policy::STRICT, 0, all);
    scene.iommu.remove();
    let error = scene.try_driver(Config::default()).unwrap_err();
    assert!(matches!(error, ProbeError::NotPresent));
}

#[test]
fn a_walker_that_does_not_snoop_sees_what_was_cleaned() {
    schedules(|policy, seed| {
        let configuration = Configuration::default();
        let scene = Scene::with_memory(policy, seed, configuration, Coherency::NonCoherent);
        let config = Config {
            coherency: WalkerCoherency::NonCoherent,
            ..Config::default()
        };
        let unit = scene.try_driver(config).unwrap();
        let table = Table::new(&scene.machine.memory, 3);
        table.map(ADDRESS, 0x8100_0000, WRITABLE);
        let tag = unit.allocate_tag().unwrap();
        unit.enable_device(DEVICE, PLAIN).unwrap();
        unit.attach(DEVICE, pasid(3), tag, &table.neutral())
            .unwrap();
        assert_eq!(scene.ask(Some(3), ADDRESS, Access::Write), Ok(0x8100_0000));
        scene.ask(Some(4), ADDRESS, Access::Write).unwrap_err();
        scene.machine.settle();
        assert_eq!(unit.take_faults(&mut |_| {}).reported, 1);
        table.unmap(ADDRESS);
        invalidate(&unit, &[iotlb(tag)], page(ADDRESS), Levels::LeafOnly).unwrap();
        scene.ask(Some(3), ADDRESS, Access::Write).unwrap_err();
        scene.assert_specified();
    });
}

#[test]
fn accessed_and_dirty_bits_are_set_where_the_driver_asks() {
    for update in [false, true] {
        schedules(|policy, seed| {
            let scene = Scene::new(policy, seed, Configuration::default());
            let config = Config {
                update_accessed_dirty: update,
                ..Config::default()
            };
            let unit = scene.try_driver(config).unwrap();
            let table = Table::new(&scene.machine.memory, 3);
            table.map(ADDRESS, 0x8100_0000, WRITABLE & !0xc0);
            let tag = unit.allocate_tag().unwrap();
            unit.enable_device(DEVICE, PLAIN).unwrap();
            unit.attach(DEVICE, pasid(3), tag, &table.neutral())
                .unwrap();
            let bits = || scene.machine.memory.cpu_load(table.place(ADDRESS, 0)) & 0xc0;
            let read = scene.ask(Some(3), ADDRESS, Access::Read);
            assert_eq!((read.is_ok(), bits()), (update, u64::from(update) * 0x40));
            let write = scene.ask(Some(3), ADDRESS, Access::Write);
            assert_eq!((write.is_ok(), bits()), (update, u64::from(update) * 0xc0));
            scene.assert_specified();
        });
    }
}

#[test]
fn the_debug_registers_say_what_a_device_would_get() {
    schedules(|policy, seed| {
        let scene = Scene::new(policy, seed, Configuration::default());
        let unit = scene.driver();
        let table = Table::new(&scene.machine.memory, 3);
        table.map(ADDRESS, 0x8100_0000, READ_ONLY);
        let superpage = table.place(1 << 30, 1);
        table.store(superpage, 0x8120_0000 >> 12 << 10 | WRITABLE);
        let tag = unit.allocate_tag().unwrap();
        unit.enable_device(DEVICE, PLAIN).unwrap();
        unit.attach(DEVICE, pasid(3), tag, &table.neutral())
            .unwrap();
        let ask = |address, write| unit.translate(DEVICE, pasid(3), address, write);
        assert_eq!(ask(ADDRESS + 7, false), Ok(PhysicalAddress(0x8100_0007)));
        assert_eq!(ask(ADDRESS, true), Err(TranslateError::Fault));
        let inside = PhysicalAddress(0x8121_2345);
        assert_eq!(ask((1 << 30) + 0x1_2345, true), Ok(inside));
        scene.assert_specified();
    });
}
