//! From ranges to commands, doorbells and waits.

use crate::fake::{Bench, CAPABILITIES, NL, S};
use crate::{PROBE_COMMANDS, Script};
use iommu_core::Range;
use iommu_core::cover::Costs;
use iommu_core::ids::{DeviceId, Pasid, Tag};
use iommu_core::iommu::Iommu;
use iommu_core::operation::{Invalidation, Levels, Target};

pub const IOTLB: Target = Target::Iotlb {
    tag: Tag(0x2a),
    pasid: Pasid::UNTAGGED,
};
const TAG_WIDE: (u64, u64) = (1 << 32 | 0x2a << 12 | 1, 0);
const ONE_PAGE: u64 = 1 << 32 | 0x2a << 12 | 1 << 10 | 1;
const EVERYTHING: (u64, u64) = (1, 0);
const NON_LEAF: u64 = 1 << 34;

pub fn device_tlb(device: u32, pasid: u32) -> Target {
    Target::DeviceTlb {
        device: DeviceId(device),
        pasid: Pasid::new(pasid).unwrap(),
    }
}

pub fn range(start: u64, end: u64) -> Range {
    Range::new(start, end).unwrap()
}

/// What a submission and its wait put on the wire.
fn sent(capabilities: u64, targets: &[Target], range: Range, levels: Levels) -> Vec<Vec<u64>> {
    sent_at(Costs::DEFAULT, capabilities, targets, range, levels)
}

fn sent_at(
    costs: Costs,
    capabilities: u64,
    targets: &[Target],
    range: Range,
    levels: Levels,
) -> Vec<Vec<u64>> {
    let bench = Bench::new(capabilities);
    let unit = bench.unit().with_costs(costs);
    let invalidation = Invalidation {
        targets,
        range,
        levels,
    };
    let ticket = unit.submit(&invalidation).unwrap();
    let _completed = unit.wait(ticket).unwrap();
    let mut commands = bench.recorder.take_commands();
    let fence = commands.pop().unwrap();
    assert_eq!(fence[0] & 0xffff_ffff, 0x3402);
    commands
}

fn expect(capabilities: u64, targets: &[Target], of: Range, levels: Levels, to: &[(u64, u64)]) {
    let to: Vec<_> = to
        .iter()
        .map(|&(first, second)| vec![first, second])
        .collect();
    assert_eq!(
        sent(capabilities, targets, of, levels),
        to,
        "{of:?} {levels:?}"
    );
}

fn iotlb(capabilities: u64, of: Range, levels: Levels, to: &[(u64, u64)]) {
    expect(capabilities, &[IOTLB], of, levels, to);
}

#[test]
fn a_page_is_one_command_one_doorbell_and_one_wait() {
    let bench = Bench::new(CAPABILITIES);
    let unit = bench.unit();
    let ticket = unit
        .submit(&Invalidation {
            targets: &[IOTLB],
            range: range(0x7_5000, 0x7_6000),
            levels: Levels::LeafOnly,
        })
        .unwrap();
    let expected = Script::after(PROBE_COMMANDS)
        .command(ONE_PAGE, 0x7_5000 >> 2)
        .posted();
    assert_eq!(bench.recorder.take(), expected.events);
    let _completed = unit.wait(ticket).unwrap();
}

#[test]
fn leaves_go_page_by_page_up_to_a_limit() {
    let leaf = Levels::LeafOnly;
    let two = [(ONE_PAGE, 0x1000 >> 2), (ONE_PAGE, 0x2000 >> 2)];
    iotlb(CAPABILITIES, range(0x1fff, 0x2001), leaf, &two);
    let pages: Vec<_> = (0..64).map(|page| (ONE_PAGE, page << 10)).collect();
    iotlb(CAPABILITIES, range(0, 64 << 12), leaf, &pages);
    iotlb(CAPABILITIES, range(0, (64 << 12) + 1), leaf, &[TAG_WIDE]);
    iotlb(CAPABILITIES, Range::ALL, leaf, &[TAG_WIDE]);
}

/// An address reaches leaf entries only, unless NL says otherwise.
#[test]
fn when_tables_changed_the_whole_tag_goes_unless_an_address_reaches_them() {
    let page = range(0x5000, 0x6000);
    iotlb(CAPABILITIES, page, Levels::All, &[TAG_WIDE]);
    iotlb(CAPABILITIES | S, page, Levels::All, &[TAG_WIDE]);
    let reached = (ONE_PAGE | NON_LEAF, 0x5000 >> 2);
    iotlb(CAPABILITIES | NL, page, Levels::All, &[reached]);
    iotlb(CAPABILITIES | NL | S, page, Levels::All, &[reached]);
    let leaf = (ONE_PAGE, 0x5000 >> 2);
    iotlb(CAPABILITIES | NL, page, Levels::LeafOnly, &[leaf]);
    iotlb(
        CAPABILITIES | NL,
        range(0, 65 << 12),
        Levels::All,
        &[TAG_WIDE],
    );
    iotlb(CAPABILITIES | NL, Range::ALL, Levels::All, &[TAG_WIDE]);
}

/// ADDR[63:12] is in bits 61:10, the range bit in bit 9.
#[test]
fn aligned_blocks_cover_a_range() {
    let block = |address: u64, ones: u64| (ONE_PAGE, (address >> 12 | ones) << 10 | 1 << 9);
    let leaf = Levels::LeafOnly;
    iotlb(
        CAPABILITIES | S,
        range(0x20_0000, 0x40_0000),
        leaf,
        &[block(0x20_0000, 0xff)],
    );
    iotlb(
        CAPABILITIES | S,
        range(0x3000, 0x6000),
        leaf,
        &[(ONE_PAGE, 0x3000 >> 2), block(0x4000, 0)],
    );
    let half = range(0, 1 << 38);
    iotlb(CAPABILITIES | S, half, leaf, &[block(0, (1 << 25) - 1)]);
    iotlb(CAPABILITIES | S, range(0, (1 << 38) + 1), leaf, &[TAG_WIDE]);
    iotlb(CAPABILITIES | S, Range::ALL, leaf, &[TAG_WIDE]);
    let (first, second) = block(0x4000_0000, 0x1_ffff);
    iotlb(
        CAPABILITIES | S | NL,
        range(0x4000_0000, 0x8000_0000),
        Levels::All,
        &[(first | NON_LEAF, second)],
    );
}

#[test]
fn the_costs_decide_how_precise_a_list_is() {
    let count = |costs, capabilities, target, pages: u64| {
        let of = range(0x7000, 0x7000 + (pages << 12));
        sent_at(costs, capabilities, &[target], of, Levels::LeafOnly).len()
    };
    let dear = Costs {
        command: 1000,
        ..Costs::DEFAULT
    };
    // 1 + 8 pages below page 16 and 4 + 2 above: two pages too many save a block, seven another.
    let exact = Costs {
        excess_page: 26,
        ..Costs::DEFAULT
    };
    for target in [IOTLB, device_tlb(0x1234, 5)] {
        assert_eq!(count(exact, CAPABILITIES | S, target, 15), 4);
        assert_eq!(count(Costs::DEFAULT, CAPABILITIES | S, target, 15), 3);
        assert_eq!(count(dear, CAPABILITIES | S, target, 15), 2);
    }
    assert_eq!(count(dear, CAPABILITIES, IOTLB, 3), 3);
    let of = range(0x7000, 0xb000);
    let wide = sent_at(dear, CAPABILITIES, &[IOTLB], of, Levels::LeafOnly);
    assert_eq!(wide, [vec![TAG_WIDE.0, TAG_WIDE.1]]);
}

/// PSCV = 1 spares global mappings, and the kernel's half may have them.
#[test]
fn a_range_of_the_kernels_half_goes_for_every_tag() {
    let kernel = u64::MAX << 38;
    for levels in [Levels::LeafOnly, Levels::All] {
        for capabilities in [CAPABILITIES, CAPABILITIES | NL | S] {
            iotlb(
                capabilities,
                range(kernel, kernel + 0x1000),
                levels,
                &[EVERYTHING],
            );
            iotlb(capabilities, range(0x1000, u64::MAX), levels, &[EVERYTHING]);
        }
    }
    let below = range((1 << 63) - 0x1000, 1 << 63);
    iotlb(
        CAPABILITIES | NL | S,
        below,
        Levels::All,
        &[(ONE_PAGE | NON_LEAF, ((1 << 63) - 0x1000) >> 2)],
    );
}

#[test]
fn a_device_tlb_is_told_in_blocks() {
    let first = 0x1234 << 40 | 4;
    let tagged = first | 1 << 32 | 5 << 12;
    let leaf = Levels::LeafOnly;
    let cases: [(Range, &[u64]); 4] = [
        (range(0x5000, 0x6000), &[0x5000]),
        (range(0x3000, 0x6000), &[0x3000, 0x4800]),
        (range(0x20_0000, 0x40_0000), &[0x2f_f800]),
        (Range::ALL, &[0x7fff_ffff_ffff_f800]),
    ];
    for (of, payloads) in cases {
        for (pasid, first) in [(0, first), (5, tagged)] {
            let to: Vec<_> = payloads.iter().map(|payload| (first, *payload)).collect();
            expect(CAPABILITIES, &[device_tlb(0x1234, pasid)], of, leaf, &to);
            expect(
                CAPABILITIES,
                &[device_tlb(0x1234, pasid)],
                of,
                Levels::All,
                &to,
            );
        }
    }
}

/// No fence keeps an `ATS.INVAL` behind it from running early, so a wait does.
#[test]
fn the_iotlb_is_done_before_a_device_tlb_is_told() {
    let bench = Bench::new(CAPABILITIES);
    let unit = bench.unit();
    let targets = [IOTLB, device_tlb(0x1234, 5), device_tlb(0x1235, 0)];
    let ticket = unit
        .submit(&Invalidation {
            targets: &targets,
            range: range(0x5000, 0x6000),
            levels: Levels::All,
        })
        .unwrap();
    let expected = Script::after(PROBE_COMMANDS)
        .command(TAG_WIDE.0, TAG_WIDE.1)
        .done()
        .command(0x1234 << 40 | 1 << 32 | 5 << 12 | 4, 0x5000)
        .command(0x1235 << 40 | 4, 0x5000)
        .posted();
    assert_eq!(bench.recorder.take(), expected.events);
    let _completed = unit.wait(ticket).unwrap();
}

#[test]
fn more_targets_than_the_queue_holds_go_in_several_lists() {
    let bench = Bench::new(CAPABILITIES);
    let unit = bench.unit();
    let submit = |targets: &[Target], pages: u64| {
        let ticket = unit
            .submit(&Invalidation {
                targets,
                range: range(0x3000, 0x3000 + (pages << 12)),
                levels: Levels::LeafOnly,
            })
            .unwrap();
        let _completed = unit.wait(ticket).unwrap();
        let commands = bench.recorder.take_commands();
        let is_fence = |command: &&Vec<u64>| command[0] & 0x7f == 2;
        let fences = commands.iter().filter(is_fence).count();
        (commands.len() - fences, fences)
    };
    let devices: Vec<_> = (0..300).map(|device| device_tlb(device, 1)).collect();
    assert_eq!(submit(&devices, 3), (600, 3));
    assert_eq!(submit(&devices[..127], 3), (254, 1));
    let tags: Vec<_> = (0..8)
        .map(|tag| Target::Iotlb {
            tag: Tag(tag),
            pasid: Pasid::UNTAGGED,
        })
        .collect();
    // 64 pages each would take three lists: with 31 for each tag there is one, so the tags go whole.
    assert_eq!(submit(&tags, 31), (248, 1));
    assert_eq!(submit(&tags, 64), (8, 1));
    assert_eq!(submit(&[], 1), (0, 1));
}

#[test]
fn the_queue_wraps_around() {
    let bench = Bench::new(CAPABILITIES);
    let unit = bench.unit();
    let mut script = Script::after(PROBE_COMMANDS);
    for _ in 0..200 {
        let ticket = unit
            .submit(&Invalidation {
                targets: &[IOTLB],
                range: range(0x1000, 0x3000),
                levels: Levels::LeafOnly,
            })
            .unwrap();
        let _completed = unit.wait(ticket).unwrap();
        script = script
            .command(ONE_PAGE, 0x1000 >> 2)
            .command(ONE_PAGE, 0x2000 >> 2)
            .done();
    }
    assert_eq!(bench.recorder.take(), script.events);
    assert_eq!(bench.fake.state().cqh, (4 + 600) % 256);
}
