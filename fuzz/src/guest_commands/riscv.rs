//! RISC-V IOMMU 1.0, section "Command-Queue".

use super::{
    Bench, EVERYTHING, Effect, Limits, MOST, Reading, admits, compare, is_canonical, sized,
};
use iommu_core::guest::Guest;
use iommu_model::ModelPlatform;
use iommu_model::riscv::{Configuration, RiscvIommu};
use iommu_riscv::Unit;
use iommu_riscv::guest::{GuestCommand, validate};

struct Hardware {
    address_bits: u32,
    /// The extensions NL and S.
    extensions: bool,
    limits: Limits,
}

const FULL: Hardware = Hardware {
    address_bits: 57,
    extensions: true,
    limits: Limits {
        tag_bits: 16,
        pasid_bits: 20,
        spaces_are_pasids: false,
        drains: [false; 2],
    },
};

const LEAST: Hardware = Hardware {
    address_bits: 39,
    extensions: false,
    limits: Limits {
        tag_bits: 16,
        pasid_bits: 8,
        spaces_are_pasids: false,
        drains: [false; 2],
    },
};

type Driven = Bench<Unit<ModelPlatform>>;

fn bench(configuration: Configuration) -> Driven {
    Bench::new(
        |machine| RiscvIommu::new(machine, configuration),
        |parts| Unit::probe(parts).expect("the IOMMU comes up"),
    )
}

thread_local! {
    static BENCHES: [Driven; 2] = [
        bench(Configuration::default()),
        bench(Configuration {
            first_stage_modes: 1,
            pd17: false,
            pd20: false,
            nl: false,
            s: false,
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
    let [first, second] = words;
    match (first & 0x7f, first >> 7 & 7) {
        // IOFENCE.C that writes or interrupts; its reserved bits are looked at first.
        (2, 0) if first & 0xc00 != 0 && is_fence(first, second) => Reading::HostOnly,
        (1 | 2 | 4, 0) | (3, 1) => effect(words, hardware).map_or(Reading::Illegal, Reading::Does),
        (1, 1) | (3, 0) | (4, 1) => Reading::HostOnly,
        _ => Reading::Unknown,
    }
}

fn is_fence(first: u64, second: u64) -> bool {
    first & 0xffff_c000 == 0 && second >> 62 == 0
}

/// What a command does; `None` if it is illegal, or if the specification leaves open what it does.
fn effect([first, second]: [u64; 2], hardware: &Hardware) -> Option<Effect> {
    let bit = |number: u32| first >> number & 1 == 1;
    let clear = |in_first: u64, in_second: u64| {
        (first & in_first == 0 && second & in_second == 0).then_some(())
    };
    let process = (first >> 12 & 0xf_ffff) as u32;
    Some(match (first & 0x7f, first >> 7 & 7) {
        (1, _) => {
            clear(0xf000_0ff8_0000_0800, 0xc000_0000_0000_01ff)?;
            if !hardware.extensions {
                clear(1 << 34, 1 << 9)?;
            }
            let (pages, leaf_only) = if bit(10) {
                let pages = sized(second >> 10 & ((1 << 52) - 1), second >> 9 & 1 == 1)?;
                is_canonical(pages, hardware.address_bits).then_some((pages, !bit(34)))?
            } else {
                ((0, EVERYTHING), false)
            };
            Effect::Tlb {
                vm: bit(33).then_some((first >> 44 & 0xffff) as u32),
                space: bit(32).then_some(process),
                pages,
                leaf_only,
                drains: [false; 2],
            }
        }
        (2, _) => is_fence(first, second).then_some(Effect::Fence {
            drains: [bit(12), bit(13)],
        })?,
        (3, _) => {
            clear(0x0000_00fd_0000_0c00, !0)?;
            bit(33).then_some(Effect::Structure {
                device: (first >> 40) as u32,
                process: Some(process),
                leaf_only: true,
            })?
        }
        _ => {
            clear(0x0000_00fc_0000_0c00, 0x7fe)?;
            let segment = if bit(33) { first >> 56 } else { 0 };
            Effect::DeviceTlb {
                device: (segment << 16 | first >> 40 & 0xffff) as u32,
                pasid: bit(32).then_some(process),
                every_pasid: second & 1 == 1,
                pages: sized(second >> 12, second >> 11 & 1 == 1)?,
            }
        }
    })
}
