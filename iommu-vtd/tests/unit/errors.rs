//! Hardware that stops, keeps silent or answers late: who is told, and who is not.

use crate::fake::State;
use crate::rig::*;
use crate::submit::{device_tlb, iotlb};
use iommu_core::Range;
use iommu_core::error::QueueError;
use iommu_core::iommu::{Iommu, Ticket};
use iommu_core::operation::{Invalidation, Levels, Target};

fn post(rig: &Rig, targets: &[Target]) -> Result<Ticket, QueueError> {
    rig.unit.submit(&Invalidation {
        targets,
        range: Range::new(0x1000, 0x2000).unwrap(),
        levels: Levels::All,
    })
}

/// Posts two lists, makes the hardware misbehave at the first, and returns what became of them and
/// of one more.
fn with_trouble(targets: &[Target], trouble: fn(&mut State)) -> [Result<(), QueueError>; 3] {
    let rig = Rig::plain().attached(WITH_TLB, pasid(9));
    rig.hardware(trouble);
    let others = [iotlb()];
    let (bad, other) = (post(&rig, targets).unwrap(), post(&rig, &others).unwrap());
    let bad = rig.unit.wait(bad).map(drop);
    let other = rig.unit.wait(other).map(drop);
    let later = post(&rig, targets).and_then(|ticket| rig.unit.wait(ticket));
    [bad, other, later.map(drop)]
}

#[test]
fn an_illegal_descriptor_fails_its_own_list_and_the_queue_goes_on() {
    let [bad, other, later] = with_trouble(&[iotlb()], |state| state.reject_next = true);
    assert!(matches!(bad, Err(QueueError::IllegalCommand { .. })));
    assert_eq!((other, later), (Ok(()), Ok(())));
}

#[test]
fn a_device_that_does_not_answer_fails_what_was_read_and_the_queue_goes_on() {
    let device = Some(DEVICE);
    let [bad, other, later] = with_trouble(&[iotlb(), device_tlb()], |state| {
        (state.lose_answer, state.iqercd) = (true, 0x20 << 32);
    });
    assert_eq!(bad, Err(QueueError::DeviceTimeout { device }));
    assert_eq!((other, later), (Ok(()), Ok(())));
}

#[test]
fn an_error_is_told_to_its_own_list_and_no_other() {
    let illegal = |state: &mut State| state.reject_next = true;
    let silent = |state: &mut State| (state.lose_answer, state.iqercd) = (true, 0x20 << 32);
    for trouble in [illegal as fn(&mut State), silent] {
        let [bad, other, later] = with_trouble(&[iotlb(), device_tlb()], trouble);
        assert!(bad.is_err());
        assert_eq!((other, later), (Ok(()), Ok(())));
    }
}

#[test]
fn a_head_that_moves_completes_nothing() {
    let rig = Rig::plain();
    rig.hardware(|state| state.silent = true);
    let ticket = post(&rig, &[iotlb()]).unwrap();
    let error = rig.unit.wait(ticket).unwrap_err();
    assert!(matches!(error, QueueError::Timeout(_)), "{error}");
}

#[test]
fn a_word_of_an_earlier_lap_completes_nothing() {
    let rig = Rig::plain();
    for _ in 0..128 {
        let ticket = post(&rig, &[iotlb()]).unwrap();
        rig.unit.wait(ticket).unwrap();
    }
    rig.hardware(|state| state.silent = true);
    let ticket = post(&rig, &[iotlb()]).unwrap();
    let error = rig.unit.wait(ticket).unwrap_err();
    assert!(matches!(error, QueueError::Timeout(_)), "{error}");
}

#[test]
fn a_completion_that_comes_late_is_seen() {
    let rig = Rig::plain();
    rig.hardware(|state| state.late = true);
    let ticket = post(&rig, &[iotlb()]).unwrap();
    rig.unit.wait(ticket).unwrap();
}

/// What becomes of `count` lists of four commands, a fence and a sync each, if the queue stops in front of
/// the descriptors with these numbers.
fn with_illegal(at: &[usize], count: usize) -> Vec<Result<(), QueueError>> {
    let rig = Rig::plain().attached(WITH_TLB, pasid(9));
    rig.hardware(|state| state.reject_at = at.into());
    let targets = [iotlb(), iotlb(), device_tlb(), device_tlb()];
    let posted: Vec<_> = (0..count).map(|_| post(&rig, &targets).unwrap()).collect();
    let wait = |ticket| rig.unit.wait(ticket).map(drop);
    posted.into_iter().map(wait).collect()
}

#[test]
fn an_illegal_command_at_any_place_fails_its_own_list() {
    for place in [0, 1, 3, 4] {
        let results = with_illegal(&[place], 2);
        let slot = place;
        assert_eq!(results, [Err(QueueError::IllegalCommand { slot }), Ok(())]);
    }
    // A refused sync of the ring's own cannot be helped.
    for place in [2, 5] {
        let error = Err(QueueError::IllegalCommand { slot: place });
        assert_eq!(with_illegal(&[place], 2), [error, error]);
    }
}

#[test]
fn each_of_two_submitters_has_its_own_error() {
    let error = |slot| Err(QueueError::IllegalCommand { slot });
    // The command that was refused is replaced by a fence and counts again.
    assert_eq!(with_illegal(&[1, 10], 3), [error(1), error(10), Ok(())]);
}

#[test]
fn a_queue_that_cannot_be_read_is_told_to_everybody() {
    let rig = Rig::plain().attached(WITH_TLB, pasid(9));
    rig.hardware(|state| (state.reject_next, state.iqercd) = (true, 2));
    let tickets = [
        post(&rig, &[iotlb()]).unwrap(),
        post(&rig, &[iotlb()]).unwrap(),
    ];
    for ticket in tickets {
        let result = rig.unit.wait(ticket).map(drop);
        assert_eq!(result, Err(QueueError::MemoryFault));
    }
    let later = post(&rig, &[iotlb()]).map(drop);
    assert_eq!(later, Err(QueueError::MemoryFault));
}
