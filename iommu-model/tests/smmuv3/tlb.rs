//! Each TLB invalidation takes exactly what it must (4.4).

use crate::raw::{NESTED, Raw, STAGE_2, first_word, forget_stream, offset, read_of, second_stage};
use crate::smmuv3_bench::{BLOCK, Bench, PAGE, Table};
use iommu_model::Hardware;
use iommu_model::smmuv3::Configuration;

/// StreamIDs: ASID 5 and 6 with VMID 0, ASID 5 with VMID 7, stage 2 alone with VMID 7, EL2.
const FIVE: u32 = 1;
const SIX: u32 = 2;
const GUEST: u32 = 3;
const SECOND: u32 = 4;
const EL2: u32 = 5;

const A: u64 = 0x10_0000_0000;
const B: u64 = A + 0x1000;
const BLOCK_AT: u64 = A + 0x4000_0000;
const GLOBAL_AT: u64 = A + 0x8000_0000;
const NON_GLOBAL: u64 = 1 << 11;

/// What is in the TLB before each command: a name, whose it is, its address.
const ENTRIES: [(&str, u32, u64); 9] = [
    ("5a", FIVE, A),
    ("5b", FIVE, B),
    ("5block", FIVE, BLOCK_AT),
    ("global", FIVE, GLOBAL_AT),
    ("6a", SIX, A),
    ("guest a", GUEST, A),
    ("ipa a", SECOND, A),
    ("ipa b", SECOND, B),
    ("el2 a", EL2, A),
];

/// Fills the TLB, changes every mapping, executes the command; the names of the entries that are
/// gone.
fn taken_by(command: [u64; 2]) -> Vec<&'static str> {
    let raw = Raw::new(Configuration::default());
    let bench = &raw.bench;
    let table = Table::new(bench);
    let (old, new) = (bench.memory().take(4 << 20, 2 << 20).unwrap(), 2 << 20);
    let map = |shift: u64| {
        table.map(A, old + shift);
        table.map(B, old + shift);
        table.set(BLOCK_AT, 2, (old + shift) | BLOCK);
        table.set(GLOBAL_AT, 3, ((old + shift) | PAGE) & !NON_GLOBAL);
    };
    map(0);
    raw.stage_1(FIVE, table.root, 5, 0);
    raw.stage_1(SIX, table.root, 6, 0);
    raw.stage_1(GUEST, table.root, 5, 7);
    let context = raw.stage_1(EL2, table.root, 0, 0);
    // STRW = EL2.
    raw.stream(EL2, &[0b1011 | context, 0b10 << 30]);
    // Stage 2 starts at level 1, in the table behind the first descriptor of the root.
    let level_1 = bench.memory().cpu_load(table.root) & 0xffff_ffff_f000;
    raw.stream(SECOND, &[STAGE_2, 0, second_stage(7), level_1]);
    let translated = |stream, address| {
        let read = bench.smmu.translate(&read_of(stream, address));
        read.unwrap_or_else(|refusal| panic!("{stream} {address:#x}: {refusal:?}"))
            .address
    };
    for (_, stream, address) in ENTRIES {
        assert_eq!(translated(stream, address), old, "{stream} {address:#x}");
    }
    map(new);
    for (name, stream, address) in ENTRIES {
        assert_eq!(translated(stream, address), old, "{name} is kept");
    }
    raw.run(command);
    ENTRIES
        .into_iter()
        .filter(|&(_, stream, address)| translated(stream, address) == old + new)
        .map(|(name, ..)| name)
        .collect()
}

#[test]
fn each_command_takes_its_own() {
    const ASID_5: u64 = 5 << 48;
    const VMID_7: u64 = 7 << 32;
    let cases: [(&str, [u64; 2], &[&str]); 17] = [
        ("NH_ALL", [0x10, 0], &["5a", "5b", "5block", "global", "6a"]),
        ("NH_ALL guest", [0x10 | VMID_7, 0], &["guest a"]),
        ("NH_ASID", [0x11 | ASID_5, 0], &["5a", "5b", "5block"]),
        ("NH_ASID guest", [0x11 | ASID_5 | VMID_7, 0], &["guest a"]),
        ("NH_VA", [0x12 | ASID_5, A], &["5a"]),
        ("NH_VA leaf", [0x12 | ASID_5, A | 1], &["5a"]),
        (
            "NH_VA in a block",
            [0x12 | ASID_5, BLOCK_AT + 0x5000],
            &["5block"],
        ),
        ("NH_VA global", [0x12 | 9 << 48, GLOBAL_AT], &["global"]),
        ("NH_VAA", [0x13, A], &["5a", "6a"]),
        ("EL2_ALL", [0x20, 0], &["el2 a"]),
        ("EL2_VA", [0x22, A], &["el2 a"]),
        ("EL2_VAA", [0x23, B], &[]),
        ("EL2_ASID", [0x21, 0], &[]),
        ("S2_IPA", [0x2a | VMID_7, B], &["ipa b"]),
        ("S2_IPA other", [0x2a, A], &[]),
        (
            "S12_VMALL",
            [0x28 | VMID_7, 0],
            &["guest a", "ipa a", "ipa b"],
        ),
        (
            "NSNH_ALL",
            [0x30, 0],
            &[
                "5a", "5b", "5block", "global", "6a", "guest a", "ipa a", "ipa b",
            ],
        ),
    ];
    for (name, command, expected) in cases {
        assert_eq!(taken_by(command), expected, "{name}");
    }
}

#[test]
fn ranges_take_exactly_their_pages_and_levels() {
    const NH_VA_5: u64 = 0x12 | 5 << 48;
    const TG_4K: u64 = 1 << 10;
    const fn ttl(level: u64) -> u64 {
        level << 8
    }
    const fn pages(num: u64, scale: u64) -> u64 {
        (num - 1) << 12 | scale << 20
    }
    let cases: [(&str, [u64; 2], &[&str]); 10] = [
        (
            "two pages",
            [NH_VA_5 | pages(2, 0), A | TG_4K],
            &["5a", "5b"],
        ),
        (
            "one page at level 3",
            [NH_VA_5, A | TG_4K | ttl(3)],
            &["5a"],
        ),
        (
            "31 pages that end at B",
            [NH_VA_5 | pages(31, 0), (A - 30 * 0x1000) | TG_4K],
            &["5a"],
        ),
        ("from B on", [NH_VA_5 | pages(32, 5), B | TG_4K], &["5b"]),
        (
            "3 GiB",
            [NH_VA_5 | pages(3, 18), A | TG_4K],
            &["5a", "5b", "5block", "global"],
        ),
        (
            "3 GiB of pages",
            [NH_VA_5 | pages(3, 18), A | TG_4K | ttl(3)],
            &["5a", "5b", "global"],
        ),
        (
            "3 GiB of blocks",
            [NH_VA_5 | pages(3, 18), A | TG_4K | ttl(2)],
            &["5block"],
        ),
        (
            "3 GiB of huge blocks",
            [NH_VA_5 | pages(3, 18), A | TG_4K | ttl(1)],
            &[],
        ),
        ("another granule", [NH_VA_5 | pages(2, 0), A | 3 << 10], &[]),
        (
            "a misaligned block",
            [NH_VA_5, (BLOCK_AT + 0x1000) | TG_4K | ttl(2)],
            &[],
        ),
    ];
    for (name, command, expected) in cases {
        assert_eq!(taken_by(command), expected, "{name}");
    }
}

/// The walk caches: a table that was replaced is still walked until a command that is not for
/// leaves only names it, or the whole address space.
#[test]
fn pointers_to_tables_stay_until_they_are_named() {
    let cases = [
        ([0x12 | 5 << 48, A], true),
        ([0x12 | 5 << 48, A | 1], false),
        ([0x12 | 6 << 48, A], false),
        ([0x13, A], true),
        ([0x11 | 5 << 48, 0], true),
        ([0x10, 0], true),
        // TTL 2: tables of level 0 and 1 go, that of level 2 stays.
        ([0x12 | 5 << 48, A | 1 << 10 | 2 << 8], false),
        ([0x12 | 5 << 48, A | 1 << 10 | 3 << 8], true),
        ([0x2a, A], false),
    ];
    for (command, gone) in cases {
        let raw = Raw::new(Configuration::default());
        let bench = &raw.bench;
        let table = Table::new(bench);
        let (old, new) = (bench.page(), bench.page());
        table.map(A, old);
        raw.stage_1(FIVE, table.root, 5, 0);
        let read = || bench.smmu.translate(&read_of(FIVE, A)).unwrap().address;
        assert_eq!(read(), old);
        let pages = bench.page();
        bench.store(pages + 8 * (A >> 12 & 0x1ff), new | PAGE);
        table.set(A, 2, pages | 0b11);
        raw.run(command);
        // The leaf in any case.
        raw.run([0x12 | 5 << 48, A | 1]);
        assert_eq!(read(), if gone { new } else { old }, "{command:#x?}");
    }
}

/// Combined entries are not found by their intermediate address (4.4.3.1).
#[test]
fn a_stage_2_invalidation_leaves_combined_translations() {
    let raw = Raw::new(Configuration::default());
    let bench = &raw.bench;
    let (first, second) = (Table::new(bench), Table::new(bench));
    let context = bench.memory().take(64, 64).unwrap();
    let ipa = 0x2000_0000;
    // Stage 1 and its context descriptor lie at their physical addresses.
    second.set(0x4000_0000, 1, 0x4000_0000 | 0x7fd);
    let (old, new) = (bench.page(), bench.page());
    let leaf = |frame| frame | 0x7ff;
    second.set(ipa, 3, leaf(old));
    first.map(A, ipa);
    let words = [first_word(5), first.root, 0, 0xff];
    for (word, at) in words.into_iter().zip((context..).step_by(8)) {
        bench.store(at, word);
    }
    let level_1 = bench.memory().cpu_load(second.root) & 0xffff_ffff_f000;
    raw.stream(6, &[NESTED | context, 0, second_stage(7), level_1]);
    let read = || bench.smmu.translate(&read_of(6, A + 0x10)).unwrap().address;
    assert_eq!(read(), old + 0x10);
    second.set(ipa, 3, leaf(new));
    raw.run([0x2a | 7 << 32, ipa]);
    assert_eq!(read(), old + 0x10, "the combined entry is still there");
    raw.run([0x10 | 7 << 32, 0]);
    assert_eq!(read(), new + 0x10);
}

#[test]
fn configuration_is_no_part_of_the_tlb_nor_the_tlb_of_it() {
    let raw = Raw::new(Configuration::default());
    let bench = &raw.bench;
    let table = Table::new(bench);
    let (old, new) = (bench.page(), bench.page());
    table.map(A, old);
    raw.stage_1(FIVE, table.root, 5, 0);
    let read = || bench.smmu.translate(&read_of(FIVE, A)).unwrap().address;
    assert_eq!(read(), old);
    table.map(A, new);
    raw.run(forget_stream(FIVE));
    assert_eq!(read(), old, "CFGI leaves the TLB");
    raw.stream(FIVE, &[0; 8]);
    raw.run([0x30, 0]);
    assert_eq!(read(), new, "TLBI leaves the configuration");
    // Nor does turning translation off take anything.
    raw.write(offset::CR0, 0b1000);
    raw.write(offset::CR0, 0b1001);
    table.map(A, old);
    assert_eq!(read(), new);
    raw.run(forget_stream(FIVE));
    assert!(bench.smmu.translate(&read_of(FIVE, A)).is_err());
}

#[test]
fn contiguous_pages_are_fetched_together_and_go_one_by_one() {
    let raw = Raw::new(Configuration::default());
    let bench = &raw.bench;
    let table = Table::new(bench);
    let frames = bench.memory().take(0x2_0000, 0x1_0000).unwrap();
    let map = |base: u64| {
        for page in 0..16 {
            let (offset, contiguous) = (0x1000 * page, 1 << 52);
            table.set(A + offset, 3, (base + offset) | PAGE | contiguous);
        }
    };
    map(frames);
    raw.stage_1(FIVE, table.root, 5, 0);
    let read = |page: u64| {
        let request = read_of(FIVE, A + 0x1000 * page);
        bench.smmu.translate(&request).unwrap().address
    };
    assert_eq!(read(3), frames + 0x3000);
    map(frames + 0x1_0000);
    assert_eq!(read(9), frames + 0x9000, "it came with page 3");
    raw.run([0x12 | 5 << 48, (A + 0x9000) | 1]);
    assert_eq!(read(3), frames + 0x3000, "only page 9 was named");
    assert_eq!(read(9), frames + 0x1_9000);
}

#[test]
fn forgetful_hardware_forgets() {
    let policy = iommu_model::Policy {
        forgetful: true,
        ..iommu_model::Policy::STRICT
    };
    let raw = Raw::with_policy(Configuration::default(), policy, 1);
    let bench: &Bench = &raw.bench;
    let table = Table::new(bench);
    let (old, new) = (bench.page(), bench.page());
    table.map(A, old);
    raw.stage_1(FIVE, table.root, 5, 0);
    let read = || bench.smmu.translate(&read_of(FIVE, A)).unwrap().address;
    assert_eq!(read(), old);
    table.map(A, new);
    assert!((0..1000).any(|_| read() == new));
}
