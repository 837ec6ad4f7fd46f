//! Root, context, directory and PASID entries: faults and how they are recorded.

use crate::bench::*;
use iommu_model::vtd::Configuration;
use iommu_model::{Access, Hardware, Policy, Refusal, Request};

const UNREADABLE: u64 = 0x12_3456_7000;

/// The reason for which a read is refused after a change of the tables.
fn reason(change: impl FnOnce(&Bench)) -> Option<u8> {
    let bench = Bench::new();
    change(&bench);
    assert!(bench.read(VA).is_err());
    bench.take_fault()
}

/// Reasons and their texts are in Linux's table (drivers/iommu/intel/dmar.c).
#[test]
fn entries_have_their_faults() {
    let pasid = |word: usize, value: u64| {
        move |bench: &Bench| {
            let mut words = first_stage(bench.table.root, DOMAIN);
            words[word] = words[word] & !0x1fe | value;
            if word == 2 {
                words[word] |= bench.table.root;
            }
            bench.set_pasid(PASID, words);
        }
    };
    let context = |word: usize, value: u64| {
        move |bench: &Bench| {
            let mut words = context(bench.directory);
            words[word] ^= value;
            bench.set_context(words);
        }
    };
    assert_eq!(reason(|bench| bench.store(bench.root, &[0])), Some(0x39));
    assert_eq!(
        reason(|bench| bench.store(bench.root, &[bench.contexts | 3])),
        Some(0x3a)
    );
    assert_eq!(
        reason(|bench| bench.store(bench.root, &[UNREADABLE | 1])),
        Some(0x40)
    );
    assert_eq!(reason(context(0, 1)), Some(0x41));
    assert_eq!(reason(context(0, 1 << 5)), Some(0x42));
    assert_eq!(reason(context(0, 1 << 50)), Some(0x42));
    assert_eq!(reason(context(1, 1 << 21)), Some(0x42));
    assert_eq!(reason(context(3, 1)), Some(0x42));
    assert_eq!(reason(context(0, 1 << 3)), Some(0x45));
    assert_eq!(
        reason(|bench| bench.store(bench.directory, &[0])),
        Some(0x51)
    );
    assert_eq!(
        reason(|bench| bench.store(bench.directory, &[bench.pasids | 5])),
        Some(0x52)
    );
    assert_eq!(
        reason(|bench| bench.store(bench.directory, &[UNREADABLE | 1])),
        Some(0x58)
    );
    assert_eq!(reason(|bench| bench.set_pasid(PASID, [0; 8])), Some(0x59));
    assert_eq!(reason(pasid(0, 0x48 | 1 << 10)), Some(0x5a));
    assert_eq!(reason(pasid(1, 1 << 16)), Some(0x5a));
    assert_eq!(reason(pasid(4, 1)), Some(0x5a));
    assert_eq!(reason(pasid(0, 0x08)), Some(0x5b), "PGTT 0");
    assert_eq!(reason(pasid(0, 0x148)), Some(0x5b), "PGTT 5");
    assert_eq!(reason(pasid(0, 0x80)), Some(0x5b), "AW 0 of a second stage");
    assert_eq!(reason(pasid(2, 0b1000)), Some(0x5b), "FSPM 2");
}

#[test]
fn a_pasid_beyond_the_directory_is_too_large() {
    let bench = Bench::new();
    let request = Request {
        pasid: Some(1 << 13),
        ..bench.request(VA, Access::Read)
    };
    assert!(bench.model.translate(&request).is_err());
    assert_eq!(bench.take_fault(), Some(0x46));
}

#[test]
fn the_upper_half_of_a_bus_has_a_table_of_its_own() {
    let bench = Bench::new();
    let upper = bench.page();
    bench.store(bench.root + 16 * 3 + 8, &[upper | 1]);
    bench.store(upper + 32 * 0x7e, &context(bench.directory));
    bench.table.map(VA, BASE);
    let request = Request {
        device: 0x03fe,
        ..bench.request(VA, Access::Read)
    };
    assert!(bench.model.translate(&request).is_ok());
}

#[test]
fn fault_processing_disable_is_quiet() {
    let bench = Bench::new();
    // P clear, FPD set.
    bench.set_pasid(PASID, [2, 0, 0, 0, 0, 0, 0, 0]);
    assert!(bench.read(VA).is_err());
    let mut words = first_stage(bench.table.root, DOMAIN);
    words[0] |= 2;
    bench.set_pasid(PASID, words);
    assert!(bench.read(VA).is_err());
    assert_eq!(bench.take_fault(), None);
    // A table that cannot be read is told all the same.
    let mut words = context(UNREADABLE);
    words[0] |= 2;
    bench.set_context(words);
    bench.execute(&[[0x11, 0], [0x37, 0]]);
    assert!(bench.read(VA).is_err());
    assert_eq!(bench.take_fault(), Some(0x50));
}

/// RID_PASID counts only with ECAP.RPS.
#[test]
fn requests_without_a_pasid_use_rid_pasid() {
    for rid_pasid in [false, true] {
        let configuration = Configuration {
            rid_pasid,
            ..Configuration::default()
        };
        let bench = Bench::with(configuration, Policy::STRICT, 0);
        let mut words = context(bench.directory);
        words[1] = u64::from(PASID);
        bench.set_context(words);
        bench.table.map(VA, BASE);
        let request = Request {
            pasid: None,
            ..bench.request(VA, Access::Write)
        };
        assert_eq!(bench.model.translate(&request).is_ok(), rid_pasid);
    }
}

#[test]
fn the_device_tlb_must_be_enabled() {
    let bench = Bench::new();
    bench.table.map(VA, BASE);
    assert!(bench.model.admits_translated(DEVICE));
    let mut words = context(bench.directory);
    words[0] &= !4;
    bench.set_context(words);
    bench.execute(&[[0x11, 0]]);
    assert_eq!(
        bench.ask(VA, Access::Read),
        Err(Refusal::UnsupportedRequest)
    );
    assert_eq!(bench.take_fault(), Some(0x44));
    assert!(!bench.model.admits_translated(DEVICE));
    assert_eq!(bench.take_fault(), Some(0x44));
    assert!(!bench.model.admits_translated(DEVICE + 1));
    assert_eq!(bench.take_fault(), Some(0x41));
}

#[test]
fn writes_without_a_pasid_to_the_interrupt_range_are_no_accesses() {
    let bench = Bench::new();
    let request = |access| Request {
        pasid: None,
        ..bench.request(0xfee0_1000, access)
    };
    let refused = Err(Refusal::UnsupportedRequest);
    assert_eq!(bench.model.translate(&request(Access::Write)), refused);
    assert_eq!(bench.take_fault(), None);
    assert_eq!(bench.model.translate(&request(Access::Read)), refused);
    assert_eq!(bench.take_fault(), Some(0x87));
}

/// The record's fields by Linux's dma_frcd macros: F, type, PASID, PASID present, reason, source-id.
#[test]
fn a_record_says_what_was_asked() {
    let bench = Bench::new();
    bench.write(VA | 0x123).unwrap_err();
    let [low, high] = bench.take_record().unwrap();
    assert_eq!(low, VA);
    assert_eq!(high, 1 << 63 | 9 << 40 | 0x71 << 32 | 1 << 31 | 0x20);
    bench.read(VA).unwrap_err();
    let [_, high] = bench.take_record().unwrap();
    assert_eq!(high >> 62, 0b11, "a read");
}
