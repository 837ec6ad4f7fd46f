//! Histories by chance: a kernel maps, remaps and unmaps under a device that never stops.

use crate::page_table;
use crate::rig::*;
use iommu_core::iommu::Iommu;
use iommu_model::vtd::Configuration;
use iommu_model::{Coherency, Policy, Random};

const PAGES: u64 = 12;
const POISON: u64 = 0xdead_beef_dead_beef;

/// The frames that the kernel has taken back hold nothing but poison.
struct Freed(Vec<u64>);

impl Freed {
    fn add(&mut self, rig: &Rig, frame: u64) {
        for at in (frame..frame + 4096).step_by(8) {
            rig.machine.memory.store(at, POISON).unwrap();
        }
        self.0.push(frame);
    }

    fn check(&self, rig: &Rig, setting: Setting, turn: u64) {
        for &frame in &self.0 {
            let word = rig.machine.memory.load(frame);
            assert_eq!(word, Ok(POISON), "turn {turn} of {setting:?}");
        }
    }
}

fn run(setting: Setting) {
    let rig = Rig::new(setting);
    let random = Random::new(setting.seed ^ 0x5eed);
    let mut mapped = [None; PAGES as usize];
    let mut freed = Freed(Vec::new());
    let flags = page_table::DATA | page_table::ACCESSED | page_table::DIRTY;
    for turn in 0..120 {
        let page = random.below(PAGES);
        let address = ADDRESS + page * 4096;
        let old = &mut mapped[page as usize];
        // The device uses what is about to change.
        for _ in 0..random.below(6) {
            drop(rig.device.start(rig.transfer(address, 0x11)));
        }
        match random.below(8) {
            0..=3 => {
                let frame = rig.frame();
                rig.table.map_page(address, frame, flags, 1);
                if let Some(frame) = old.replace(frame) {
                    rig.invalidate(address, address + 4096);
                    freed.add(&rig, frame);
                }
            }
            4 | 5 => {
                // A range, with what is mapped in it.
                let end = (page + 1 + random.below(PAGES - page)).min(PAGES);
                let gone: Vec<_> = (page..end)
                    .filter_map(|page| {
                        rig.table.unmap(ADDRESS + page * 4096);
                        mapped[page as usize].take()
                    })
                    .collect();
                rig.invalidate(address, ADDRESS + end * 4096);
                gone.into_iter().for_each(|frame| freed.add(&rig, frame));
            }
            6 => {
                // Let the device work.
                for _ in 0..random.below(30) {
                    rig.machine.step();
                }
            }
            _ if random.once_in(4) => {
                // The address space dies with the device at work, and another takes its PASID.
                rig.unit.block(ID, rig.pasid).unwrap();
                for (page, frame) in (0..).zip(&mut mapped) {
                    rig.table.unmap(ADDRESS + page * 4096);
                    if let Some(frame) = frame.take() {
                        freed.add(&rig, frame);
                    }
                }
                rig.unit.detach(ID, rig.pasid).unwrap();
                rig.attach(rig.pasid);
            }
            _ => {
                rig.unit.take_faults(&mut |_| ());
            }
        }
        freed.check(&rig, setting, turn);
    }
    rig.settle();
    freed.check(&rig, setting, u64::MAX);
}

#[test]
fn no_freed_frame_is_written() {
    let forgetful = Policy {
        forgetful: true,
        ..Policy::FREE
    };
    run(Setting::strict());
    for seed in 0..30 {
        run(Setting::free(seed));
        run(Setting {
            policy: forgetful,
            ..Setting::free(seed)
        });
        run(Setting {
            configuration: Configuration::non_coherent(),
            coherency: Coherency::NonCoherent,
            ..Setting::free(seed)
        });
        run(Setting {
            configuration: Configuration {
                caching_mode: true,
                ..Configuration::default()
            },
            ..Setting::free(seed)
        });
    }
}
