//! Errors of the queue, and hardware that is gone.

use crate::rig::*;
use iommu_core::error::{AttachError, QueueError};
use iommu_core::iommu::Iommu;
use iommu_model::device::Answers;
use iommu_model::vtd::Vtd;
use iommu_model::{Hardware, InvalidationRequest, PageResponse, Port};
use std::sync::Weak;
use std::sync::atomic::{AtomicU32, Ordering};

/// Lets devices time out after some steps of the machine.
struct TimeLimit(Weak<Vtd>, AtomicU32);

impl Port for TimeLimit {
    fn invalidate(&self, _: InvalidationRequest) {}
    fn respond(&self, _: PageResponse) {}
    fn resume(&self, _: u32, _: bool) {}
    fn step(&self) -> bool {
        let left = self.1.load(Ordering::Relaxed);
        if left == 1
            && let Some(model) = self.0.upgrade()
        {
            model.time_out_devices();
        }
        self.1.store(left.saturating_sub(1), Ordering::Relaxed);
        left > 0
    }
}

fn settings() -> impl Iterator<Item = Setting> {
    std::iter::once(Setting::strict()).chain((0..20).map(Setting::free))
}

#[test]
fn an_illegal_command_fails_its_list_and_the_next_one_works() {
    for setting in settings() {
        let rig = Rig::new(setting);
        rig.table.map(ADDRESS, rig.frame());
        assert!(rig.write(ADDRESS, 0x11).is_done());
        rig.table.unmap(ADDRESS);
        rig.model.reject_next();
        let error = rig.try_invalidate(ADDRESS, ADDRESS + 4096);
        let illegal = matches!(error, Err(QueueError::IllegalCommand { .. }));
        assert!(illegal, "{error:?} {setting:?}");
        rig.invalidate(ADDRESS, ADDRESS + 4096);
        assert!(!rig.write(ADDRESS, 0x22).is_done());
        rig.settle();
    }
}

#[test]
fn a_device_that_does_not_answer_is_named_and_the_queue_goes_on() {
    for setting in settings() {
        let rig = Rig::new(setting);
        rig.table.map(ADDRESS, rig.frame());
        assert!(rig.write(ADDRESS, 0x11).is_done());
        rig.device.set_answers(Answers::Never);
        let limit = TimeLimit(std::sync::Arc::downgrade(&rig.model), AtomicU32::new(1000));
        rig.machine.add_device(std::sync::Arc::new(limit));
        let error = QueueError::DeviceTimeout { device: Some(ID) };
        let result = rig.try_invalidate(ADDRESS, ADDRESS + 4096);
        assert_eq!(result, Err(error), "{setting:?}");
        rig.device.set_answers(Answers::Promptly);
        rig.invalidate(ADDRESS, ADDRESS + 4096);
        rig.settle();
    }
}

#[test]
fn a_device_in_quarantine_reaches_nothing_until_it_is_restored() {
    for setting in settings() {
        let rig = Rig::new(setting);
        let frame = rig.frame();
        rig.table.map(ADDRESS, frame);
        assert!(rig.write(ADDRESS, 0x11).is_done());
        rig.device.set_answers(Answers::Never);
        rig.unit.quarantine(ID).unwrap();
        assert!(!rig.write(ADDRESS, 0x22).is_done(), "{setting:?}");
        rig.device.enable_device_tlb(false);
        assert!(!rig.write(ADDRESS, 0x22).is_done(), "{setting:?}");
        // Nobody waits for it any more.
        rig.invalidate(ADDRESS, ADDRESS + 4096);
        rig.unit.detach(ID, rig.pasid).unwrap();
        rig.attach(rig.pasid);

        rig.device.enable_device_tlb(true);
        rig.device.set_answers(Answers::Promptly);
        rig.unit.restore(ID).unwrap();
        assert!(rig.write(ADDRESS, 0x33).is_done(), "{setting:?}");
        rig.table.unmap(ADDRESS);
        rig.invalidate(ADDRESS, ADDRESS + 4096);
        assert!(!rig.write(ADDRESS, 0x44).is_done(), "{setting:?}");
        rig.settle();
    }
}

#[test]
fn hardware_that_is_gone_ends_every_call() {
    for setting in [Setting::strict(), Setting::free(3)] {
        let rig = Rig::new(setting);
        rig.model.remove();
        assert!(rig.try_invalidate(ADDRESS, ADDRESS + 4096).is_err());
        let result = rig.unit.detach(ID, rig.pasid);
        assert!(matches!(result, Err(AttachError::Queue(_))), "{result:?}");
        let mut faults = 0;
        rig.unit.take_faults(&mut |_| faults += 1);
        assert!(faults <= 256);
        let mut requests = 0;
        rig.unit
            .take_page_requests(usize::MAX, &mut |_| requests += 1);
        assert!(requests <= 1024);
    }
}

#[test]
fn lost_faults_are_told() {
    let rig = Rig::new(Setting::strict());
    rig.device.enable_device_tlb(false);
    for page in 0..5 {
        assert!(!rig.write(ADDRESS + page * 4096, 1).is_done());
    }
    let mut addresses = Vec::new();
    let mut take = || {
        rig.unit
            .take_faults(&mut |fault| addresses.push(fault.address.unwrap()))
    };
    let summary = take();
    assert_eq!((summary.reported, summary.lost), (4, true));
    assert!(!rig.write(ADDRESS + 9 * 4096, 1).is_done());
    let summary = take();
    assert_eq!((summary.reported, summary.lost), (1, false));
    let expected = [0, 1, 2, 3, 9].map(|page| ADDRESS + page * 4096);
    assert_eq!(addresses, expected);
}
