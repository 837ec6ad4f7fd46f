//! The register file.

use crate::bench::*;
use iommu_model::vtd::Configuration;
use iommu_model::{Hardware, Policy};

const LATER: Policy = Policy {
    later: true,
    ..Policy::STRICT
};

/// CAP and ECAP by the decoding macros of Linux (iommu.h).
#[test]
fn capabilities_read_as_they_are_decoded() {
    let bench = Bench::off(Configuration::default(), Policy::STRICT, 0);
    let (cap, ecap) = (bench.read64(0x08), bench.read64(0x10));
    let (cap_field, ecap_bit) = (
        |shift: u32, mask: u64| cap >> shift & mask,
        |shift: u32| ecap >> shift & 1,
    );
    assert_eq!(cap_field(0, 7), 6, "cap_ndoms: 2^16");
    assert_eq!(cap_field(7, 1), 0, "cap_caching_mode");
    assert_eq!(cap_field(8, 0x1f), 0xe, "cap_sagaw");
    assert_eq!(
        cap_field(24, 0x3ff) * 16,
        FRCD as u64,
        "cap_fault_reg_offset"
    );
    assert_eq!(cap_field(39, 1), 1, "cap_pgsel_inv");
    assert_eq!(cap_field(40, 0xff) + 1, 4, "cap_num_fault_regs");
    assert_eq!(cap_field(48, 0x3f), 18, "cap_max_amask_val");
    assert_eq!(cap_field(54, 3), 3, "cap_write_drain, cap_read_drain");
    assert_eq!(cap_field(60, 1), 1, "cap_fl5lp_support");
    assert_eq!(cap_field(63, 1), 1, "cap_esrtps");
    assert_eq!((ecap >> 8 & 0x3ff) * 16, 0xf0, "ecap_iotlb_offset");
    assert_eq!(ecap >> 35 & 0x1f, 19, "ecap_pss");
    for bit in [0, 1, 2, 3, 6, 26, 29, 31, 40, 42, 43, 45, 46, 47, 48] {
        assert_eq!(ecap_bit(bit), 1, "{bit}");
    }
    for bit in [30, 41, 49] {
        assert_eq!(ecap_bit(bit), 0, "{bit}");
    }
    assert_eq!(bench.read32(VER), 0x60);
}

#[test]
fn status_bits_follow_when_the_work_is_done() {
    let bench = Bench::off(Configuration::default(), LATER, 0);
    bench.write32(GCMD, 1 << 26);
    assert_eq!(bench.read32(GSTS), 0);
    assert!(bench.model.step());
    assert_eq!(bench.read32(GSTS), 1 << 26);
    // A one-shot's status bit goes off with the command and comes on with its end.
    bench.command(1 << 26 | 1 << 30);
    assert_eq!(bench.read32(GSTS), 1 << 26 | 1 << 30);
    bench.write32(GCMD, 1 << 26 | 1 << 30);
    assert_eq!(bench.read32(GSTS), 1 << 26);
    bench.machine.settle();
    bench.write32(GCMD, 1 << 26 | 1 << 27);
    assert_eq!(bench.read32(GSTS) >> 27 & 1, 1, "the flush is under way");
    bench.machine.settle();
    assert_eq!(bench.read32(GSTS) >> 27 & 1, 0);
    assert_eq!(bench.model.take_complaints(), [""; 0]);
    bench.write32(GCMD, 0);
    bench.write32(GCMD, 1 << 31 | 1 << 30);
    assert_eq!(bench.model.take_complaints().len(), 2);
}

#[test]
fn the_root_table_is_taken_when_it_is_set() {
    let bench = Bench::new();
    bench.table.map(VA, BASE);
    bench.write64(RTADDR, 1 << 10);
    assert!(bench.read(VA).is_ok());
    bench.command(1 << 31 | 1 << 30 | 1 << 26);
    assert!(bench.read(VA).is_err());
    assert_eq!(bench.take_fault(), Some(0x38));
    bench.write64(RTADDR, bench.root);
    bench.command(1 << 31 | 1 << 30 | 1 << 26);
    assert!(bench.read(VA).is_err());
    assert_eq!(bench.take_fault(), Some(0x30), "TTM 0");
}

#[test]
fn the_queue_goes_off_after_what_was_fetched_and_keeps_its_address_while_on() {
    let bench = Bench::with(Configuration::default(), LATER, 0);
    bench.write64(IQA, 0);
    assert_eq!(bench.model.take_complaints().len(), 1);
    assert_eq!(bench.read64(IQA), bench.queue | 1 << 11 | 1);
    bench.post(&[bench.wait(1), bench.wait(2)]);
    assert!(bench.model.step());
    assert_eq!(bench.read64(IQH), 32, "one is fetched");
    bench.write32(GCMD, 1 << 31);
    assert!(bench.model.step());
    assert_eq!(bench.read32(GSTS) >> 26 & 1, 1);
    bench.machine.settle();
    assert_eq!(bench.read32(GSTS) >> 26 & 1, 0);
    assert_eq!(bench.memory.cpu_load(bench.status), 1);
    assert_eq!(bench.read64(IQH), 0);
}

#[test]
fn fault_records_are_filled_in_a_circle_and_overflow() {
    let bench = Bench::new();
    for page in 0..4 {
        bench.read(VA + page * 4096).unwrap_err();
    }
    assert_eq!(bench.read32(FSTS), 1 << 1, "PPF, the first record is 0");
    bench.read(VA).unwrap_err();
    assert_eq!(bench.read32(FSTS), 0b11, "PFO");
    assert_eq!(bench.read64(FRCD), VA);
    assert_eq!(bench.read64(FRCD + 48), VA + 3 * 4096);
    // Free two; nothing is recorded until the overflow is acknowledged.
    bench.write32(FRCD + 12, 1 << 31);
    bench.write32(FRCD + 28, 1 << 31);
    bench.read(VA + 5 * 4096).unwrap_err();
    assert_eq!(bench.read64(FRCD), VA);
    bench.write32(FSTS, 1);
    bench.read(VA + 5 * 4096).unwrap_err();
    assert_eq!(bench.read64(FRCD), VA + 5 * 4096);
    for offset in [44, 60, 12] {
        bench.write32(FRCD + offset, 1 << 31);
    }
    assert_eq!(bench.read32(FSTS), 0);
    bench.read(VA).unwrap_err();
    assert_eq!(bench.read32(FSTS), 1 << 8 | 2, "record 1 is the first");
}

#[test]
fn one_interrupt_stands_for_all_until_software_looks() {
    let bench = Bench::new();
    bench.read(VA).unwrap_err();
    assert_eq!(bench.model.take_interrupts(), [""; 0]);
    assert_eq!(bench.read32(FECTL), 3 << 30, "masked and pending");
    bench.write32(FECTL, 0);
    assert_eq!(bench.model.take_interrupts(), ["fault event"]);
    assert_eq!(bench.read32(FECTL), 0);
    bench.read(VA).unwrap_err();
    assert_eq!(bench.model.take_interrupts(), [""; 0]);
    while bench.take_fault().is_some() {}
    bench.read(VA).unwrap_err();
    assert_eq!(bench.model.take_interrupts(), ["fault event"]);
}

/// CCMD and IOTLB_REG, by Linux's DMA_CCMD and DMA_TLB macros.
#[test]
fn caches_can_be_invalidated_by_registers() {
    let bench = Bench::off(Configuration::default(), Policy::STRICT, 0);
    bench.write64(RTADDR, bench.root | 1 << 10);
    bench.command(1 << 30);
    bench.command(1 << 31);
    bench.table.map(VA, BASE);
    bench.read(VA).unwrap();
    bench.table.unmap(VA);
    assert!(bench.read(VA).is_ok());
    bench.write64(0xf8, 1 << 63 | 2 << 60 | u64::from(DOMAIN) << 32);
    assert_eq!(
        bench.read64(0xf8),
        2 << 60 | 2 << 57 | u64::from(DOMAIN) << 32
    );
    assert!(bench.read(VA).is_err());
    bench.set_context([0; 4]);
    bench.table.map(VA, BASE);
    assert!(bench.read(VA).is_ok());
    bench.write64(0x28, 1 << 63 | 3 << 61 | u64::from(DEVICE) << 16);
    assert_eq!(bench.read64(0x28) >> 59, 0b1111, "done, by device");
    assert!(bench.read(VA).is_err());
}

#[test]
fn halves_of_a_register_are_written_one_by_one() {
    let bench = Bench::off(Configuration::default(), Policy::STRICT, 0);
    bench.write32(RTADDR + 4, 0x12);
    bench.write32(RTADDR, 0x3456_7400);
    assert_eq!(bench.read64(RTADDR), 0x12_3456_7400);
    assert_eq!(bench.read32(RTADDR + 4), 0x12);
}

#[test]
#[should_panic(expected = "no register is defined at offset 0x1000")]
fn an_undefined_register_is_a_mistake() {
    Bench::new().read32(0x1000);
}

#[test]
fn what_is_removed_reads_as_ones_and_does_nothing() {
    let bench = Bench::new();
    bench.model.remove();
    assert_eq!(bench.read32(GSTS), u32::MAX);
    assert_eq!(bench.read64(0x08), u64::MAX);
    bench.store(bench.queue, &bench.wait(1));
    bench.write64(IQT, 32);
    bench.machine.settle();
    assert_eq!(bench.memory.cpu_load(bench.status), 0);
    assert!(bench.read(VA).is_err());
    assert!(!bench.model.admits_translated(DEVICE));
}

#[test]
fn without_translation_addresses_stay_as_they_are() {
    let bench = Bench::off(Configuration::default(), Policy::STRICT, 0);
    let request = iommu_model::Request {
        pasid: None,
        ..bench.request(0x1234, iommu_model::Access::Write)
    };
    assert_eq!(bench.model.translate(&request).unwrap().address, 0x1234);
    assert!(bench.read(0x1234).is_err(), "with a PASID");
}
