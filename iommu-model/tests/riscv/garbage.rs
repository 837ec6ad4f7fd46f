//! Whatever is written, by software or by devices, the model goes on.

use crate::bench::{Bench, CQCSR, CQT, DDTP, FQCSR, PQCSR};
use alloc::sync::Arc;
use iommu_model::riscv::Configuration;
use iommu_model::{Access, Hardware, PageRequest, Policy, Random, Request};

const SEEDS: u64 = 60;
const MOVES: u64 = 2000;

/// Words that lie where tables and commands are made of, half of them close to something legal.
fn word(random: &Random) -> u64 {
    let address = 0x8000_0000 + (random.below(64) << 12);
    match random.below(6) {
        0 => random.bits(),
        1 => address >> 12 << 10 | random.below(256) | 1,
        2 => random.below(16) << 60 | address >> 12,
        3 => random.bits() & 0xffff_f007_ffff_f000 | random.below(1024),
        4 => 1 << random.below(64),
        _ => random.below(1 << 12),
    }
}

fn request(random: &Random) -> Request {
    Request {
        device: random.below(70) as u32,
        pasid: (random.once_in(2)).then(|| random.below(300) as u32),
        privileged: random.once_in(4),
        address: if random.once_in(2) {
            random.bits()
        } else {
            random.below(1 << 30)
        },
        access: [Access::Read, Access::Write, Access::Execute][random.below(3) as usize],
    }
}

fn page_request(random: &Random) -> PageRequest {
    let Request {
        device,
        pasid,
        privileged,
        address,
        ..
    } = request(random);
    PageRequest {
        device,
        pasid,
        privileged,
        address,
        read: random.once_in(2),
        write: random.once_in(2),
        execute: random.once_in(2),
        last: random.once_in(2),
        group: random.bits() as u16,
    }
}

/// An access that the specification defines.
fn register(random: &Random) -> (usize, usize) {
    let eight = [0, 16, 24, 40, 56, 96, 600, 608, 616, 760, 768, 1008];
    if random.once_in(3) {
        (eight[random.below(12) as usize], 8)
    } else {
        let range = [0..96, 600..628, 760..1024][random.below(3) as usize].clone();
        let words = (range.end - range.start) as u64 / 4;
        (range.start + 4 * random.below(words) as usize, 4)
    }
}

#[test]
fn random_writes_and_requests_do_no_harm() {
    for seed in 0..SEEDS {
        let policy = [Policy::STRICT, Policy::FREE][seed as usize % 2];
        let configuration = Configuration {
            msi_flat: seed % 3 != 0,
            ..Configuration::default()
        };
        let bench = Bench::off(configuration, policy, seed, 1 + seed % 3);
        bench.turn_on();
        let mailboxes: Vec<Arc<_>> = (0..70).map(|device| bench.connect(device)).collect();
        let random = Random::new(seed);
        for _ in 0..MOVES {
            match random.below(12) {
                0 => {
                    let (offset, width) = register(&random);
                    bench.iommu.write(offset, width, word(&random));
                    bench.iommu.read(offset, width);
                }
                1..5 => {
                    let at = 0x8000_0000 + (random.below(64) << 12) + 8 * random.below(16);
                    bench.store(at, &[word(&random)]);
                }
                5 => bench.write32(CQT, random.below(128) as u32),
                6 => drop(bench.iommu.translate_for_device(&request(&random)).ok()),
                7 => bench.iommu.page_request(page_request(&random)),
                8 => {
                    let itags = random.bits() as u32;
                    let device = random.below(70) as u32;
                    bench.iommu.invalidation_completed(device, itags);
                }
                9 if random.once_in(8) => bench.iommu.time_out_devices(),
                9 => bench.iommu.speculate(),
                10 => {
                    // What has stopped goes on.
                    for register in [CQCSR, FQCSR, PQCSR] {
                        bench.write32(register, 0xf03);
                    }
                    let mode = bench.read64(DDTP) & 0xf;
                    if mode == 0 {
                        bench.write64(DDTP, bench.ddt >> 12 << 10 | (2 + random.below(3)));
                    }
                }
                _ => drop(bench.iommu.translate(&request(&random)).ok()),
            }
            bench.machine.step();
        }
        bench.iommu.take_interrupts();
        drop(mailboxes);
    }
}
