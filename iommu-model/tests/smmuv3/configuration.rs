//! Stream table entries and context descriptors: where they are found, how long they are kept, and
//! what is wrong with them.

use crate::raw::{
    ATS, FORGET_DEVICE, Raw, STAGE_1, STAGE_2, first_word, offset, read_of, second_stage,
};
use crate::smmuv3_bench::{BASE, Bench, DEVICE, Table};
use iommu_model::smmuv3::{Configuration, FlagUpdate, StallModel};
use iommu_model::{Access, Hardware, Refusal};

const A: u64 = 0x10_0000_0000;
const ABORTED: Refusal = Refusal::CompleterAbort;

fn stored(raw: &Raw, at: u64, words: &[u64]) {
    for (&word, at) in words.iter().zip((at..).step_by(8)) {
        raw.bench.store(at, word);
    }
}

#[test]
fn entries_are_kept_in_whatever_state_they_were_found() {
    let mut raw = Raw::new(Configuration::default());
    let read = |raw: &Raw| raw.bench.translate(None, A, Access::Read);
    assert_eq!(read(&raw), Err(ABORTED));
    let table = Table::new(&raw.bench);
    let frame = raw.bench.page();
    table.map(A, frame);
    let root = table.root;
    let context = raw.stage_1(DEVICE, root, 5, 0);
    assert_eq!(read(&raw), Err(ABORTED), "the invalid entry is cached");
    assert_eq!(raw.take_numbers(), [0x04, 0x04], "C_BAD_STE");
    raw.run(FORGET_DEVICE);
    assert_eq!(read(&raw).unwrap().address, frame);
    // The descriptor is kept until it, or its stream, is named.
    raw.bench.store(context, 0);
    assert!(read(&raw).is_ok());
    raw.run([0x05 | 1 << 12 | (u64::from(DEVICE)) << 32, 1]);
    assert!(read(&raw).is_ok(), "another SubstreamID");
    raw.run([0x05 | (u64::from(DEVICE)) << 32, 1]);
    assert_eq!(read(&raw), Err(ABORTED));
    assert_eq!(raw.take_numbers(), [0x0a], "C_BAD_CD");
    raw.bench.store(context, first_word(5));
    raw.run([0x06 | (u64::from(DEVICE)) << 32, 0]);
    assert!(read(&raw).is_ok());
    raw.bench.store(context, 0);
    raw.run(FORGET_DEVICE);
    assert_eq!(read(&raw), Err(ABORTED));
    // CMD_CFGI_ALL.
    raw.bench.store(context, first_word(5));
    raw.run([0x04, 31]);
    assert!(read(&raw).is_ok());
}

#[test]
fn the_level_1_stream_descriptor_stays_with_leaf() {
    let mut raw = Raw::new(Configuration::default());
    raw.write(offset::CR0, 0b1000);
    let level_1 = raw.bench.memory().take(512, 512).unwrap();
    raw.write64(offset::STRTAB_BASE, level_1);
    // Two levels, SPLIT 8, 10 bits.
    raw.write(offset::STRTAB_BASE_CFG, 1 << 16 | 8 << 6 | 10);
    raw.write(offset::CR0, 0x1f);
    let read = |raw: &Raw, stream| {
        raw.bench
            .smmu
            .translate(&read_of(stream, A))
            .map(|it| it.address)
    };
    assert!(read(&raw, DEVICE).is_err());
    // 2^7 entries: Span 8.
    let leaf = raw.bench.memory().take(64 << 7, 64 << 7).unwrap();
    raw.bench.store(level_1 + 8, leaf | 8);
    // Bypass.
    stored(&raw, leaf + 64 * 8, &[0b1001]);
    assert!(
        read(&raw, DEVICE).is_err(),
        "the level 1 descriptor is cached"
    );
    raw.run(FORGET_DEVICE);
    assert!(read(&raw, DEVICE).is_err(), "Leaf leaves it");
    raw.run([FORGET_DEVICE[0], 0]);
    assert_eq!(read(&raw, DEVICE), Ok(A));
    assert!(read(&raw, 0x1ff).is_err(), "beyond the span");
    assert!(read(&raw, 0x400).is_err(), "beyond the table");
    // Span 10 is more than SPLIT allows.
    raw.bench.store(level_1 + 16, leaf | 10);
    assert!(read(&raw, 0x208).is_err());
    assert_eq!(
        raw.take_numbers(),
        [0x02; 4],
        "C_BAD_STREAMID; more did not fit"
    );
}

#[test]
fn tables_of_contexts_in_each_format() {
    let full = Configuration::default();
    // S1Fmt, log2 of what a leaf holds: linear, 4 KiB leaves, 64 KiB leaves.
    for (format, leaf_bits) in [(0b00, 0), (0b01, 6), (0b10, 10)] {
        let mut raw = Raw::new(full);
        let (first, second) = (Table::new(&raw.bench), Table::new(&raw.bench));
        let (one, other) = (raw.bench.page(), raw.bench.page());
        first.map(A, one);
        second.map(A, other);
        let roots = [first.root, second.root];
        let take = |size: u64| raw.bench.memory().take(size, size).unwrap();
        let log2 = 12;
        let top = take(64 << log2);
        let index = 3 << 10 | 5;
        let place = |index: u64| match format {
            0b00 => top + 64 * index,
            _ => {
                let at = top + 8 * (index >> leaf_bits);
                if raw.bench.memory().cpu_load(at) == 0 {
                    raw.bench.store(at, take(64 << leaf_bits) | 1);
                }
                let leaf = raw.bench.memory().cpu_load(at) & !1;
                leaf + 64 * (index & ((1 << leaf_bits) - 1))
            }
        };
        stored(&raw, place(0), &[first_word(5), roots[0], 0, 0xff]);
        stored(&raw, place(index), &[first_word(6), roots[1], 0, 0xff]);
        // S1DSS = substream 0.
        let word_0 = STAGE_1 | format << 4 | top | log2 << 59;
        raw.stream(DEVICE, &[word_0, 0b10]);
        let read = |pasid| {
            let read = raw.bench.translate(pasid, A, Access::Read);
            read.map(|translation| translation.address)
        };
        assert_eq!(read(None), Ok(one));
        assert_eq!(read(Some(index as u32)), Ok(other));
        assert_eq!(read(Some(0)), Err(ABORTED));
        assert_eq!(read(Some(1 << log2)), Err(ABORTED));
        if format != 0b00 {
            assert_eq!(read(Some(2 << 10)), Err(ABORTED), "no leaf");
        }
        let numbers = raw.take_numbers();
        let expected = [0x06, 0x08, 0x08];
        assert_eq!(
            numbers,
            expected[..numbers.len()],
            "F_STREAM_DISABLED, C_BAD_SUBSTREAMID"
        );
        if format != 0b00 {
            let unsupported = Raw::new(Configuration {
                two_level_contexts: false,
                ..full
            });
            unsupported.stream(DEVICE, &[word_0, 0b10]);
            let refused = unsupported.bench.translate(None, A, Access::Read);
            assert_eq!(refused, Err(ABORTED), "C_BAD_STE");
        }
    }
}

#[test]
fn what_s1dss_does_with_untagged_requests() {
    for (default, expected, number) in [(0b00, Err(ABORTED), Some(0x06)), (0b01, Ok(A), None)] {
        let mut raw = Raw::new(Configuration::default());
        let contexts = raw.bench.memory().take(128, 128).unwrap();
        raw.stream(DEVICE, &[STAGE_1 | contexts | 1 << 59, default]);
        let read = raw.bench.translate(None, A, Access::Read);
        assert_eq!(read.map(|it| it.address), expected);
        assert_eq!(raw.take_numbers().first().copied(), number);
    }
}

/// What makes an entry or a descriptor ILLEGAL (5.2.2, 5.4.2), each in an otherwise good one.
#[test]
fn illegal_entries_and_descriptors() {
    let full = Configuration::default();
    let never = Configuration {
        stall_model: StallModel::Never,
        ..full
    };
    let always = Configuration {
        stall_model: StallModel::Always,
        ..full
    };
    let no_updates = Configuration {
        flag_update: FlagUpdate::None,
        ..full
    };
    let accessed = Configuration {
        flag_update: FlagUpdate::Accessed,
        ..full
    };
    let small = Configuration {
        asid_16: false,
        vmid_16: false,
        physical_bits: 44,
        ..full
    };
    // (configuration, word of the entry, flipped bits)
    let entries = [
        (
            Configuration {
                stage_1: false,
                ..full
            },
            0,
            0,
        ),
        (never, 1, 1 << 27),
        // EATS = split-stage; STRW reserved; S1CDMax too large; S1ContextPtr beyond the OAS.
        (full, 1, 0b11 << 28),
        (full, 1, 0b01 << 30),
        (full, 0, 21 << 59),
        (small, 0, 1 << 45),
        (small, 2, 1 << 8),
    ];
    for (configuration, word, flipped) in entries {
        assert_eq!(
            outcome(configuration, (word, flipped), (0, 0)),
            Err(0x04),
            "{word} {flipped:#x}"
        );
    }
    let contexts = [
        // V; A; AA64; ENDI; TG0; T0SZ 15 and 49; S with S1STALLD is below.
        (full, 0, 1 << 31),
        (full, 0, 1 << 46),
        (full, 0, 1 << 41),
        (full, 0, 1 << 15),
        (full, 0, 1 << 6),
        (full, 0, 16 ^ 15),
        (full, 0, 16 ^ 49),
        (never, 0, 1 << 44),
        (always, 0, 0),
        (no_updates, 0, 1 << 43),
        (accessed, 0, 1 << 42 | 1 << 43),
        (small, 0, 1 << 56),
        (small, 1, 1 << 45),
        // EPD1 = 0 with T1SZ and TG1 of 0.
        (full, 0, 1 << 30),
    ];
    for (configuration, word, flipped) in contexts {
        assert_eq!(
            outcome(configuration, (0, 0), (word, flipped)),
            Err(0x0a),
            "{word} {flipped:#x}"
        );
    }
    assert_eq!(
        outcome(full, (1, 1 << 27), (0, 1 << 44)),
        Err(0x0a),
        "S with S1STALLD"
    );
    for configuration in [full, never, no_updates, accessed, small] {
        assert_eq!(outcome(configuration, (0, 0), (0, 0)), Ok(()));
    }
    assert_eq!(outcome(full, (1, 1 << 27), (0, 0)), Ok(()));
    assert_eq!(outcome(accessed, (0, 0), (0, 1 << 43)), Ok(()));
}

/// Translates through a good entry and a good descriptor, with bits flipped in one word of each;
/// the number of the event that told of an error.
fn outcome(
    configuration: Configuration,
    (entry_word, entry_bits): (usize, u64),
    (context_word, context_bits): (usize, u64),
) -> Result<(), u8> {
    let mut raw = Raw::new(configuration);
    let table = Table::new(&raw.bench);
    table.map(A, BASE);
    let context = raw.bench.memory().take(64, 64).unwrap();
    let mut words = [first_word(5), table.root, 0, 0xff];
    words[context_word] ^= context_bits;
    let mut entry = [STAGE_1 | context, ATS, 7, 0];
    entry[entry_word] ^= entry_bits;
    stored(&raw, context, &words);
    raw.stream(DEVICE, &entry);
    match raw.bench.translate(None, A, Access::Read) {
        Ok(_) => Ok(()),
        Err(_) => Err(raw.take_numbers()[0]),
    }
}

#[test]
fn illegal_second_stages() {
    let full = Configuration::default();
    let never = Configuration {
        stall_model: StallModel::Never,
        ..full
    };
    let good = second_stage(7);
    let with = |configuration, word| {
        let mut raw = Raw::new(configuration);
        raw.stream(DEVICE, &[STAGE_2, 0, word, BASE]);
        let read = raw.bench.translate(None, 0x1000, Access::Read);
        assert!(read.is_err(), "the table is empty");
        raw.take_numbers()[0]
    };
    assert_eq!(with(full, good), 0x10, "F_TRANSLATION");
    let illegal = [
        (
            Configuration {
                stage_2: false,
                ..full
            },
            good,
        ),
        // S2AA64, S2ENDI, S2TG, S2HA without HTTU, S2S where nothing stalls.
        (full, good ^ 1 << 51),
        (full, good ^ 1 << 52),
        (full, good ^ 1 << 46),
        (
            Configuration {
                flag_update: FlagUpdate::None,
                ..full
            },
            good ^ 1 << 56,
        ),
        (never, good ^ 1 << 57),
        // SL0 = level 2 for 39 bits; T0SZ = 10.
        (full, good & !(0b11 << 38)),
        (full, good & !(0x3f << 32) | 10 << 32),
    ];
    for (configuration, word) in illegal {
        assert_eq!(with(configuration, word), 0x04, "{word:#x}");
    }
}

#[test]
fn a_disabled_stream_is_silent_and_a_bypassing_one_passes() {
    let mut raw = Raw::new(Configuration::default());
    raw.stream(DEVICE, &[0b0001]);
    let refused = raw.bench.translate(None, A, Access::Read);
    assert_eq!(refused, Err(Refusal::UnsupportedRequest));
    assert!(raw.take_events().is_empty());
    raw.stream(DEVICE, &[0b1001]);
    raw.run(FORGET_DEVICE);
    let passed = raw.bench.translate(None, A, Access::Write);
    assert_eq!(passed.unwrap().address, A);
    assert!(raw.bench.translate(Some(1), A, Access::Write).is_err());
    assert!(raw.bench.translate(None, 1 << 50, Access::Write).is_err());
    assert_eq!(
        raw.take_numbers(),
        [0x08, 0x11],
        "C_BAD_SUBSTREAMID, F_ADDR_SIZE"
    );
}

#[test]
fn structures_outside_memory_are_told_with_their_address() {
    let mut raw = Raw::new(Configuration::default());
    raw.stream(DEVICE, &[STAGE_1 | 0x1000]);
    assert_eq!(raw.bench.translate(None, A, Access::Read), Err(ABORTED));
    let [event] = raw.take_events()[..] else {
        panic!()
    };
    assert_eq!(
        (event[0], event[3]),
        ((u64::from(DEVICE)) << 32 | 0x09, 0x1000),
        "F_CD_FETCH"
    );
    let context = raw.stage_1(DEVICE, 0x2000, 5, 0);
    raw.run(FORGET_DEVICE);
    assert_eq!(raw.bench.translate(None, 0, Access::Read), Err(ABORTED));
    let [event] = raw.take_events()[..] else {
        panic!("{context:#x}")
    };
    assert_eq!((event[0] as u8, event[3]), (0x0b, 0x2000), "F_WALK_EABT");
    raw.write(offset::CR0, 0b1100);
    raw.write64(offset::STRTAB_BASE, 0x1_0000);
    raw.write(offset::CR0, 0b1101);
    raw.run(FORGET_DEVICE);
    assert_eq!(raw.bench.translate(None, A, Access::Read), Err(ABORTED));
    let [event] = raw.take_events()[..] else {
        panic!()
    };
    assert_eq!(
        (event[0] as u8, event[3]),
        (0x03, 0x1_0000 + 64 * 0x108),
        "F_STE_FETCH"
    );
}

#[test]
fn ats_is_for_streams_that_may() {
    let mut raw = Raw::new(Configuration::default());
    let table = Table::new(&raw.bench);
    let frame = raw.bench.page();
    table.map(A, frame);
    let root = table.root;
    let context = raw.stage_1(DEVICE, root, 5, 0);
    let request = Bench::request(None, A, Access::Write);
    let ask = |raw: &Raw| raw.bench.smmu.translate_for_device(&request);
    assert_eq!(ask(&raw).unwrap().address, frame);
    assert!(raw.bench.smmu.admits_translated(DEVICE));
    raw.stream(DEVICE, &[STAGE_1 | context, 0]);
    assert!(ask(&raw).is_ok(), "the entry is cached");
    raw.run(FORGET_DEVICE);
    assert_eq!(ask(&raw), Err(Refusal::UnsupportedRequest));
    assert!(!raw.bench.smmu.admits_translated(DEVICE));
    assert_eq!(
        raw.take_numbers(),
        [0x05, 0x07],
        "F_BAD_ATS_TREQ, F_TRANSL_FORBIDDEN"
    );
    raw.stream(DEVICE, &[0]);
    raw.run(FORGET_DEVICE);
    assert_eq!(ask(&raw), Err(ABORTED));
    assert!(!raw.bench.smmu.admits_translated(DEVICE));
    assert!(raw.take_events().is_empty());
    // Without ATSCHK nothing is looked at. It is cached with the entry.
    raw.write(offset::CR0, 0x0f);
    assert!(!raw.bench.smmu.admits_translated(DEVICE));
    raw.run(FORGET_DEVICE);
    assert!(raw.bench.smmu.admits_translated(DEVICE));
}
