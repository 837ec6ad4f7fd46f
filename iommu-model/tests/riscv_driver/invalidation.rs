//! What was taken out of the tables is not used any more.

use crate::scene::{
    ADDRESS, DEVICE, PLAIN, READ_ONLY, Scene, Table, WITH_DEVICE_TLB, WRITABLE, device_tlb,
    invalidate, iotlb, page, pasid, schedules,
};
use iommu_core::Range;
use iommu_core::ids::Pasid;
use iommu_core::iommu::Iommu;
use iommu_core::operation::Levels;
use iommu_model::device::{Answers, Ended, Transfer};
use iommu_model::riscv::Configuration;
use iommu_model::{Access, Refusal};

#[test]
fn an_invalidated_page_is_not_reached_any_more() {
    for (nl, s) in [(true, true), (false, true), (true, false), (false, false)] {
        let configuration = Configuration {
            nl,
            s,
            ..Configuration::default()
        };
        schedules(|policy, seed| {
            let scene = Scene::new(policy, seed, configuration);
            let unit = scene.driver();
            let memory = &scene.machine.memory;
            let table = Table::new(memory, 3);
            let tag = unit.allocate_tag().unwrap();
            unit.enable_device(DEVICE, PLAIN).unwrap();
            unit.attach(DEVICE, pasid(5), tag, &table.neutral())
                .unwrap();
            table.map(ADDRESS, 0x8100_0000, WRITABLE);
            table.map(ADDRESS + 4096, 0x8100_1000, WRITABLE);

            let ask = |address| scene.ask(Some(5), address, Access::Write);
            assert_eq!(ask(ADDRESS + 0x18), Ok(0x8100_0018));
            assert_eq!(ask(ADDRESS + 4096), Ok(0x8100_1000));
            assert_eq!(
                scene.ask(None, ADDRESS, Access::Read),
                Err(Refusal::NotPresent)
            );

            table.unmap(ADDRESS);
            assert_eq!(ask(ADDRESS), Ok(0x8100_0000), "nothing was invalidated yet");
            invalidate(&unit, &[iotlb(tag)], page(ADDRESS), Levels::LeafOnly).unwrap();
            assert_eq!(ask(ADDRESS), Err(Refusal::NotPresent), "seed {seed}");
            assert_eq!(ask(ADDRESS + 4096), Ok(0x8100_1000));
            scene.assert_specified();
        });
    }
}

#[test]
fn a_freed_table_page_is_not_walked_any_more() {
    for nl in [true, false] {
        let configuration = Configuration {
            nl,
            ..Configuration::default()
        };
        schedules(|policy, seed| {
            let scene = Scene::new(policy, seed, configuration);
            let unit = scene.driver();
            let table = Table::new(&scene.machine.memory, 4);
            let tag = unit.allocate_tag().unwrap();
            unit.enable_device(DEVICE, PLAIN).unwrap();
            unit.attach(DEVICE, Pasid::UNTAGGED, tag, &table.neutral())
                .unwrap();
            table.map(ADDRESS, 0x8100_0000, WRITABLE);
            assert_eq!(scene.ask(None, ADDRESS, Access::Read), Ok(0x8100_0000));

            let middle = table.place(ADDRESS, 1);
            let below = scene.machine.memory.cpu_load(middle) >> 10 << 12;
            table.store(middle, 0);
            let region = Range::with_length(ADDRESS & !0x1f_ffff, 2 << 20).unwrap();
            invalidate(&unit, &[iotlb(tag)], region, Levels::All).unwrap();
            // The next owner's words look like entries.
            scene
                .machine
                .memory
                .give_back(below, 0x2000_0000 << 10 | WRITABLE);
            let refused = Err(Refusal::NotPresent);
            assert_eq!(scene.ask(None, ADDRESS, Access::Read), refused);
            assert_eq!(scene.ask(None, ADDRESS + 4096, Access::Read), refused);
            scene.assert_specified();
        });
    }
}

#[test]
fn a_detached_pasid_is_refused_and_its_tag_can_be_used_again() {
    schedules(|policy, seed| {
        let scene = Scene::new(policy, seed, Configuration::default());
        let unit = scene.driver();
        let memory = &scene.machine.memory;
        let (one, other) = (Table::new(memory, 3), Table::new(memory, 5));
        one.map(ADDRESS, 0x8100_0000, WRITABLE);
        other.map(ADDRESS, 0x8120_0000, READ_ONLY);
        let tag = unit.allocate_tag().unwrap();
        unit.enable_device(DEVICE, PLAIN).unwrap();
        for _ in 0..3 {
            unit.attach(DEVICE, pasid(9), tag, &one.neutral()).unwrap();
            assert_eq!(scene.ask(Some(9), ADDRESS, Access::Write), Ok(0x8100_0000));
            unit.detach(DEVICE, pasid(9)).unwrap();
            let refused = Err(Refusal::NotPresent);
            assert_eq!(scene.ask(Some(9), ADDRESS, Access::Write), refused);

            unit.attach(DEVICE, pasid(9), tag, &other.neutral())
                .unwrap();
            assert_eq!(scene.ask(Some(9), ADDRESS, Access::Read), Ok(0x8120_0000));
            assert_eq!(scene.ask(Some(9), ADDRESS, Access::Write), refused);
            unit.block(DEVICE, pasid(9)).unwrap();
            assert_eq!(scene.ask(Some(9), ADDRESS, Access::Read), refused);
            unit.detach(DEVICE, pasid(9)).unwrap();
        }
        unit.disable_device(DEVICE).unwrap();
        let refused = Err(Refusal::UnsupportedRequest);
        assert_eq!(scene.ask(Some(9), ADDRESS, Access::Read), refused);
        scene.assert_specified();
    });
}

#[test]
fn a_device_tlb_holds_nothing_of_an_invalidated_page() {
    schedules(|policy, seed| {
        let scene = Scene::new(policy, seed, Configuration::default());
        let unit = scene.driver();
        let device = scene.device(Answers::Promptly);
        let table = Table::new(&scene.machine.memory, 3);
        table.map(ADDRESS, 0x8100_0000, WRITABLE);
        let tag = unit.allocate_tag().unwrap();
        unit.enable_device(DEVICE, WITH_DEVICE_TLB).unwrap();
        unit.attach(DEVICE, pasid(3), tag, &table.neutral())
            .unwrap();
        let write = |bytes: &[u8]| device.run(Transfer::write(Some(3), ADDRESS, bytes.to_vec()));
        assert_eq!(write(b"first"), Ended::Done(Vec::new()));
        assert_eq!(device.held(), 1);

        table.unmap(ADDRESS);
        let targets = [iotlb(tag), device_tlb(pasid(3))];
        invalidate(&unit, &targets, page(ADDRESS), Levels::LeafOnly).unwrap();
        assert_eq!(device.held(), 0);
        assert_eq!(write(b"again"), Ended::Refused(Refusal::NotPresent));
        let mut bytes = [0; 5];
        scene
            .machine
            .memory
            .load_bytes(0x8100_0000, &mut bytes)
            .unwrap();
        assert_eq!(&bytes, b"first");

        unit.detach(DEVICE, pasid(3)).unwrap();
        unit.disable_device(DEVICE).unwrap();
        scene.assert_specified();
    });
}
