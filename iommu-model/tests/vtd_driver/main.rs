//! The real VT-d driver on the model.

// A test has std.
#![allow(clippy::std_instead_of_alloc, clippy::std_instead_of_core)]

mod errors;
mod kinds;
mod page_requests;
#[path = "../vtd/page_table.rs"]
mod page_table;
mod random;
mod rig;

use iommu_core::fault::Reason;
use iommu_core::ids::Pasid;
use iommu_core::iommu::Iommu;
use iommu_model::device::Transfer;
use rig::*;

#[test]
fn a_mapped_page_is_written_and_an_unmapped_one_is_not() {
    everywhere(|rig| {
        let frames = [rig.frame(), rig.frame()];
        rig.table.map(ADDRESS, frames[0]);
        assert!(rig.write(ADDRESS, 0x11).is_done());
        rig.table.map(ADDRESS, frames[1]);
        rig.invalidate(ADDRESS, ADDRESS + 4096);
        rig.machine.memory.give_back(frames[0], 0xdead);
        assert!(rig.write(ADDRESS, 0x22).is_done());
        rig.table.unmap(ADDRESS);
        rig.invalidate(ADDRESS, ADDRESS + 4096);
        assert!(!rig.write(ADDRESS, 0x33).is_done());
        rig.settle();
        let memory = &rig.machine.memory;
        assert_eq!(memory.load(frames[0]), Ok(0xdead), "the old frame");
        assert_eq!(memory.load(frames[1]), Ok(0x2222_2222_2222_2222));
    });
}

#[test]
fn a_blocked_pasid_reaches_nothing_and_can_come_back_with_another_table() {
    everywhere(|rig| {
        rig.table.map(ADDRESS, rig.frame());
        assert!(rig.write(ADDRESS, 0x11).is_done());
        rig.unit.block(ID, rig.pasid).unwrap();
        assert!(!rig.write(ADDRESS, 0x22).is_done());
        rig.unit.detach(ID, rig.pasid).unwrap();
        rig.table.map(ADDRESS, rig.frame());
        let frame = rig.table.entry(ADDRESS, 1) & 0xf_ffff_f000;
        rig.attach(rig.pasid);
        assert!(rig.write(ADDRESS, 0x33).is_done());
        rig.settle();
        assert_eq!(rig.machine.memory.load(frame), Ok(0x3333_3333_3333_3333));
        rig.unit.detach(ID, rig.pasid).unwrap();
        rig.unit.disable_device(ID).unwrap();
        assert!(!rig.write(ADDRESS, 0x44).is_done());
    });
}

#[test]
fn refused_requests_are_reported() {
    let rig = Rig::new(Setting::strict());
    rig.device.enable_device_tlb(false);
    assert!(!rig.write(ADDRESS, 1).is_done());
    let mut faults = Vec::new();
    let summary = rig.unit.take_faults(&mut |fault| faults.push(fault));
    assert_eq!((summary.reported, summary.lost), (1, false));
    assert_eq!(faults[0].device, ID);
    assert_eq!(faults[0].pasid, rig.pasid);
    assert_eq!(faults[0].address, Some(ADDRESS));
    assert_eq!(faults[0].reason, Reason::NotPresent);
    assert_eq!(faults[0].code, 0x71);
}

#[test]
fn requests_without_a_pasid_use_pasid_0() {
    everywhere(|rig| {
        let frame = rig.frame();
        rig.table.map(ADDRESS, frame);
        let write = || rig.device.run(Transfer::write(None, ADDRESS, vec![7; 8]));
        assert!(!write().is_done());
        rig.attach(Pasid::UNTAGGED);
        assert!(write().is_done());
        rig.unit.detach(ID, Pasid::UNTAGGED).unwrap();
        assert!(!write().is_done());
        assert!(rig.write(ADDRESS, 8).is_done(), "the other PASID");
        rig.settle();
    });
}
