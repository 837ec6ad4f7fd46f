//! Intel VT-d, section 6.5.2 of its specification.

use super::{
    Bench, EVERYTHING, Effect, Limits, MOST, Pages, Reading, admits, block, compare, is_canonical,
    sized,
};
use iommu_core::guest::Guest;
use iommu_model::ModelPlatform;
use iommu_model::vtd::{Configuration, Vtd};
use iommu_vtd::Unit;
use iommu_vtd::guest::{GuestCommand, validate};

struct Hardware {
    address_bits: u32,
    largest_order: u32,
    throttle: bool,
    limits: Limits,
}

const FULL: Hardware = Hardware {
    address_bits: 57,
    largest_order: 18,
    throttle: false,
    limits: Limits {
        tag_bits: 16,
        pasid_bits: 20,
        spaces_are_pasids: true,
        drains: [true; 2],
    },
};

const LEAST: Hardware = Hardware {
    address_bits: 48,
    largest_order: 9,
    throttle: true,
    limits: Limits {
        tag_bits: 8,
        pasid_bits: 12,
        spaces_are_pasids: true,
        drains: [false; 2],
    },
};

type Driven = Bench<Unit<ModelPlatform>>;

fn bench(configuration: Configuration) -> Driven {
    Bench::new(
        |machine| Vtd::new(machine, configuration),
        |parts| Unit::probe(parts).expect("the unit comes up"),
    )
}

thread_local! {
    static BENCHES: [Driven; 2] = [
        bench(Configuration::default()),
        bench(Configuration {
            levels: 4,
            largest_order: 9,
            device_tlb_throttle: true,
            domains: 2,
            pasid_bits: 12,
            drain: false,
            ..Configuration::default()
        }),
    ];
}

pub fn run(guest: &Guest<'_>, least: bool, narrow: bool, data: &[u8]) {
    let hardware = if least { &LEAST } else { &FULL };
    let commands: Vec<GuestCommand> = if narrow {
        let (chunks, _) = data.as_chunks::<16>();
        chunks
            .iter()
            .take(MOST)
            .map(|bytes| (*bytes).into())
            .collect()
    } else {
        let (chunks, _) = data.as_chunks::<32>();
        chunks
            .iter()
            .take(MOST)
            .map(|bytes| (*bytes).into())
            .collect()
    };
    BENCHES.with(|benches| {
        let bench = &benches[usize::from(least)];
        let is_legal = |command: &GuestCommand| {
            let result = validate(*command, guest, bench.unit.capabilities()).and_then(admits);
            if let Ok(host) = &result {
                check_host_fields(host.words(), hardware);
            }
            // The host's own queue has descriptors of 256 bits.
            let is_guests = |words: [u64; 4]| words == command.words();
            compare(
                guest,
                &hardware.limits,
                command.words(),
                result,
                |words| match words[0] & 0xe0f {
                    6 | 8 if narrow && is_guests(words) => Reading::Illegal,
                    _ => read(words, hardware),
                },
            )
        };
        let legal: Vec<_> = commands.iter().map(is_legal).collect();
        let first = legal.iter().position(|legal| !legal);
        let executed = bench.unit.invalidate_for_guest(guest, &commands);
        bench.check(first.unwrap_or(legal.len()), legal.len(), executed);
    });
}

/// MIP is 0, and PFSID the source-id where there is one: every device is a physical function.
fn check_host_fields([low, ..]: [u64; 4], hardware: &Hardware) {
    let (source_id, mip) = match low & 0xf {
        3 => (low >> 32 & 0xffff, low >> 16 & 0x1f),
        8 => (low >> 16 & 0xffff, low >> 4 & 0x1f),
        _ => return,
    };
    let pfsid = low >> 12 & 0xf | low >> 52 << 4;
    let expected = if hardware.throttle { source_id } else { 0 };
    assert_eq!((mip, pfsid), (0, expected), "{low:x}");
}

fn read(words: [u64; 4], hardware: &Hardware) -> Reading {
    match words[0] & 0xe0f {
        2 | 3 | 6 | 8 => effect(words, hardware).map_or(Reading::Illegal, Reading::Does),
        1 | 4 | 5 | 7 | 9 => Reading::HostOnly,
        _ => Reading::Unknown,
    }
}

/// What a descriptor does; `None` if it stops the queue. The reserved bits are those that QEMU's decoder
/// checks.
fn effect([low, high, third, fourth]: [u64; 4], hardware: &Hardware) -> Option<Effect> {
    let pfsid = if hardware.throttle {
        0
    } else {
        0xfff0_0000_0000_f000
    };
    let clear = |in_low: u64, in_high: u64| {
        let is_clear = low & in_low == 0 && high & in_high == 0 && third | fourth == 0;
        is_clear.then_some(())
    };
    let (granularity, pasid) = (low >> 4 & 3, (low >> 32 & 0xf_ffff) as u32);
    let domain = (low >> 16 & 0xffff) as u32;
    let (all, hint) = ((0, EVERYTHING), high >> 6 & 1 == 1);
    Some(match low & 0xf {
        2 => {
            clear(0xffff_ffff_0000_f100, 0xf80)?;
            let (vm, pages, leaf_only) = match granularity {
                1 => (None, all, false),
                2 => (Some(domain), all, false),
                3 => (Some(domain), masked(high, hardware)?, hint),
                _ => return None,
            };
            Effect::Tlb {
                vm,
                space: None,
                pages,
                leaf_only,
                drains: [low >> 7 & 1 == 1, low >> 6 & 1 == 1],
            }
        }
        6 => {
            clear(0xfff0_0000_0000_f1c0, 0xf80)?;
            let (pages, leaf_only) = match granularity {
                2 => (all, false),
                3 => (masked(high, hardware)?, hint),
                _ => return None,
            };
            let is_legal = granularity == 2 || is_canonical(pages, hardware.address_bits);
            // Reads and writes are always drained: there is no bit for it.
            is_legal.then_some(Effect::Tlb {
                vm: Some(domain),
                space: Some(pasid),
                pages,
                leaf_only,
                drains: [false; 2],
            })?
        }
        3 => {
            clear(0x000f_0000_ffe0_01f0 | pfsid, 0xffe)?;
            Effect::DeviceTlb {
                device: (low >> 32 & 0xffff) as u32,
                pasid: None,
                every_pasid: false,
                pages: sized(high >> 12, high & 1 == 1)?,
            }
        }
        _ => {
            clear(pfsid, 0x7fe)?;
            Effect::DeviceTlb {
                device: domain,
                pasid: Some(pasid),
                every_pasid: high & 1 == 1,
                pages: sized(high >> 12, high >> 11 & 1 == 1)?,
            }
        }
    })
}

/// ADDR and AM.
fn masked(high: u64, hardware: &Hardware) -> Option<Pages> {
    let order = (high & 0x3f) as u32;
    (order <= hardware.largest_order).then(|| block(high >> 12, order))
}
