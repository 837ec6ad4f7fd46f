//! Arm SMMUv3, chapter 4 of IHI 0070, for a queue of the non-secure state.

use super::{Bench, EVERYTHING, Effect, Limits, MOST, Reading, admits, block, compare};
use iommu_core::guest::Guest;
use iommu_model::ModelPlatform;
use iommu_model::smmuv3::{Configuration, Smmu};
use iommu_smmuv3::Unit;
use iommu_smmuv3::guest::{GuestCommand, validate};

struct Hardware {
    ranges: bool,
    asid_bits: u32,
    limits: Limits,
}

const FULL: Hardware = Hardware {
    ranges: true,
    asid_bits: 16,
    limits: Limits {
        tag_bits: 16,
        pasid_bits: 20,
        spaces_are_pasids: false,
        drains: [false; 2],
    },
};

const LEAST: Hardware = Hardware {
    ranges: false,
    asid_bits: 8,
    limits: Limits {
        tag_bits: 8,
        pasid_bits: 8,
        spaces_are_pasids: false,
        drains: [false; 2],
    },
};

type Driven = Bench<Unit<ModelPlatform>>;

fn bench(configuration: Configuration) -> Driven {
    Bench::new(
        |machine| Smmu::new(machine, configuration),
        |parts| Unit::probe(parts).expect("the SMMU comes up"),
    )
}

thread_local! {
    static BENCHES: [Driven; 2] = [
        bench(Configuration::default()),
        bench(Configuration {
            asid_16: false,
            vmid_16: false,
            range_invalidation: false,
            substream_bits: 8,
            ..Configuration::default()
        }),
    ];
}

pub fn run(guest: &Guest<'_>, least: bool, data: &[u8]) {
    let hardware = if least { &LEAST } else { &FULL };
    let (chunks, _) = data.as_chunks::<16>();
    let commands = chunks
        .iter()
        .take(MOST)
        .map(|bytes| GuestCommand::from(*bytes));
    let commands: Vec<_> = commands.collect();
    BENCHES.with(|benches| {
        let bench = &benches[usize::from(least)];
        let is_legal = |command: &GuestCommand| {
            let result = validate(*command, guest, bench.unit.capabilities()).and_then(admits);
            compare(guest, &hardware.limits, command.words(), result, |words| {
                read(words, hardware)
            })
        };
        let legal: Vec<_> = commands.iter().map(is_legal).collect();
        let first = legal.iter().position(|legal| !legal);
        let executed = bench.unit.invalidate_for_guest(guest, &commands);
        bench.check(first.unwrap_or(legal.len()), legal.len(), executed);
    });
}

fn read(words: [u64; 2], hardware: &Hardware) -> Reading {
    match words[0] as u8 {
        0x05 | 0x06 | 0x10..=0x13 | 0x30 | 0x40 => {
            effect(words, hardware).map_or(Reading::Illegal, Reading::Does)
        }
        0x01..=0x04 | 0x07 | 0x20..=0x23 | 0x28 | 0x2a | 0x41 | 0x44..=0x46 | 0x70 | 0x73 => {
            Reading::HostOnly
        }
        _ => Reading::Unknown,
    }
}

/// What a command does; `None` if the SMMU may raise CERROR_ILL for it.
fn effect([low, high]: [u64; 2], hardware: &Hardware) -> Option<Effect> {
    let clear =
        |in_low: u64, in_high: u64| (low & in_low == 0 && high & in_high == 0).then_some(());
    let (asid, vmid, stream) = ((low >> 48) as u32, low >> 32 & 0xffff, (low >> 32) as u32);
    let substream = (low >> 12 & 0xf_ffff) as u32;
    let leaf_only = high & 1 == 1;
    let tlb = |vm: Option<u64>, space, pages, leaf_only| Effect::Tlb {
        vm: vm.map(|vm| vm as u32),
        space,
        pages,
        leaf_only,
        drains: [false; 2],
    };
    let asid_fits = (asid >> hardware.asid_bits == 0).then_some(());
    let all = (0, EVERYTHING);
    Some(match low & 0xff {
        0x05 => {
            clear(0xf00, !1)?;
            Effect::Structure {
                device: stream,
                process: Some(substream),
                leaf_only,
            }
        }
        0x06 => {
            clear(0xffff_ff00, !0)?;
            Effect::Structure {
                device: stream,
                process: None,
                leaf_only: false,
            }
        }
        0x10 => {
            clear(0xffff_0000_ffff_ff00, !0)?;
            tlb(Some(vmid), None, all, false)
        }
        0x11 => {
            clear(0xffff_ff00, !0)?;
            asid_fits?;
            tlb(Some(vmid), Some(asid), all, false)
        }
        0x12 => {
            clear(0xfe0e_0f00, 0xfe)?;
            asid_fits?;
            tlb(
                Some(vmid),
                Some(asid),
                pages(low, high, hardware)?,
                leaf_only,
            )
        }
        0x13 => {
            clear(0xffff_0000_fe0e_0f00, 0xfe)?;
            tlb(Some(vmid), None, pages(low, high, hardware)?, leaf_only)
        }
        0x30 => {
            clear(!0xff, !0)?;
            tlb(None, None, all, false)
        }
        _ => {
            clear(0x500, 0xfc0)?;
            let order = (high & 0x3f) as u32;
            let has_substream = low >> 11 & 1 == 1;
            (order <= 52).then_some(Effect::DeviceTlb {
                device: stream,
                pasid: has_substream.then_some(substream),
                every_pasid: low >> 9 & 1 == 1,
                pages: block(high >> 12, order),
            })?
        }
    })
}

/// 4.4.1.1. The level hint is taken for what it is: it lets hardware do less. A single granule is named by
/// any address in it, as an invalidation by address is.
fn pages(low: u64, high: u64, hardware: &Hardware) -> Option<(u64, u128)> {
    let (num, scale) = (low >> 12 & 0x1f, low >> 20 & 0x1f);
    let (tg, ttl) = (high >> 10 & 3, high >> 8 & 3);
    let page = high >> 12;
    if tg == 0 || !hardware.ranges {
        return ([num, scale, tg, ttl] == [0; 4]).then_some((page, 1));
    }
    let log2_pages = [0, 0, 2, 4][tg as usize];
    if num == 0 && scale == 0 {
        // A hint for level 1 of 16 KiB is none.
        let is_hint = ttl != 0 && (tg, ttl) != (2, 1);
        return is_hint.then_some((page, 1));
    }
    let first = page >> log2_pages << log2_pages;
    Some((first, u128::from(num + 1) << (scale + log2_pages)))
}
