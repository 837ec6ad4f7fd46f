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
use iommu_core::operation::Levels;
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

/// Devices run with the rights of a user, whatever they ask for.
#[test]
fn privileged_requests_are_refused() {
    everywhere(|rig| {
        let kernel = page_table::PRESENT | page_table::WRITABLE;
        rig.table.map_page(ADDRESS, rig.frame(), kernel, 1);
        let privileged = Transfer {
            privileged: true,
            ..rig.transfer(ADDRESS, 1)
        };
        assert!(!rig.device.run(privileged).is_done());
        assert!(!rig.write(ADDRESS, 1).is_done());
    });
}

/// A table is freed with its pages: nothing may be found through it afterwards.
#[test]
fn a_freed_table_is_not_walked() {
    everywhere(|rig| {
        let neighbour = ADDRESS + 4096;
        rig.table.map(ADDRESS, rig.frame());
        rig.table.map(neighbour, rig.frame());
        assert!(rig.write(ADDRESS, 0x11).is_done());
        let old = rig.table.entry(ADDRESS, 2) & 0xf_ffff_f000;
        rig.table.store(rig.table.slot(ADDRESS, 2), 0);
        let region = ADDRESS & !0x1f_ffff;
        rig.invalidate_levels(region, region + 0x20_0000, Levels::All)
            .unwrap();
        let frame = rig.frame();
        rig.table.map(neighbour, frame);
        rig.machine.memory.give_back(old, 0);
        assert!(!rig.write(ADDRESS, 0x22).is_done());
        assert!(rig.write(neighbour, 0x33).is_done());
        rig.settle();
        assert_eq!(rig.machine.memory.load(frame), Ok(0x3333_3333_3333_3333));
    });
}

/// What is mapped in one page-table page is found by one entry above: a hint that only leaves changed
/// would leave it.
#[test]
fn a_replaced_table_is_found_by_its_neighbours() {
    everywhere(|rig| {
        let neighbour = ADDRESS + 4096;
        rig.table.map(ADDRESS, rig.frame());
        assert!(rig.write(ADDRESS, 0x11).is_done());
        rig.table.store(rig.table.slot(ADDRESS, 2), 0);
        let frames = [rig.frame(), rig.frame()];
        rig.table.map(ADDRESS, frames[0]);
        rig.table.map(neighbour, frames[1]);
        rig.invalidate_levels(ADDRESS, ADDRESS + 4096, Levels::All)
            .unwrap();
        assert!(rig.write(ADDRESS, 0x22).is_done());
        assert!(rig.write(neighbour, 0x33).is_done());
        rig.settle();
        let held = frames.map(|frame| rig.machine.memory.load(frame).unwrap() as u8);
        assert_eq!(held, [0x22, 0x33]);
    });
}
