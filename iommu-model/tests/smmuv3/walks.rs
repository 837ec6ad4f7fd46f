//! Walks: permissions, ranges, access and dirty flags, one stage inside the other.

use crate::raw::{NESTED, Raw, STAGE_1, STAGE_2, first_word, second_stage};
use crate::smmuv3_bench::{ACCESSED, BASE, Bench, DEVICE, PAGE, READ_ONLY, Table};
use iommu_model::smmuv3::{Configuration, FlagUpdate};
use iommu_model::{Access, Hardware, Refusal, Request};

const A: u64 = 0x10_0000_0000;
const FAULT: Refusal = Refusal::NotPresent;
const DBM: u64 = 1 << 51;

/// A stream whose context descriptor has bits of its first word set besides the usual.
fn with_context(raw: &Raw, root: u64, set: u64) {
    let context = raw.bench.memory().take(64, 64).unwrap();
    let words = [first_word(5) | set, root, 0, 0xff];
    for (word, at) in words.into_iter().zip((context..).step_by(8)) {
        raw.bench.store(at, word);
    }
    // Two substreams at the same table: PASIDs 0 and 1 carry privilege and execute.
    raw.stream(DEVICE, &[STAGE_1 | context, 1 << 28]);
}

/// What is permitted: unprivileged and privileged, each as read, write, execute.
fn permitted(leaf: u64, table_bits: u64, context_bits: u64) -> String {
    let raw = Raw::new(Configuration::default());
    let table = Table::new(&raw.bench);
    table.set(A, 3, BASE | leaf);
    let at = table.at(A, 2);
    let descriptor = raw.bench.memory().cpu_load(at);
    raw.bench.store(at, descriptor | table_bits);
    let contexts = raw.bench.memory().take(128, 128).unwrap();
    let words = [first_word(5) | context_bits, table.root, 0, 0xff];
    for (word, at) in words.into_iter().zip((contexts + 64..).step_by(8)) {
        raw.bench.store(at, word);
    }
    raw.stream(DEVICE, &[STAGE_1 | contexts | 1 << 59]);
    let mut told = String::new();
    for privileged in [false, true] {
        for (access, letter) in [
            (Access::Read, 'r'),
            (Access::Write, 'w'),
            (Access::Execute, 'x'),
        ] {
            let request = Request {
                privileged,
                ..Bench::request(Some(1), A, access)
            };
            let allowed = raw.bench.smmu.translate(&request).is_ok();
            told.push(if allowed { letter } else { '-' });
        }
    }
    told
}

/// The tables of Arm ARM D8.4 for a regime with two privileges.
#[test]
fn permissions_of_stage_1() {
    // Valid page, AF, nG; neither AP bit nor an execute-never bit.
    const BARE: u64 = 0xc03;
    const USER: u64 = 1 << 6;
    const UXN: u64 = 1 << 54;
    const PXN: u64 = 1 << 53;
    let leaves = [
        (BARE, "--xrwx"),
        (BARE | USER, "rwxrw-"),
        (BARE | READ_ONLY, "--xr-x"),
        (BARE | READ_ONLY | USER, "r-xr-x"),
        (BARE | UXN, "---rwx"),
        (BARE | PXN, "--xrw-"),
        (PAGE, "rw-rw-"),
    ];
    for (leaf, expected) in leaves {
        assert_eq!(permitted(leaf, 0, 0), expected, "{leaf:#x}");
    }
    // APTable, UXNTable, PXNTable take away below them.
    let tables = [
        (1 << 61, "--xrwx"),
        (1 << 62, "r-xr-x"),
        (0b11 << 61, "--xr-x"),
        (1 << 60, "rw-rw-"),
        (1 << 59, "rwxrw-"),
    ];
    for (bits, expected) in tables {
        assert_eq!(permitted(BARE | USER, bits, 0), expected, "{bits:#x}");
    }
    assert_eq!(permitted(BARE | USER, 0, 1 << 36), "rw-rw-", "WXN");
    assert_eq!(
        permitted(BARE | READ_ONLY | USER, 0, 1 << 40),
        "r-x--x",
        "PAN"
    );
}

#[test]
fn addresses_outside_the_range_and_the_other_half_fault() {
    let mut raw = Raw::new(Configuration::default());
    let table = Table::new(&raw.bench);
    table.map(A, BASE);
    with_context(&raw, table.root, 0);
    for address in [1 << 48, A | 1 << 52, A | 0xff << 56, A | 0xffff << 48] {
        assert_eq!(raw.bench.translate(None, address, Access::Read), Err(FAULT));
    }
    assert_eq!(raw.take_numbers(), [0x10; 4]);
    // TBI0 ignores the top byte.
    let table = Table::new(&raw.bench);
    table.map(A, BASE);
    with_context(&raw, table.root, 1 << 38);
    raw.run(crate::raw::FORGET_DEVICE);
    assert!(
        raw.bench
            .translate(None, A | 0xab << 56, Access::Read)
            .is_ok()
    );
}

#[test]
fn descriptors_that_are_wrong() {
    let mut raw = Raw::new(Configuration::default());
    let read = |raw: &Raw| raw.bench.translate(None, A, Access::Read);
    for (level, descriptor, number) in [
        (3, BASE | PAGE & !1, 0x10),
        (3, BASE | PAGE & !2, 0x10),
        (3, BASE | PAGE & !ACCESSED, 0x12),
        (0, BASE | PAGE & !2, 0x10),
    ] {
        let table = Table::new(&raw.bench);
        table.set(A, level, descriptor);
        let root = table.root;
        with_context(&raw, root, 0);
        raw.run([0x30, 0]);
        raw.run(crate::raw::FORGET_DEVICE);
        assert_eq!(read(&raw), Err(FAULT));
        assert_eq!(
            raw.take_numbers(),
            [number],
            "level {level}: {descriptor:#x}"
        );
    }
}

#[test]
fn an_output_beyond_ips_faults() {
    let mut raw = Raw::new(Configuration::default());
    let table = Table::new(&raw.bench);
    table.map(A, 1 << 40);
    // IPS: 40 bits instead of 48.
    let context = raw.bench.memory().take(64, 64).unwrap();
    let word_0 = first_word(5) & !(0b111 << 32) | 0b010 << 32;
    for (word, at) in [word_0, table.root, 0, 0]
        .into_iter()
        .zip((context..).step_by(8))
    {
        raw.bench.store(at, word);
    }
    raw.stream(DEVICE, &[STAGE_1 | context]);
    assert_eq!(raw.bench.translate(None, A, Access::Read), Err(FAULT));
    assert_eq!(raw.take_numbers(), [0x11], "F_ADDR_SIZE");
}

#[test]
fn flags_are_updated_where_that_is_enabled() {
    const HA: u64 = 1 << 43;
    const HD: u64 = 1 << 42;
    const AFFD: u64 = 1 << 35;
    let clean = PAGE & !ACCESSED | READ_ONLY | DBM;
    let scene = |set: u64, access| {
        let raw = Raw::new(Configuration::default());
        let table = Table::new(&raw.bench);
        table.set(A, 3, BASE | clean);
        with_context(&raw, table.root, set);
        let done = raw.bench.translate(None, A, access).is_ok();
        (done, table.get(A) & !BASE)
    };
    assert_eq!(scene(0, Access::Read), (false, clean));
    assert_eq!(scene(AFFD, Access::Read), (true, clean));
    assert_eq!(scene(HA, Access::Read), (true, clean | ACCESSED));
    assert_eq!(scene(HA, Access::Write), (false, clean | ACCESSED));
    assert_eq!(scene(HA | HD, Access::Read), (true, clean | ACCESSED));
    assert_eq!(
        scene(HA | HD, Access::Write),
        (true, clean & !READ_ONLY | ACCESSED)
    );
    assert_eq!(
        scene(HD, Access::Write),
        (false, clean),
        "HD alone is nothing"
    );

    // A clean entry in the TLB does not hide the first write.
    let raw = Raw::new(Configuration::default());
    let table = Table::new(&raw.bench);
    table.set(A, 3, BASE | clean);
    with_context(&raw, table.root, HA | HD);
    assert!(raw.bench.translate(None, A, Access::Read).is_ok());
    assert!(raw.bench.translate(None, A, Access::Write).is_ok());
    assert_eq!(table.get(A) & READ_ONLY, 0);
    // A translation request without the no-write flag dirties the page, one with it does not.
    let table = Table::new(&raw.bench);
    table.set(A, 3, BASE | clean);
    with_context(&raw, table.root, HA | HD);
    raw.run(crate::raw::FORGET_DEVICE);
    raw.run([0x30, 0]);
    let ask = |access| {
        raw.bench
            .smmu
            .translate_for_device(&Bench::request(None, A, access))
    };
    assert!(!ask(Access::Read).unwrap().permissions.write);
    assert_ne!(table.get(A) & READ_ONLY, 0);
    assert!(ask(Access::Write).unwrap().permissions.write);
    assert_eq!(table.get(A) & READ_ONLY, 0);
}

#[test]
fn speculation_changes_no_descriptor_and_tells_nothing() {
    let policy = iommu_model::Policy {
        speculative: true,
        ..iommu_model::Policy::STRICT
    };
    let mut raw = Raw::with_policy(Configuration::default(), policy, 3);
    let table = Table::new(&raw.bench);
    let clean = PAGE & !ACCESSED | READ_ONLY | DBM;
    table.map(A, BASE);
    table.set(A + 0x1000, 3, BASE | clean);
    with_context(&raw, table.root, 1 << 42 | 1 << 43);
    assert!(raw.bench.translate(None, A, Access::Write).is_ok());
    for _ in 0..200 {
        raw.bench.smmu.speculate();
    }
    assert_eq!(table.get(A + 0x1000), BASE | clean);
    // What it may do: a valid neighbour is in the TLB before anybody asks.
    table.map(A - 0x1000, BASE);
    let before = raw.bench.smmu.cached_translations();
    for _ in 0..200 {
        raw.bench.smmu.speculate();
    }
    assert_eq!(raw.bench.smmu.cached_translations(), before + 1);
    assert!(raw.take_events().is_empty());
}

/// Stage 2 descriptors: valid page or block, AF, S2AP.
const S2_READ: u64 = 1 << 6;
const S2_WRITE: u64 = 1 << 7;
const S2_PAGE: u64 = 0x403;
const IPA: u64 = 0x2000_0000;

/// A nested stream: stage 1 maps A to IPA, stage 2 maps all of memory to itself and IPA by `leaf`.
/// Bits of word 2 of the entry are set besides the usual.
fn nested(raw: &Raw, leaf: u64, set: u64) -> (u64, u64) {
    let bench = &raw.bench;
    let (first, second) = (Table::new(bench), Table::new(bench));
    second.set(BASE, 1, BASE | 0x401 | S2_READ | S2_WRITE);
    second.set(IPA, 3, leaf);
    first.map(A, IPA);
    let context = bench.memory().take(64, 64).unwrap();
    for (word, at) in [first_word(5), first.root, 0, 0xff]
        .into_iter()
        .zip((context..).step_by(8))
    {
        bench.store(at, word);
    }
    let level_1 = bench.memory().cpu_load(second.root) & 0xffff_ffff_f000;
    raw.stream(
        DEVICE,
        &[NESTED | context, 1 << 28, second_stage(7) | set, level_1],
    );
    (second.at(IPA, 3), first.at(A, 3))
}

#[test]
fn both_stages_must_permit() {
    let mut raw = Raw::new(Configuration::default());
    let frame = raw.bench.page();
    nested(&raw, frame | S2_PAGE | S2_READ, 0);
    let read = raw.bench.translate(None, A + 8, Access::Read).unwrap();
    assert_eq!(read.address, frame + 8);
    assert_eq!(raw.bench.translate(None, A + 8, Access::Write), Err(FAULT));
    let [event] = raw.take_events()[..] else {
        panic!()
    };
    // F_PERMISSION at stage 2 (bit 39), CLASS = IN (0b10 at 40), a write.
    assert_eq!(event[0] as u8, 0x13);
    assert_eq!(event[1], 1 << 39 | 0b10 << 40);
    assert_eq!((event[2], event[3]), (A + 8, IPA));
}

#[test]
fn faults_of_stage_2_say_what_was_translated() {
    // Stage 2 does not map the context descriptor: CLASS = CD.
    let mut raw = Raw::new(Configuration::default());
    let empty = raw.bench.page();
    let context = raw.bench.memory().take(64, 64).unwrap();
    raw.stream(DEVICE, &[NESTED | context, 0, second_stage(7), empty]);
    assert_eq!(raw.bench.translate(None, A, Access::Read), Err(FAULT));
    let [event] = raw.take_events()[..] else {
        panic!()
    };
    assert_eq!((event[0] as u8, event[1] >> 39 & 0b111), (0x10, 0b001));
    assert_eq!(event[3], context & !0xfff);
    // Nor a table of stage 1: CLASS = TT.
    let second = Table::new(&raw.bench);
    second.set(context, 3, context & !0xfff | S2_PAGE | S2_READ);
    let words = [first_word(5), 0x3000_0000, 0, 0];
    for (word, at) in words.into_iter().zip((context..).step_by(8)) {
        raw.bench.store(at, word);
    }
    let level_1 = raw.bench.memory().cpu_load(second.root) & 0xffff_ffff_f000;
    raw.stream(DEVICE, &[NESTED | context, 0, second_stage(7), level_1]);
    raw.run(crate::raw::FORGET_DEVICE);
    assert_eq!(raw.bench.translate(None, A, Access::Read), Err(FAULT));
    let [event] = raw.take_events()[..] else {
        panic!()
    };
    assert_eq!((event[0] as u8, event[1] >> 39 & 0b111), (0x10, 0b011));
    assert_eq!(event[3], 0x3000_0000);
}

#[test]
fn flags_of_stage_2() {
    const S2HA: u64 = 1 << 56;
    const S2HD: u64 = 1 << 55;
    const S2AFFD: u64 = 1 << 53;
    let frame = BASE;
    let clean = frame | S2_PAGE & !ACCESSED | S2_READ | DBM;
    let scene = |set, access| {
        let raw = Raw::new(Configuration::default());
        let (at, _) = nested(&raw, clean, set);
        let done = raw.bench.translate(None, A, access).is_ok();
        (done, raw.bench.memory().cpu_load(at))
    };
    assert_eq!(scene(0, Access::Read), (false, clean));
    assert_eq!(scene(S2AFFD, Access::Read), (true, clean));
    assert_eq!(scene(S2HA, Access::Read), (true, clean | ACCESSED));
    assert_eq!(scene(S2HA, Access::Write), (false, clean | ACCESSED));
    assert_eq!(
        scene(S2HA | S2HD, Access::Write),
        (true, clean | ACCESSED | S2_WRITE)
    );
}

#[test]
fn stage_2_alone_and_its_input_range() {
    let mut raw = Raw::new(Configuration {
        flag_update: FlagUpdate::None,
        ..Configuration::default()
    });
    let second = Table::new(&raw.bench);
    let frame = raw.bench.page();
    second.set(IPA, 3, frame | S2_PAGE | S2_READ | S2_WRITE);
    let level_1 = raw.bench.memory().cpu_load(second.root) & 0xffff_ffff_f000;
    raw.stream(DEVICE, &[STAGE_2, 0, second_stage(7), level_1]);
    let write = |address| raw.bench.translate(None, address, Access::Write);
    assert_eq!(write(IPA + 4).unwrap().address, frame + 4);
    assert_eq!(write(1 << 39), Err(FAULT));
    assert_eq!(write(1 << 50), Err(FAULT));
    assert!(raw.bench.translate(Some(1), IPA, Access::Write).is_err());
    let events = raw.take_events();
    let told: Vec<_> = events
        .iter()
        .map(|it| (it[0] as u8, it[1] >> 39 & 1))
        .collect();
    // F_TRANSLATION at stage 2, F_ADDR_SIZE at stage 1, C_BAD_SUBSTREAMID.
    assert_eq!(told, [(0x10, 1), (0x11, 0), (0x08, 0)]);
}
