//! The model's reading of words that were made without it and without the driver: from the field
//! definitions of Linux's arm-smmu-v3.h, and by Linux's way of covering a range (the files say
//! more).

use super::caches::{Addresses, Regime, Stage1, TlbInvalidation};
use super::commands::{Command, Signal, decode};
use super::configuration::Configuration;
use super::entries::{Ats, Context, Stream};

const FIELDS: &str = include_str!("../../../iommu-smmuv3/tests/golden/linux-fields.txt");
const RANGES: &str = include_str!("../../../iommu-smmuv3/tests/golden/linux-range-commands.txt");

fn words<const COUNT: usize>(text: &str) -> [u64; COUNT] {
    let words = text.trim().split(':');
    let words = words.map(|word| u64::from_str_radix(word, 16).expect("hexadecimal"));
    let words: Vec<u64> = words.collect();
    words.try_into().expect("as many words as the line has")
}

fn golden<const COUNT: usize>(name: &str) -> [u64; COUNT] {
    let mut lines = FIELDS.lines().filter_map(|line| line.split_once(" | "));
    let (_, text) = lines.find(|&(other, _)| other == name).expect(name);
    words(text)
}

fn command(words: [u64; 2]) -> Command {
    decode(words, &Configuration::default(), false).expect("a legal command")
}

#[test]
fn commands() {
    let streams = |first, last, leaf| Command::Streams { first, last, leaf };
    let tlb = |stage_1, vmid, stage_2, addresses| {
        Command::Tlb(Some(TlbInvalidation {
            regime: Regime::El1,
            vmid,
            stage_1,
            stage_2,
            addresses,
        }))
    };
    let device_tlb = |substream, address, log2_pages| Command::DeviceTlb {
        stream: 8,
        substream,
        global: false,
        address,
        log2_pages,
    };
    let page = Addresses {
        first: 0x7f00_0000_1000,
        last: 0x7f00_0000_1fff,
        leaf: true,
        level: None,
    };
    let message = Signal::Interrupt {
        address: 0x2_0000_0010,
        data: 7,
    };
    let context = Command::Context {
        stream: 8,
        substream: 9,
        leaf: true,
    };
    let expected = [
        ("cfgi_ste sid=8 leaf=1", streams(8, 8, true)),
        (
            "cfgi_ste sid=0xabcd1234 leaf=0",
            streams(0xabcd_1234, 0xabcd_1234, false),
        ),
        ("cfgi_all", streams(0, u32::MAX, false)),
        ("cfgi_cd sid=8 ssid=9 leaf=1", context),
        (
            "tlbi_nh_asid asid=5",
            tlb(Stage1::NonGlobal(5), Some(0), false, None),
        ),
        (
            "tlbi_nh_va asid=5 addr=0x7f0000001000 leaf=1 ril=0",
            tlb(Stage1::Of(5), Some(0), false, Some(page)),
        ),
        ("tlbi_el2_all", Command::TlbHypervisor),
        ("tlbi_nsnh_all", tlb(Stage1::All, None, true, None)),
        ("atc_inv sid=8 all", device_tlb(None, 0, 52)),
        (
            "atc_inv sid=8 ssid=9 addr=0x200000 size=9",
            device_tlb(Some(9), 0x20_0000, 9),
        ),
        ("sync cs=none", Command::Sync(Signal::None)),
        (
            "sync cs=irq msh=ish attr=oiwb addr=0x200000010 data=7",
            Command::Sync(message),
        ),
    ];
    for (name, expected) in expected {
        assert_eq!(command(golden(name)), expected, "{name}");
    }
}

#[test]
fn stream_table_entries() {
    let full = Configuration::default();
    let words = golden("ste s1ctxptr=0x40abcdef0000 cdmax=10 coherent ats stalld incoming");
    let entry = Stream(&words);
    assert!(!entry.illegal(&full));
    assert!(entry.stage_1() && !entry.stage_2());
    assert_eq!(entry.context_pointer(), 0x40ab_cdef_0000);
    assert_eq!(
        (entry.context_format(), entry.log2_contexts(&full)),
        (0, 10)
    );
    assert_eq!(entry.default_substream(), 0b10);
    assert_eq!(entry.ats(&full), Ats::Full);
    assert_eq!(entry.regime(false, &full), Regime::El1);
    let words = golden("ste s1ctxptr=0x500000000 cdmax=0 noncoherent");
    let entry = Stream(&words);
    assert!(!entry.illegal(&full));
    assert_eq!(entry.context_pointer(), 0x5_0000_0000);
    assert_eq!(entry.log2_contexts(&full), 0);
    assert_eq!(entry.ats(&full), Ats::Refused);
}

#[test]
fn context_descriptors() {
    let full = Configuration::default();
    let entry = golden("ste s1ctxptr=0x500000000 cdmax=0 coherent");
    let expected = [
        (
            "cd virtual=48 coherent ips=44 asid=5 ttb=0x40001000 mair=0x44ff00",
            (48, 44, 5, 0x4000_1000),
        ),
        (
            "cd virtual=39 noncoherent ips=40 asid=0xffff ttb=0xfedcba9000 mair=0xff",
            (39, 40, 0xffff, 0xfe_dcba_9000),
        ),
    ];
    for (name, (virtual_bits, output_bits, asid, root)) in expected {
        let words = golden(name);
        let context = Context(&words);
        assert!(
            !context.illegal(Stream(&entry), Regime::El1, &full),
            "{name}"
        );
        let first = context.first_stage(0x1000, Regime::El1, &full).expect(name);
        assert_eq!((first.input_bits, first.root), (virtual_bits, root));
        assert_eq!(
            (context.output_bits(&full), context.asid()),
            (output_bits, asid)
        );
        assert!(context.records() && !context.stalls() && context.aset());
        assert!(context.access_faults() && !context.updates_accessed());
        let upper = context.first_stage(u64::MAX, Regime::El1, &full);
        assert!(upper.is_none(), "EPD1");
    }
    let words = golden("cd blocked virtual=48 coherent ips=44 asid=0 ttb=0x40001000 mair=0x44ff00");
    let blocked = Context(&words);
    assert!(!blocked.illegal(Stream(&entry), Regime::El1, &full));
    assert!(blocked.first_stage(0x1000, Regime::El1, &full).is_none() && !blocked.records());
}

/// Linux covers a single page by a range of two, as one page is a reserved encoding; all other
/// ranges exactly.
#[test]
fn ranges() {
    let mut lines = 0;
    for line in RANGES.lines().filter(|line| !line.starts_with('#')) {
        let columns: Vec<_> = line.split('|').collect();
        let (start, last) = columns[0].trim().split_once(',').expect("a range");
        let hex = |text| u64::from_str_radix(text, 16).expect("hexadecimal");
        let (start, last) = (hex(start), hex(last));
        let Command::DeviceTlb {
            substream,
            address,
            log2_pages,
            ..
        } = command(words(columns[5]))
        else {
            panic!("{line}");
        };
        let size = 4096u128 << log2_pages;
        let block = u128::from(address) / size * size;
        assert!(
            block <= start.into() && block + size > last.into(),
            "{line}"
        );
        assert_eq!(substream, Some(9));

        let (commands, _) = columns[6].trim().split_once(" n=").expect("their number");
        let mut next = u128::from(start);
        for text in commands.split(',').filter(|text| !text.is_empty()) {
            let Command::Tlb(Some(invalidation)) = command(words(text)) else {
                panic!("{line}");
            };
            assert_eq!(invalidation.stage_1, Stage1::Of(5));
            let covered = invalidation.addresses.expect("a range");
            assert_eq!(u128::from(covered.first), next, "{line}");
            next = u128::from(covered.last) + 1;
        }
        let slack = next - 1 - u128::from(last);
        assert!(slack == 0 || slack == 0x1000, "{line}");
        lines += 1;
    }
    assert_eq!(lines, 200);
}
