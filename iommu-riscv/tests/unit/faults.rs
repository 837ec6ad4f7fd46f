//! The fault queue and the debug translation interface.

use crate::fake::{Bench, CAPABILITIES};
use iommu_core::fault::{FaultSummary, Reason};
use iommu_core::ids::{DeviceId, Pasid, PhysicalAddress};
use iommu_core::iommu::Iommu;
use iommu_riscv::debug::TranslateError;

/// A write of device 0x1234 to `address` without a context: cause 258, TTYP 3.
fn record(address: u64) -> [u64; 4] {
    [0x1234 << 40 | 3 << 34 | 258, 0, address, 0]
}

#[test]
fn faults_come_in_order_and_once() {
    let bench = Bench::new(CAPABILITIES);
    let unit = bench.unit();
    let taken = || {
        let mut addresses = Vec::new();
        let summary = unit.take_faults(&mut |fault| {
            assert_eq!(fault.device, DeviceId(0x1234));
            assert_eq!(fault.reason, Reason::DeviceNotConfigured);
            addresses.push(fault.address.unwrap());
        });
        assert_eq!(summary.reported, addresses.len());
        (addresses, summary.lost)
    };
    assert_eq!(taken(), (vec![], false));
    let mut address = 0;
    for count in [1, 2, 100, 127, 60] {
        let expected: Vec<u64> = (address..address + count).collect();
        address += count;
        expected
            .iter()
            .for_each(|address| bench.fake.fault(record(*address)));
        assert_eq!(taken(), (expected, false));
        let state = bench.fake.state();
        assert_eq!(state.fqh, state.fqt);
    }
}

#[test]
fn an_overflow_is_told_once_and_the_queue_goes_on() {
    let bench = Bench::new(CAPABILITIES);
    let unit = bench.unit();
    (0..200).for_each(|address| bench.fake.fault(record(address)));
    let take = || unit.take_faults(&mut |_| ());
    let summary = |reported, lost| FaultSummary { reported, lost };
    bench.fake.state().slow = 3;
    assert_eq!(take(), summary(127, true));
    assert_eq!(bench.fake.state().fqcsr, 1 | 3 << 16);
    // The register is busy: an error that comes now is told of later.
    bench.fake.state().fqcsr |= 1 << 9;
    for _ in 0..4 {
        assert_eq!(take(), summary(0, false));
    }
    assert_eq!(take(), summary(0, true));
    (0..4).for_each(|_| assert_eq!(take(), summary(0, false)));
    assert_eq!(bench.fake.state().fqcsr, 1 | 1 << 16);
    bench.fake.fault(record(0));
    assert_eq!(take(), summary(1, false));

    bench.fake.state().fqcsr |= 1 << 8;
    assert_eq!(take(), summary(0, true));
    assert_eq!(bench.fake.state().fqcsr & 0x300, 0);
}

#[test]
fn a_tail_that_makes_no_sense_is_bounded() {
    let bench = Bench::new(CAPABILITIES);
    let unit = bench.unit();
    bench.fake.state().fqt = u32::MAX;
    assert_eq!(unit.take_faults(&mut |_| ()).reported, 127);
}

/// The golden words of `reference-model.txt`.
fn golden(name: &str) -> u64 {
    let line = include_str!("../golden/reference-model.txt")
        .lines()
        .find(|line| line.split(' ').next() == Some(name))
        .unwrap();
    u64::from_str_radix(line.split(' ').nth(1).unwrap(), 16).unwrap()
}

#[test]
fn the_debug_interface_is_asked_as_the_reference_model_reads_it() {
    let bench = Bench::new(CAPABILITIES);
    let unit = bench.unit();
    let device = DeviceId(0xed_cba9);
    let pasid = Pasid::new(0x98765).unwrap();
    bench.fake.state().tr_response = golden("tr_response_page");
    let found = unit.translate(device, Pasid::UNTAGGED, 0x7_1234, false);
    assert_eq!(found, Ok(PhysicalAddress(0x8012_3234)));
    bench.fake.state().tr_response = golden("tr_response_2m");
    let found = unit.translate(device, pasid, 0x7_1234, true);
    assert_eq!(found, Ok(PhysicalAddress(0x8007_1234)));
    bench.fake.state().tr_response = golden("tr_response_fault");
    let found = unit.translate(device, pasid, 0x7_1234, true);
    assert_eq!(found, Err(TranslateError::Fault));
    let asked = [
        (600, 0x7_1000),
        (608, golden("tr_req_read")),
        (600, 0x7_1000),
        (608, golden("tr_req_write_pasid")),
    ];
    assert_eq!(bench.fake.state().writes[..4], asked);
}

#[test]
fn the_debug_interface_may_be_missing_or_silent() {
    let translate = |bench: &Bench, device| {
        let unit = bench.unit();
        let answer = unit.translate(DeviceId(device), Pasid::UNTAGGED, 0, false);
        assert!(bench.fake.state().writes.len() <= 2);
        answer
    };
    let bench = Bench::new(CAPABILITIES & !(1 << 31));
    assert_eq!(translate(&bench, 1), Err(TranslateError::NotSupported));
    let bench = Bench::new(CAPABILITIES);
    let wide = 1 << 24;
    let error = TranslateError::DeviceIdTooWide(DeviceId(wide));
    assert_eq!(translate(&bench, wide), Err(error));
    let bench = Bench::new(CAPABILITIES);
    bench.fake.state().stuck = Some(608);
    let error = translate(&bench, 1);
    assert!(
        matches!(error, Err(TranslateError::Timeout(_))),
        "{error:?}"
    );
}
