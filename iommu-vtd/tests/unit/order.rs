//! What hardware that does not snoop sees, step by step.

use crate::rig::*;
use iommu_core::iommu::Iommu;

fn rig() -> Rig {
    Rig::new(QEMU_CAP, QEMU_ECAP)
}

const WRITTEN_BACK: iommu_core::page_table::PageTable = iommu_core::page_table::PageTable {
    written_back: true,
    ..TABLE
};

#[test]
fn a_context_entry_becomes_valid_last() {
    let rig = rig();
    rig.unit.enable_device(DEVICE, WITH_TLB).unwrap();
    let entry = rig.context_entry(DEVICE).unwrap();
    let low = rig.bench.load(entry);
    let directory = low & !0xfff;
    let root = rig.hardware(|state| state.root);
    let half = rig.bench.load(root);
    let expected = [
        Step::Clean(directory, vec![0; 0x4000]),
        Step::Clean(half & !0xfff, vec![0; 512]),
        Step::Clean(root, vec![half]),
        Step::Clean(entry + 8, vec![0; 3]),
        Step::Clean(entry, vec![low]),
    ];
    assert_eq!(rig.steps(), expected);
}

#[test]
fn a_pasid_entry_becomes_valid_last() {
    let rig = rig();
    rig.unit.enable_device(DEVICE, WITH_TLB).unwrap();
    rig.steps();
    rig.unit
        .attach(DEVICE, pasid(70), TAG, &WRITTEN_BACK)
        .unwrap();
    let entry = rig.pasid_entry(DEVICE, pasid(70)).unwrap();
    let directory = rig.bench.load(rig.context_entry(DEVICE).unwrap()) & !0xfff;
    let expected = [
        Step::Clean(entry & !0xfff, vec![0; 512]),
        Step::Clean(directory + 8, vec![entry & !0xfff | 1]),
        Step::Clean(entry + 8, vec![1, 0x1234_5000, 0, 0, 0, 0, 0]),
        Step::Clean(entry, vec![0x49]),
    ];
    assert_eq!(rig.steps(), expected);
}

#[test]
fn a_pasid_entry_becomes_invalid_first_and_is_cleared_after_the_invalidation() {
    let rig = rig();
    rig.unit.enable_device(DEVICE, WITHOUT_TLB).unwrap();
    rig.unit
        .attach(DEVICE, pasid(9), TAG, &WRITTEN_BACK)
        .unwrap();
    rig.steps();
    rig.unit.detach(DEVICE, pasid(9)).unwrap();
    let entry = rig.pasid_entry(DEVICE, pasid(9)).unwrap();
    let mut expected = vec![
        Step::Clean(entry, vec![0x49]),
        Step::Clean(entry, vec![0x4a]),
    ];
    expected.extend(list(&[(0x9_0001_0017, 0), (0x9_0001_0026, 0)]));
    expected.push(Step::Clean(entry, vec![0; 8]));
    assert_eq!(rig.steps(), expected, "load, revoke, invalidate, clear");
}

#[test]
fn a_context_entry_becomes_invalid_first_and_is_cleared_after_the_invalidation() {
    let rig = rig();
    rig.unit.enable_device(DEVICE, WITHOUT_TLB).unwrap();
    rig.steps();
    let entry = rig.context_entry(DEVICE).unwrap();
    let low = rig.bench.load(entry);
    rig.unit.disable_device(DEVICE).unwrap();
    let mut expected = vec![
        Step::Clean(entry, vec![low]),
        Step::Clean(entry, vec![low & !1]),
    ];
    expected.extend(list(&[(0x20_0000_0031, 0), (0x37, 0), (0xd2, 0)]));
    expected.push(Step::Clean(entry, vec![0; 4]));
    assert_eq!(rig.steps(), expected, "load, revoke, invalidate, clear");
}

#[test]
fn the_queue_is_never_cleaned_as_its_accesses_snoop() {
    let bench = Bench::new(QEMU_CAP & !ESRTPS, QEMU_ECAP);
    let _unit = bench.probe().unwrap();
    let root = bench.hardware.with(|state| state.root);
    let mut expected = vec![Step::Clean(root, vec![0; 512])];
    expected.extend(list(&[(0x11, 0), (0x37, 0), (0xd2, 0)]));
    assert_eq!(bench.journal.take(), expected);
}
