//! Encodings against values that this crate had no part in making.

use iommu_core::Range;
use iommu_core::cover::{self, Costs};
use iommu_core::ids::{DeviceId, Pasid, PhysicalAddress, Tag};
use iommu_core::operation::{Invalidation, Levels, Target};
use iommu_vtd::caps::Capabilities;
use iommu_vtd::invalidate::{Item, encode};
use iommu_vtd::spec::commands::{self, Command, Drain};
use iommu_vtd::spec::registers::{self, Global};
use iommu_vtd::spec::tables::{ContextEntry, FirstStageEntry, directory_entry, root_half};

/// `start,last | ... | device TLB | PASID IOTLB | PASID device TLB | ...` for 200 ranges, as the
/// command builders of Linux 7.3.4 produced them, two words each as `low:high`.
const LINUX: &str = include_str!("golden/linux-range-commands.txt");

struct Row {
    first: u64,
    last: u64,
    device_tlb: Command,
    pasid_iotlb: Command,
    pasid_device_tlb: Command,
}

fn rows() -> Vec<Row> {
    let hexadecimal = |text: &str| u64::from_str_radix(text.trim(), 16).unwrap();
    let command = |text: &str| {
        let (low, high) = text.split_once(':').unwrap();
        [hexadecimal(low), hexadecimal(high), 0, 0]
    };
    let row = |line: &str| {
        let columns: Vec<_> = line.split('|').collect();
        let (first, last) = columns[0].split_once(',').unwrap();
        Row {
            first: hexadecimal(first),
            last: hexadecimal(last),
            device_tlb: command(columns[2]),
            pasid_iotlb: command(columns[3]),
            pasid_device_tlb: command(columns[4]),
        }
    };
    let lines = LINUX.lines().filter(|line| !line.starts_with('#'));
    let rows: Vec<_> = lines.map(row).collect();
    assert_eq!(rows.len(), 200);
    rows
}

/// The file was made with domain 7, PASID 9, source-id 01:00.0, no PFSID, IH clear.
#[test]
fn blocks_are_encoded_as_linux_encodes_them() {
    let pasid = Pasid::new(9).unwrap();
    for row in rows() {
        let order = (u64::BITS - (row.first ^ row.last).leading_zeros()).saturating_sub(12);
        let address = row.first >> 12 >> order << order << 12;
        assert_eq!(
            commands::pasid_iotlb_page(7, pasid, address, order, false),
            row.pasid_iotlb
        );
        assert_eq!(
            commands::device_tlb(0x100, 0, address, order),
            row.device_tlb
        );
        assert_eq!(
            commands::pasid_device_tlb(0x100, 0, pasid, address, order),
            row.pasid_device_tlb
        );
    }
}

/// Ours may be tighter than Linux's single block, but every page of the range is in it, and at most
/// as many again.
#[test]
fn lists_cover_the_ranges_of_linux_by_their_own_decoding() {
    let pasid = Pasid::new(9).unwrap();
    let targets = [
        Target::Iotlb { tag: Tag(7), pasid },
        Target::DeviceTlb {
            device: DeviceId(0x100),
            pasid,
        },
        Target::DeviceTlb {
            device: DeviceId(0x100),
            pasid: Pasid::UNTAGGED,
        },
    ];
    let capabilities = Capabilities::from_registers(1 << 39 | 48 << 48, 0);
    let costs = Costs {
        tag_wide: u32::MAX,
        most_commands: 2,
        ..Costs::DEFAULT
    };
    for row in rows() {
        let range = Range::new(row.first, row.last + 1).unwrap();
        let invalidation = Invalidation {
            targets: &targets,
            range,
            levels: Levels::All,
        };
        let mut commands = Vec::new();
        encode(&invalidation, &capabilities, &costs, &mut |item| {
            if let Item::Command(command) = item {
                commands.push(command);
            }
        });
        for kind in [6, 8, 3] {
            let blocks = commands.iter().filter(|command| command[0] & 0xf == kind);
            let mut spans: Vec<_> = blocks.map(span).collect();
            spans.sort();
            assert!(spans.len() <= 2);
            assert!(spans.windows(2).all(|pair| pair[0].1 + 1 == pair[1].0));
            let (start, last) = (spans[0].0, spans[spans.len() - 1].1);
            assert!(start <= row.first && row.last <= last, "{:#x}", row.first);
            assert!(
                last - start < 2 * (row.last - row.first + 1),
                "{:#x}",
                row.first
            );
        }
    }
}

/// First and last byte of a block, as the hardware reads a descriptor.
fn span(command: &Command) -> (u64, u64) {
    let high = command[1];
    let address = high & !0xfff;
    let sized = |is_sized: bool| {
        let order = if is_sized {
            (address >> 12).trailing_ones() + 1
        } else {
            0
        };
        let size = 0x1000u64 << order;
        (address & !(size - 1), address | (size - 1))
    };
    match command[0] & 0xf {
        6 => (address, address + ((0x1000 << (high & 0x3f)) - 1)),
        8 => sized(high >> 11 & 1 != 0),
        3 => sized(high & 1 != 0),
        other => panic!("type {other}"),
    }
}

/// Values computed with Linux's macros (drivers/iommu/intel/iommu.h): QI_CC_*, QI_IOTLB_*, QI_PC_*,
/// QI_EIOTLB_*, QI_DEV_IOTLB_*, QI_DEV_EIOTLB_*, QI_IWD_*.
#[test]
fn descriptors_have_linuxs_fields() {
    let pasid = Pasid::new(0x54321).unwrap();
    let drain = Drain {
        reads: true,
        writes: true,
    };
    let none = Drain {
        reads: false,
        writes: false,
    };
    for (command, low, high) in [
        (commands::context_cache_global(), 0x11, 0),
        (commands::context_cache_device(0xabcd), 0xabcd_0000_0031, 0),
        (commands::iotlb_global(drain), 0xd2, 0),
        (commands::iotlb_global(none), 0x12, 0),
        (commands::iotlb_domain(0xbeef, drain), 0xbeef_00e2, 0),
        (commands::pasid_cache_domain(0xbeef), 0xbeef_0007, 0),
        (
            commands::pasid_cache_pasid(0xbeef, pasid),
            0x5_4321_beef_0017,
            0,
        ),
        (commands::pasid_cache_global(), 0x37, 0),
        (
            commands::pasid_iotlb_all(0xbeef, pasid),
            0x5_4321_beef_0026,
            0,
        ),
        (
            commands::pasid_iotlb_page(0xbeef, pasid, 0x7fff_ffff_f000, 0, true),
            0x5_4321_beef_0036,
            0x7fff_ffff_f040,
        ),
        (
            commands::device_tlb(0xabcd, 0x1234, 0x5000, 0),
            0x1230_abcd_0000_4003,
            0x5000,
        ),
        (
            commands::pasid_device_tlb(0xabcd, 0x1234, pasid, 0x5000, 0),
            0x1235_4321_abcd_4008,
            0x5000,
        ),
        (
            commands::device_tlb(0xabcd, 0, 0, 52),
            0xabcd_0000_0003,
            0x7fff_ffff_ffff_f001,
        ),
        (
            commands::wait_status(PhysicalAddress(0x1_2345_6784), 0xdead_beef),
            0xdead_beef_0000_0025,
            0x1_2345_6784,
        ),
        (commands::wait_fence(), 0x45, 0),
    ] {
        assert_eq!(command, [low, high, 0, 0]);
    }
}

/// What does not fit a field is cut off and touches no other (B-33). The masks are the reserved
/// bits that QEMU checks (hw/i386/intel_iommu_internal.h).
#[test]
fn no_field_spills_into_its_neighbour() {
    let page = commands::pasid_iotlb_page(u16::MAX, Pasid::MAX, u64::MAX, u32::MAX, true);
    assert_eq!(page[0] & 0xfff0_0000_0000_ffc0, 0);
    assert_eq!(page[1] & 0xf80, 0);
    let device = commands::device_tlb(u16::MAX, 0, u64::MAX, u32::MAX);
    assert_eq!(device[0] & 0xffff_0000_ffe0_fff8, 0);
    assert_eq!(device[1] & 0xffe, 0);
    let pasid = commands::pasid_device_tlb(u16::MAX, 0, Pasid::MAX, u64::MAX, u32::MAX);
    assert_eq!(pasid[0] & 0xfff0_0000_0000_ffe0, 0);
    assert_eq!(pasid[1] & 0x7ff, 0);
    let wait = commands::wait_status(PhysicalAddress(u64::MAX), u32::MAX);
    assert_eq!((wait[0] & 0xffff_ff00, wait[1] & 3), (0, 0));
}

/// Linux's pasid.h and iommu.c: PASID_ENTRY_PGTT_FL_ONLY at 6, AW at 2, DID at 64, PWSNP at 87, FLPM
/// at 130; CONTEXT_PASIDE BIT(3), DTE BIT(2), PDTS at 9. Reserved bits as QEMU checks them.
#[test]
fn table_entries_have_linuxs_fields() {
    let entry = FirstStageEntry {
        domain_id: 0xbeef,
        root: PhysicalAddress(0xf_ffff_ffff_ffff),
        five_levels: true,
        page_walk_snoop: true,
    };
    let expected = [0x4d, 0x80_beef, 0xf_ffff_ffff_f004, 0, 0, 0, 0, 0];
    assert_eq!(entry.words(), expected);
    let context = ContextEntry {
        directory: PhysicalAddress(0x1234_5678_9fff),
        directory_size: 0xff,
        pasid_enable: true,
        device_tlb_enable: true,
        page_request_enable: false,
    };
    let words = context.words();
    assert_eq!(words, [0x1234_5678_9e0d, 0, 0, 0]);
    // Linux's context_set_sm_pre(): BIT(4).
    let context = ContextEntry {
        page_request_enable: true,
        ..context
    };
    assert_eq!(context.words()[0], 0x1234_5678_9e1d);
    assert_eq!(words[0] & 0x1e0, 0, "VTD_SM_CONTEXT_ENTRY_RSVD_VAL0");
    assert_eq!(root_half(PhysicalAddress(0x1234_5fff)), 0x1234_5001);
    assert_eq!(directory_entry(PhysicalAddress(0x1234_5fff)), 0x1234_5001);
}

/// DMA_RTADDR_SMT, DMAR_IQA_REG with DW (BIT(11)) and QS, and the shift of 5 of scalable mode's
/// queue pointers; DMA_GCMD_*.
#[test]
fn registers_have_linuxs_fields() {
    assert_eq!(registers::root_table_address(0x1234_5fff), 0x1234_5400);
    assert_eq!(registers::queue_address(0x1234_5000, 256), 0x1234_5801);
    assert_eq!(registers::queue_address(0x1234_5000, 128), 0x1234_5800);
    assert_eq!(registers::queue_address(0x1234_5000, 1 << 14), 0x1234_5807);
    assert_eq!(registers::queue_tail(255), 0x1fe0);
    assert_eq!(registers::queue_slot(0x1fe0), 255);
    assert_eq!(Global::PERSISTENT.bits(), 0x9680_0000);
}

/// CAP and ECAP of QEMU 11.1.3 with scalable-mode, fsts, device-iotlb, pasid-bits=20 and svm, and
/// what QEMU's options say they stand for.
#[test]
fn qemus_capabilities_are_read_as_qemu_means_them() {
    let qemu = Capabilities::from_registers(0x81d2_008c_222f_0606, 0x0000_8d9a_20f0_0f4e);
    assert_eq!(qemu.require(), Ok(()));
    assert_eq!((qemu.pasid_bits(), qemu.levels()), (20, 4));
    assert_eq!(qemu.page_selective_order(), Some(18));
    assert_eq!(qemu.last_tag(), 0xffff);
    assert_eq!((qemu.fault_records(), qemu.fault_record(0)), (1, 0x220));
    assert_eq!(qemu.register_bytes(), 0x230);
    assert_eq!(
        qemu.drain(),
        Drain {
            reads: true,
            writes: true
        }
    );
    assert!(qemu.root_table_invalidates() && qemu.features().device_tlb);
    assert!(!qemu.page_walk_snoop() && !qemu.caching_mode() && !qemu.write_buffer_flush());
    assert!(!qemu.device_tlb_throttle() && !qemu.protected_memory());

    let second_stage = Capabilities::from_registers(0x80d2_008c_222f_0606, 0x0000_4998_80f0_0f4e);
    let legacy = Capabilities::from_registers(0x80d2_008c_222f_0606, 0x0000_0000_00f0_0f4a);
    let names = |capabilities: Capabilities| capabilities.require().unwrap_err().to_string();
    assert!(names(second_stage).contains("FSTS") && names(legacy).contains("SMTS"));
    let caching = Capabilities::from_registers(0x81d2_008c_222f_0686, 0x0000_8d9a_20f0_0f5e);
    assert!(caching.caching_mode());
}

/// A block of 2^51 pages and the one of 2^52 are distinct, and no shift overflows.
#[test]
fn the_largest_blocks_have_a_size() {
    let half = cover::Block {
        address: 1 << 63,
        order: 51,
    };
    let command = commands::device_tlb(0x100, 0, half.address, half.order);
    assert_eq!(span(&command), (1 << 63, u64::MAX));
    let command = commands::device_tlb(0x100, 0, 0, 52);
    assert_eq!(command[1], 0x7fff_ffff_ffff_f001);
}

/// Linux 6.11's macros: `QI_PGRP_PASID_P` 4, `QI_PGRP_RESP_CODE` 12, `QI_PGRP_DID` 16,
/// `QI_PGRP_PASID` 32, `QI_PGRP_IDX` 3 in word 1, type 9; the codes are its `QI_RESP_*`. The masks are
/// QEMU's `VTD_INV_DESC_PGRESP_RSVD_LO` and `_HI`.
#[test]
fn a_page_group_response_is_encoded_as_linux_encodes_it() {
    let pasid = Pasid::new(0xa_bcde);
    for (pasid, code, low) in [
        (
            pasid,
            commands::ResponseCode::Success,
            0x000a_bcde_0100_0019,
        ),
        (
            pasid,
            commands::ResponseCode::InvalidRequest,
            0x000a_bcde_0100_1019,
        ),
        (None, commands::ResponseCode::ResponseFailure, 0x0100_f009),
    ] {
        let command = commands::page_group_response(0x100, pasid, 0x1ff, code);
        assert_eq!(command, [low, 0xff8, 0, 0]);
        let widest = commands::page_group_response(u16::MAX, Some(Pasid::MAX), u16::MAX, code);
        assert_eq!(widest[0] & 0xfff0_0000_0000_01e0, 0);
        assert_eq!(widest[1] & 0xffff_ffff_ffff_f003, 0);
    }
}

/// Linux's `QI_IWD_STATUS_WRITE` 1 << 5, `QI_IWD_FENCE` 1 << 6, `QI_IWD_PRQ_DRAIN` 1 << 7.
#[test]
fn a_draining_wait_is_encoded_as_linux_encodes_it() {
    let address = PhysicalAddress(0x7_0000_1000);
    let drain = commands::wait_drain(address, true);
    assert_eq!(drain, [1 << 32 | 0xe5, 0x7_0000_1000, 0, 0]);
    assert_eq!(commands::wait_drain(address, false)[0], 1 << 32 | 0x65);
}

/// The fields as Linux's `struct page_req_dsc` lays them out: type:8, pasid_present:1, rsvd:7, rid:16,
/// pasid:20, exe_req:1, pm_req:1; rd_req:1, wr_req:1, lpig:1, prg_index:9, addr:52.
#[test]
fn a_page_request_is_decoded_as_linux_lays_it_out() {
    use iommu_core::page_request::{Origin, PageRequest, Permissions};
    use iommu_vtd::page_requests::decode;
    use iommu_vtd::spec::events::PageRequestRecord;
    let all = PageRequest {
        device: DeviceId(0x1234),
        pasid: Pasid::new(0xf_ffff).unwrap(),
        address: 0xffff_8000_0000_1000,
        permissions: Permissions {
            read: true,
            write: true,
            execute: true,
            privileged: true,
        },
        group: 0x155,
        last: true,
        origin: Origin::PageRequest,
    };
    let low = 1 | 1 << 8 | 0x1234 << 16 | 0xf_ffff << 32 | 1 << 52 | 1 << 53;
    let high = 0xffff_8000_0000_1000 | 0x155 << 3 | 0b111;
    assert_eq!(decode(PageRequestRecord { low, high }), Some(all));
    let bare = PageRequestRecord { low: 1, high: 0 };
    let expected = PageRequest {
        device: DeviceId(0),
        pasid: Pasid::UNTAGGED,
        address: 0,
        permissions: Permissions::default(),
        group: 0,
        last: false,
        origin: Origin::PageRequest,
    };
    assert_eq!(decode(bare), Some(expected));
    // Without PP, the PASID field means nothing.
    let low = 1 | 0xf_ffff << 32;
    assert_eq!(decode(PageRequestRecord { low, high: 0 }), Some(expected));
    assert_eq!(decode(PageRequestRecord { low: 2, high: 0 }), None);
}
