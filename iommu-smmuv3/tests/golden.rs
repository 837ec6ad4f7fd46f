//! Encodings against values that were made without this crate; each file names its source.

extern crate alloc;

mod fake;

use alloc::collections::BTreeMap;
use fake::{FULL, Identity, Machine, QEMU};
use iommu_core::Range;
use iommu_core::cover::Costs;
use iommu_core::ids::{DeviceId, Pasid, Tag};
use iommu_core::operation::{Invalidation, Levels, Target};
use iommu_smmuv3::caps::Capabilities;
use iommu_smmuv3::invalidate::{self, Item};
use iommu_smmuv3::spec::commands::{self, Command};
use iommu_smmuv3::spec::tables::{
    Cacheability, ContextDescriptor, PhysicalSize, StreamEntry, blocked, level_1_descriptor,
};

const FIELDS: &str = include_str!("golden/linux-fields.txt");
const RANGES: &str = include_str!("golden/linux-range-commands.txt");

fn hex(text: &str) -> u64 {
    u64::from_str_radix(text.trim(), 16).unwrap()
}

fn golden() -> BTreeMap<&'static str, Vec<u64>> {
    let lines = FIELDS.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, words) = line.split_once(" | ").unwrap();
            (name, words.split(':').map(hex).collect())
        })
        .collect()
}

#[test]
fn commands_have_linux_field_positions() {
    let ours: [(&str, Command); 12] = [
        ("cfgi_ste sid=8 leaf=1", commands::cfgi_ste(8, true)),
        (
            "cfgi_ste sid=0xabcd1234 leaf=0",
            commands::cfgi_ste(0xabcd_1234, false),
        ),
        ("cfgi_all", commands::cfgi_all()),
        ("cfgi_cd sid=8 ssid=9 leaf=1", commands::cfgi_cd(8, 9, true)),
        ("tlbi_nh_asid asid=5", commands::tlbi_nh_asid(5)),
        (
            "tlbi_nh_va asid=5 addr=0x7f0000001000 leaf=1 ril=0",
            commands::tlbi_nh_va(5, 0x7f00_0000_1000, true),
        ),
        ("tlbi_el2_all", commands::tlbi_el2_all()),
        ("tlbi_nsnh_all", commands::tlbi_nsnh_all()),
        ("atc_inv sid=8 all", commands::atc_inv(8, None, 0, 52)),
        (
            "atc_inv sid=8 ssid=9 addr=0x200000 size=9",
            commands::atc_inv(8, Some(9), 0x20_0000, 9),
        ),
        ("sync cs=none", commands::sync()),
        (
            "sync cs=irq msh=ish attr=oiwb addr=0x200000010 data=7",
            commands::sync_with_message(0x2_0000_0010, 7),
        ),
    ];
    let golden = golden();
    for (name, command) in ours {
        assert_eq!(golden[name], command, "{name}");
    }
    let commands_in_file = golden.values().filter(|words| words.len() == 2).count();
    assert_eq!(commands_in_file, ours.len());
}

#[test]
fn entries_have_linux_field_positions() {
    let golden = golden();
    let entry = StreamEntry {
        contexts: 0x5_0000_0000,
        log2_contexts: 0,
        cacheability: Cacheability::WriteBack,
        device_tlb: false,
        forbid_stall: false,
        response_pasid: false,
        use_incoming_shareability: false,
        unprivileged: false,
    };
    // Linux's STRTAB_STE_1_PPAR: 1UL << 18.
    let with_pasid = StreamEntry {
        response_pasid: true,
        ..entry
    };
    assert_eq!(with_pasid.words()[1] ^ entry.words()[1], 1 << 18);
    assert_eq!(
        golden["ste s1ctxptr=0x500000000 cdmax=0 coherent"],
        entry.words()
    );
    let past_caches = StreamEntry {
        cacheability: Cacheability::NonCacheable,
        ..entry
    };
    assert_eq!(
        golden["ste s1ctxptr=0x500000000 cdmax=0 noncoherent"],
        past_caches.words()
    );
    let everything = StreamEntry {
        contexts: 0x40ab_cdef_0000,
        log2_contexts: 10,
        device_tlb: true,
        forbid_stall: true,
        use_incoming_shareability: true,
        ..entry
    };
    assert_eq!(
        golden["ste s1ctxptr=0x40abcdef0000 cdmax=10 coherent ats stalld incoming"],
        everything.words()
    );
    // IHI 0070 5.2: STE.PRIVCFG, bits [113:112], 0b10 for unprivileged.
    let unprivileged = StreamEntry {
        unprivileged: true,
        ..everything
    };
    let difference = unprivileged.words()[1] ^ everything.words()[1];
    assert_eq!(difference, 0b10 << (112 - 64));

    let descriptor = ContextDescriptor {
        root: 0x4000_1000,
        virtual_bits: 48,
        physical_size: PhysicalSize::from_bits(44).unwrap(),
        memory_attributes: 0x44_ff00,
        asid: 5,
        cacheability: Cacheability::WriteBack,
        stall: false,
    };
    // Linux's CTXDESC_CD_0_S: 1UL << 44.
    let stalls = ContextDescriptor {
        stall: true,
        ..descriptor
    };
    assert_eq!(stalls.words()[0] ^ descriptor.words()[0], 1 << 44);
    assert_eq!(blocked(stalls.words()[0]), blocked(descriptor.words()[0]));
    let mut words = descriptor.words();
    assert_eq!(
        golden["cd virtual=48 coherent ips=44 asid=5 ttb=0x40001000 mair=0x44ff00"],
        words
    );
    words[0] = blocked(words[0]);
    assert_eq!(
        golden["cd blocked virtual=48 coherent ips=44 asid=0 ttb=0x40001000 mair=0x44ff00"],
        words
    );
    let small = ContextDescriptor {
        root: 0xfe_dcba_9000,
        virtual_bits: 39,
        physical_size: PhysicalSize::from_bits(40).unwrap(),
        memory_attributes: 0xff,
        asid: 0xffff,
        cacheability: Cacheability::NonCacheable,
        stall: false,
    };
    assert_eq!(
        golden["cd virtual=39 noncoherent ips=40 asid=0xffff ttb=0xfedcba9000 mair=0xff"],
        small.words()
    );
}

#[test]
fn qemu_reads_a_context_descriptor_as_it_was_meant() {
    // Bit positions of 32-bit words: QEMU, include/hw/arm/smmuv3-common.h (CD_0 to CD_3); the
    // conditions of decode_cd: hw/arm/smmuv3.c.
    let words = ContextDescriptor {
        root: 0xfff_ffff_f000,
        virtual_bits: 40,
        physical_size: PhysicalSize::from_bits(44).unwrap(),
        memory_attributes: 0,
        asid: 0xa5c3,
        cacheability: Cacheability::WriteBack,
        stall: false,
    }
    .words();
    let [w0, w1, w2, w3] = [
        words[0] as u32,
        (words[0] >> 32) as u32,
        words[1] as u32,
        (words[1] >> 32) as u32,
    ];
    assert_eq!(w0 >> 31, 1, "V");
    assert_eq!(w0 & 0x3f, 24, "TSZ0");
    assert_eq!(w0 >> 6 & 3, 0, "TG0");
    assert_eq!(
        (w0 >> 14 & 1, w0 >> 30 & 1, w0 >> 15 & 1),
        (0, 1, 0),
        "EPD0, EPD1, ENDI"
    );
    assert_eq!((w1 & 7, w1 >> 9 & 1), (4, 1), "IPS, AARCH64");
    assert_eq!(
        (w1 >> 10 & 1, w1 >> 11 & 1, w1 >> 12 & 1),
        (0, 0, 0),
        "HD, HA, S"
    );
    assert_eq!(
        (w1 >> 13 & 1, w1 >> 14 & 1, w1 >> 16),
        (1, 1, 0xa5c3),
        "R, A, ASID"
    );
    let root = u64::from(w3 & 0xf_ffff) << 32 | u64::from(w2 & !0xf);
    assert_eq!((w2 >> 1 & 1, root), (0, 0xfff_ffff_f000), "HAD0, TTB0");
}

#[test]
fn a_level_1_descriptor_spans_its_leaf() {
    // IHI 0070 5.1: Span = log2 + 1, L2Ptr in bits 55:6.
    assert_eq!(level_1_descriptor(0x1234_5678_c000, 8), 0x1234_5678_c009);
}

#[test]
fn no_field_spills_into_its_neighbour() {
    assert_eq!(commands::cfgi_cd(1, u32::MAX, true), [0x1_ffff_f005, 1]);
    assert_eq!(
        commands::atc_inv(1, Some(u32::MAX), u64::MAX, 127),
        [0x1_ffff_f840, 0xffff_ffff_ffff_f03f]
    );
    assert_eq!(commands::tlbi_nh_va(0, 0x1fff, false), [0x12, 0x1000]);
    assert_eq!(
        commands::sync_with_message(u64::MAX, 0)[1],
        0x00ff_ffff_ffff_fffc
    );
}

fn capabilities(identity: Identity) -> Capabilities {
    Capabilities::read(&Machine::new(identity).mmio()).unwrap()
}

fn encode(target: Target, range: Range, levels: Levels, identity: Identity) -> Vec<Command> {
    encode_at(Costs::DEFAULT, target, range, levels, identity)
}

fn encode_at(
    costs: Costs,
    target: Target,
    range: Range,
    levels: Levels,
    identity: Identity,
) -> Vec<Command> {
    let targets = [target];
    let invalidation = Invalidation {
        targets: &targets,
        range,
        levels,
    };
    let mut commands = Vec::new();
    invalidate::encode(
        &invalidation,
        &capabilities(identity),
        &costs,
        &mut |item| match item {
            Item::Command(command) => commands.push(command),
            Item::Barrier => panic!("one target needs no barrier"),
        },
    );
    commands
}

struct Row {
    range: Range,
    pages: u64,
    atc: Command,
    tlb: Vec<Command>,
}

fn rows() -> Vec<Row> {
    let command = |text: &str| {
        let (low, high) = text.split_once(':').unwrap();
        [hex(low), hex(high)]
    };
    let row = |line: &str| {
        let columns: Vec<_> = line.split('|').collect();
        let (start, last) = columns[0].split_once(',').unwrap();
        let (start, last) = (hex(start), hex(last));
        let (list, _) = columns[6].split_once("n=").unwrap();
        Row {
            range: Range::new(start, last + 1).unwrap(),
            pages: (last + 1 - start) >> 12,
            atc: command(columns[5]),
            tlb: list
                .split(',')
                .filter(|text| !text.trim().is_empty())
                .map(command)
                .collect(),
        }
    };
    RANGES
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(row)
        .collect()
}

/// NUM, SCALE and the address of a range command, and the rest of its bits.
fn split([low, high]: Command) -> (u64, u64, Command) {
    let range = 0x01f1_f000;
    let pages = ((low >> 12 & 0x1f) + 1) << (low >> 20 & 0x1f);
    (high >> 12, pages, [low & !range, high & 0xfff])
}

#[test]
fn range_commands_agree_with_linux_and_are_never_more() {
    let iotlb = Target::Iotlb {
        tag: Tag(5),
        pasid: Pasid::UNTAGGED,
    };
    let rows = rows();
    assert_eq!(rows.len(), 200);
    let mut equal = 0;
    for row in rows {
        let ours = encode(iotlb, row.range, Levels::All, QEMU);
        assert!(
            ours.len() <= row.tlb.len().min(2),
            "{:?}: {ours:x?}",
            row.range
        );
        let first = row.range.start() >> 12;
        if row.pages == 1 {
            // Linux invalidates a page too many; the form without a range is exact.
            assert_eq!(ours, [[0x0005_0000_0000_0012, first << 12]]);
            continue;
        }
        if row.tlb.len() == 1 {
            assert_eq!(ours, row.tlb, "{:?}", row.range);
            equal += 1;
            continue;
        }
        let (_, _, fields) = split(row.tlb[0]);
        let mut covered = first;
        for command in ours {
            let (start, pages, ours) = split(command);
            assert_eq!(ours, fields, "opcode, ASID, TG, TTL and Leaf");
            assert!(start <= covered, "a gap");
            covered = start + pages;
        }
        assert_eq!(covered, first + row.pages, "{:?}", row.range);
    }
    assert!(equal > 50, "only {equal} rows were compared bit for bit");
}

#[test]
fn device_tlb_commands_agree_with_linux_and_cover_less() {
    let device = Target::DeviceTlb {
        device: DeviceId(8),
        pasid: Pasid::new(9).unwrap(),
    };
    let mut equal = 0;
    for row in rows() {
        let ours = encode(device, row.range, Levels::All, FULL);
        let (first, end) = (row.range.start() >> 12, row.range.end() >> 12);
        let mut covered = first;
        for &[low, high] in &ours {
            assert_eq!(low, row.atc[0], "opcode, StreamID, SSV and SubstreamID");
            let (start, pages) = (high >> 12, 1 << (high & 0x3f));
            assert!(start.is_multiple_of(pages), "{high:#x} is not aligned");
            assert!(start <= covered, "a gap");
            covered = start + pages;
        }
        assert!(covered >= end, "{:?}: {ours:x?}", row.range);
        if let [one] = ours[..] {
            assert_eq!(one, row.atc);
            equal += 1;
        }
    }
    assert!(equal > 10, "only {equal} rows were compared bit for bit");
}

#[test]
fn leaf_only_changes_set_the_leaf_bit_and_no_level_hint() {
    let iotlb = Target::Iotlb {
        tag: Tag(5),
        pasid: Pasid::UNTAGGED,
    };
    let range = Range::new(0x20_0000, 0x40_0000).unwrap();
    // 512 pages: NUM 0, SCALE 9, TG 4 KiB.
    assert_eq!(
        encode(iotlb, range, Levels::LeafOnly, QEMU),
        [[0x0005_0000_0090_0012, 0x20_0401]]
    );
    assert_eq!(
        encode(iotlb, range, Levels::All, QEMU),
        [[0x0005_0000_0090_0012, 0x20_0400]]
    );
}

#[test]
fn without_ranges_it_is_page_by_page_up_to_a_limit() {
    let identity = Identity { idr3: 0, ..QEMU };
    let iotlb = Target::Iotlb {
        tag: Tag(5),
        pasid: Pasid::UNTAGGED,
    };
    let pages = |count: u64| {
        encode(
            iotlb,
            Range::new(0x1000, 0x1000 + count * 0x1000).unwrap(),
            Levels::LeafOnly,
            identity,
        )
    };
    let expected: Vec<_> = (1..=64u64)
        .map(|page| [0x0005_0000_0000_0012, page << 12 | 1])
        .collect();
    assert_eq!(pages(64), expected);
    assert_eq!(pages(65), [[0x0005_0000_0000_0011, 0]]);
}

#[test]
fn the_costs_decide_how_precise_a_list_is() {
    let device = Target::DeviceTlb {
        device: DeviceId(8),
        pasid: Pasid::UNTAGGED,
    };
    let iotlb = Target::Iotlb {
        tag: Tag(5),
        pasid: Pasid::UNTAGGED,
    };
    let list = |costs, target, pages: u64, idr3| {
        let range = Range::new(0x7000, 0x7000 + (pages << 12)).unwrap();
        let identity = Identity { idr3, ..FULL };
        encode_at(costs, target, range, Levels::All, identity)
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
    assert_eq!(list(exact, device, 15, FULL.idr3).len(), 4);
    assert_eq!(list(Costs::DEFAULT, device, 15, FULL.idr3).len(), 3);
    assert_eq!(list(dear, device, 15, FULL.idr3).len(), 2);
    // Three pages cost less than forgetting the ASID, four more.
    let tag_wide = [[0x0005_0000_0000_0011, 0]];
    assert_eq!(list(dear, iotlb, 3, 0).len(), 3);
    assert_eq!(list(dear, iotlb, 4, 0), tag_wide);
    let forgetful = Costs {
        tag_wide: 99,
        ..Costs::DEFAULT
    };
    assert_eq!(list(forgetful, iotlb, 32, FULL.idr3).len(), 1);
    assert_eq!(list(forgetful, iotlb, 33, FULL.idr3), tag_wide);
}

#[test]
fn everything_is_tag_wide_and_order_52() {
    let iotlb = Target::Iotlb {
        tag: Tag(5),
        pasid: Pasid::UNTAGGED,
    };
    assert_eq!(
        encode(iotlb, Range::ALL, Levels::All, QEMU),
        [[0x0005_0000_0000_0011, 0]]
    );
    let beyond_ranges = Range::new(0, (1 << 48) + 0x1000).unwrap();
    assert_eq!(
        encode(iotlb, beyond_ranges, Levels::All, QEMU),
        [[0x0005_0000_0000_0011, 0]]
    );
    let untagged = Target::DeviceTlb {
        device: DeviceId(8),
        pasid: Pasid::UNTAGGED,
    };
    assert_eq!(
        encode(untagged, Range::ALL, Levels::All, FULL),
        [[0x0000_0008_0000_0040, 52]]
    );
}

/// Linux's macros: CMDQ_PRI_0_SSID 31:12, CMDQ_PRI_0_SID 63:32, CMDQ_PRI_1_GRPID 8:0, CMDQ_PRI_1_RESP
/// 13:12, CMDQ_0_SSV 11, opcode 0x41; CMDQ_RESUME_0_RESP 13:12 (RETRY 1, ABORT 2), CMDQ_RESUME_0_SID
/// 63:32, CMDQ_RESUME_1_STAG 15:0, opcode 0x44. The codes are IHI 0070's (4.5.2).
#[test]
fn answers_are_encoded_as_linux_encodes_them() {
    use commands::{ResponseCode, Resume};
    for (code, bits) in [
        (ResponseCode::ResponseFailure, 0),
        (ResponseCode::InvalidRequest, 1),
        (ResponseCode::Success, 2),
    ] {
        let command = commands::pri_resp(0x108, Some(9), 0x1ff, code);
        assert_eq!(command, [0x108_0000_9841, bits << 12 | 0x1ff]);
        let widest = commands::pri_resp(u32::MAX, Some(u32::MAX), u16::MAX, code);
        assert_eq!(widest, [0xffff_ffff_ffff_f841, bits << 12 | 0x1ff]);
    }
    let without = commands::pri_resp(0x108, None, 3, ResponseCode::Success);
    assert_eq!(without, [0x108_0000_0041, 2 << 12 | 3]);
    assert_eq!(
        commands::resume(0x108, 0xffff, Resume::Retry),
        [0x108_0000_1044, 0xffff]
    );
    assert_eq!(
        commands::resume(0x108, 7, Resume::Abort),
        [0x108_0000_2044, 7]
    );
    assert_eq!(commands::stall_term(0x108), [0x108_0000_0045, 0]);
}

/// Linux's macros: PRIQ_0_SID 31:0, PRIQ_0_SSID 51:32, PERM_PRIV 58, PERM_EXEC 59, PERM_READ 60,
/// PERM_WRITE 61, PRG_LAST 62, SSID_V 63; PRIQ_1_PRG_IDX 8:0, PRIQ_1_ADDR 63:12. And EVTQ_0_SSV 11,
/// EVTQ_0_SSID 31:12, EVTQ_1_STAG 15:0, EVTQ_1_STALL 31, EVTQ_1_PnU 33, EVTQ_1_InD 34, EVTQ_1_RnW 35.
#[test]
fn requests_are_decoded_as_linux_lays_them_out() {
    use iommu_core::ids::{DeviceId, Pasid};
    use iommu_core::page_request::{Origin, PageRequest, Permissions};
    use iommu_smmuv3::page_requests::{decode, decode_stall};
    use iommu_smmuv3::spec::events::{Event, PageRequestRecord};
    let all = Permissions {
        read: true,
        write: true,
        execute: true,
        privileged: true,
    };
    let request = PageRequest {
        device: DeviceId(0xdead_beef),
        pasid: Pasid::MAX,
        address: 0xffff_8000_0000_1000,
        permissions: all,
        group: 0x155,
        last: true,
        origin: Origin::PageRequest,
    };
    let words = [0xfc0f_ffff_dead_beef, 0xffff_8000_0000_1155];
    assert_eq!(decode(&PageRequestRecord(words)), request);
    // Without SSV, the SubstreamID means nothing.
    let bare = decode(&PageRequestRecord([0x000f_ffff_0000_0000, 0]));
    assert_eq!(
        (bare.pasid, bare.permissions),
        (Pasid::UNTAGGED, Permissions::default())
    );

    let stall = |number: u64, flags: u64| {
        let words = [
            0x108 << 32 | 9 << 12 | 1 << 11 | number,
            flags | 0xbeef,
            0x1234,
            0,
        ];
        decode_stall(&Event(words))
    };
    const STALL: u64 = 1 << 31;
    let write = PageRequest {
        device: DeviceId(0x108),
        pasid: Pasid::new(9).unwrap(),
        address: 0x1234,
        permissions: Permissions {
            write: true,
            ..Permissions::default()
        },
        group: 0xbeef,
        last: true,
        origin: Origin::Stall,
    };
    for number in 0x10..=0x13 {
        assert_eq!(stall(number, STALL), Some(write), "{number:#x}");
        assert_eq!(stall(number, 0), None);
    }
    assert_eq!(stall(0x0a, STALL), None);
    let permissions = |flags| stall(0x10, STALL | flags).unwrap().permissions;
    let (read, fetch) = (permissions(1 << 35), permissions(0b11 << 34));
    assert!(read.read && !read.write && !read.execute);
    assert!(fetch.execute && !fetch.read && !fetch.write);
    assert!(permissions(1 << 33).privileged);
}
