//! The driver on hardware of every kind.

use crate::page_table;
use crate::rig::*;
use iommu_core::iommu::Iommu;
use iommu_model::vtd::Configuration;
use iommu_model::{Access, Coherency, Hardware, Request};

/// A page is used, remapped, and gone with its PASID and its device.
fn works(setting: Setting) {
    let rig = Rig::new(setting);
    let flags = page_table::DATA | page_table::ACCESSED | page_table::DIRTY;
    let map = |frame| rig.table.map_page(ADDRESS, frame, flags, 1);
    assert!(!rig.write(ADDRESS, 0x11).is_done());
    let frames = [rig.frame(), rig.frame()];
    map(frames[0]);
    assert!(rig.write(ADDRESS, 0x22).is_done(), "{setting:?}");
    map(frames[1]);
    rig.invalidate(ADDRESS & !0xffff, (ADDRESS & !0xffff) + 0x1_0000);
    assert!(rig.write(ADDRESS, 0x33).is_done(), "{setting:?}");
    rig.unit.detach(ID, rig.pasid).unwrap();
    assert!(!rig.write(ADDRESS, 0x44).is_done(), "{setting:?}");
    rig.attach(rig.pasid);
    assert!(rig.write(ADDRESS, 0x33).is_done(), "{setting:?}");
    rig.unit.detach(ID, rig.pasid).unwrap();
    rig.unit.disable_device(ID).unwrap();
    assert!(!rig.write(ADDRESS, 0x55).is_done(), "{setting:?}");
    // Again from the beginning, with tables elsewhere: nothing is left of those that were freed.
    for _ in 0..48 {
        rig.frame();
    }
    rig.unit.enable_device(ID, CONFIG).unwrap();
    rig.attach(rig.pasid);
    assert!(rig.write(ADDRESS, 0x33).is_done(), "{setting:?}");
    rig.settle();
    let held = frames.map(|frame| rig.machine.memory.load(frame).unwrap() as u8);
    assert_eq!(held, [0x22, 0x33], "{setting:?}");
}

#[test]
fn every_kind_of_hardware_works() {
    let default = Configuration::default();
    let changes: [fn(&mut Configuration); 14] = [
        |_| (),
        |kind| kind.caching_mode = true,
        |kind| kind.page_selective_invalidation = false,
        |kind| kind.largest_order = 0,
        |kind| kind.device_tlb_throttle = true,
        |kind| kind.write_buffer_flush = true,
        |kind| kind.root_table_invalidates = false,
        |kind| kind.protected_memory = true,
        |kind| kind.fault_records = 1,
        |kind| kind.domains = 0,
        |kind| kind.drain = false,
        |kind| kind.orders_device_tlb = true,
        |kind| (kind.levels, kind.second_stage, kind.nested) = (4, false, false),
        |kind| (kind.pasid_bits, kind.page_request_drain) = (10, false),
    ];
    for change in changes {
        let mut configuration = default;
        change(&mut configuration);
        works(Setting {
            configuration,
            ..Setting::strict()
        });
        for seed in 0..10 {
            works(Setting {
                configuration,
                ..Setting::free(seed)
            });
        }
    }
}

#[test]
fn five_levels_work() {
    for seed in 0..10 {
        works(Setting {
            levels: 5,
            ..Setting::free(seed)
        });
    }
}

/// A walk that does not snoop cannot set accessed and dirty bits: the kernel has set them before.
#[test]
fn nothing_needs_to_snoop() {
    let configuration = Configuration::non_coherent();
    for seed in 0..20 {
        works(Setting {
            configuration,
            coherency: Coherency::NonCoherent,
            ..Setting::free(seed)
        });
    }
}

/// Page walks snoop, the other tables do not, and the other way round.
#[test]
fn either_kind_of_snooping_is_enough() {
    for (table_snoop, page_walk_snoop) in [(true, false), (false, true), (true, true)] {
        let configuration = Configuration {
            table_snoop,
            page_walk_snoop,
            ..Configuration::default()
        };
        for seed in 0..10 {
            works(Setting {
                configuration,
                coherency: Coherency::NonCoherent,
                ..Setting::free(seed)
            });
        }
    }
}

/// A chipset with a write buffer: what is stored in tables is seen when it was flushed.
#[test]
fn a_write_buffer_is_flushed() {
    let configuration = Configuration {
        write_buffer_flush: true,
        page_walk_snoop: false,
        ..Configuration::default()
    };
    for seed in 0..5 {
        works(Setting {
            configuration,
            coherency: Coherency::NonCoherent,
            ..Setting::free(seed)
        });
    }
}

/// Firmware used the device, and the hardware has cached how: by tables that are no more.
#[test]
fn what_firmware_left_in_the_caches_is_not_used() {
    let configuration = Configuration {
        root_table_invalidates: false,
        ..Configuration::default()
    };
    for setting in [Setting::strict(), Setting::free(1)] {
        let rig = Rig::after(
            Setting {
                configuration,
                ..setting
            },
            |machine, model| {
                let page = || machine.memory.take(4096, 4096).unwrap();
                let (root, contexts, directory, pasids) = (page(), page(), page(), page());
                let device = u64::from(ID.0);
                for (at, word) in [
                    (root, contexts | 1),
                    (contexts + 32 * device, directory | 0b11101),
                    (directory, pasids | 1),
                    // PASID 9 is passed through, in domain 1.
                    (pasids + 64 * 9, 0x109),
                    (pasids + 64 * 9 + 8, 1),
                ] {
                    machine.memory.cpu_store(at, word);
                }
                let command = |value| {
                    model.write(0x18, 4, value);
                    while model.step() {}
                };
                model.write(0x20, 8, root | 1 << 10);
                command(1 << 30);
                command(1 << 31);
                let request = Request {
                    device: ID.0,
                    pasid: Some(9),
                    privileged: false,
                    address: root,
                    access: Access::Write,
                };
                assert!(model.translate(&request).is_ok());
            },
        );
        let frame = rig.frame();
        assert!(
            !rig.write(frame, 0x11).is_done(),
            "it is no virtual address"
        );
        rig.table.map(ADDRESS, frame);
        assert!(rig.write(ADDRESS, 0x22).is_done());
        rig.settle();
    }
}

/// Firmware left a queue of 128-bit descriptors with an error in it, translation in another mode and
/// interrupt remapping on.
#[test]
fn what_firmware_left_on_goes_off_first() {
    for setting in [Setting::strict(), Setting::free(1)] {
        let rig = Rig::after(setting, |_, model| {
            let settle = || while model.step() {};
            model.write(0x90, 8, 0x4000_0000 + (62 << 20));
            model.write(0x18, 4, 1 << 26);
            settle();
            model.write(0x88, 8, 0x10);
            settle();
            assert_ne!(model.read(0x34, 4) & 1 << 4, 0, "a descriptor of type 0");
            for command in [1 << 25, 1 << 31] {
                let status = model.read(0x1c, 4);
                model.write(0x18, 4, status | command);
                settle();
            }
            assert_eq!(model.read(0x1c, 4) >> 24, 0b1000_0110);
        });
        rig.table.map(ADDRESS, rig.frame());
        assert!(rig.write(ADDRESS, 0x11).is_done());
        rig.settle();
        assert_eq!(rig.model.read(0x1c, 4) >> 24 & 0b1000_0110, 0b1000_0100);
    }
}
