//! An IOMMU that stops, keeps silent or answers late: who is told, and who is not.

use crate::fake::{Bench, CAPABILITIES, Rig};
use crate::invalidation::{IOTLB, device_tlb, range};
use iommu_core::Range;
use iommu_core::error::QueueError;
use iommu_core::iommu::{Iommu, Ticket};
use iommu_core::operation::{Invalidation, Levels, Target};
use iommu_riscv::Unit;

fn post(unit: &Unit<Rig>, targets: &[Target]) -> Ticket {
    let invalidation = Invalidation {
        targets,
        range: range(0x1000, 0x2000),
        levels: Levels::LeafOnly,
    };
    unit.submit(&invalidation).unwrap()
}

#[test]
fn each_error_of_the_queue_has_its_name_and_its_reach() {
    let fence = 0x002;
    let cases = [
        (0x001, 1 << 10, QueueError::IllegalCommand { slot: 4 }, true),
        (0x001, 1 << 8, QueueError::MemoryFault, false),
        (fence, 1 << 8, QueueError::MemoryFault, false),
        (
            fence,
            1 << 9,
            QueueError::DeviceTimeout { device: None },
            true,
        ),
    ];
    for (command, bit, error, goes_on) in cases {
        let bench = Bench::new(CAPABILITIES);
        let unit = bench.unit();
        bench.fake.state().fail = Some((command, bit));
        let invalidation = Invalidation {
            targets: &[IOTLB],
            range: range(0x1000, 0x2000),
            levels: Levels::LeafOnly,
        };
        let bad = unit.submit(&invalidation).unwrap();
        bench.fake.state().fail = None;
        let other = unit.submit(&invalidation).unwrap();
        assert_eq!(unit.wait(bad).map(drop), Err(error));
        let expected = if goes_on { Ok(()) } else { Err(error) };
        assert_eq!(unit.wait(other).map(drop), expected);
        let later = unit.submit(&invalidation);
        let later = later.and_then(|ticket| unit.wait(ticket)).map(drop);
        assert_eq!(later, expected);
    }
}

#[test]
fn a_queue_that_was_turned_off_or_never_answers_is_an_error() {
    let invalidation = Invalidation {
        targets: &[IOTLB],
        range: Range::ALL,
        levels: Levels::All,
    };
    let error = |spoil: fn(&mut crate::fake::State)| {
        let bench = Bench::new(CAPABILITIES);
        let unit = bench.unit();
        bench.fake.state().silent = true;
        let ticket = unit.submit(&invalidation).unwrap();
        spoil(&mut bench.fake.state());
        unit.wait(ticket).map(drop).unwrap_err()
    };
    assert!(matches!(error(|_| ()), QueueError::Timeout(_)));
    let off = error(|state| state.cqcsr = 0);
    assert_eq!(off, QueueError::Unknown { code: 0 });
    let gone = error(|state| state.cqcsr = u32::MAX.into());
    assert_eq!(gone, QueueError::Unknown { code: u32::MAX });
}

#[test]
fn an_error_is_told_to_its_own_list_and_no_other() {
    let timeout = QueueError::DeviceTimeout { device: None };
    let illegal = QueueError::IllegalCommand { slot: 4 };
    for (command, bit, error) in [(0x004, 1 << 10, illegal), (0x002, 1 << 9, timeout)] {
        let bench = Bench::new(CAPABILITIES);
        let unit = bench.unit();
        bench.fake.state().fail = Some((command, bit));
        let bad = post(&unit, &[device_tlb(3, 9)]);
        bench.fake.state().fail = None;
        let other = post(&unit, &[IOTLB]);
        assert_eq!(unit.wait(bad).map(drop), Err(error));
        unit.wait(other).unwrap();
        unit.wait(post(&unit, &[device_tlb(3, 9)])).unwrap();
    }
}

#[test]
fn a_head_that_moves_completes_nothing() {
    let bench = Bench::new(CAPABILITIES);
    let unit = bench.unit();
    bench.fake.state().silent = true;
    let error = unit.wait(post(&unit, &[IOTLB])).unwrap_err();
    assert!(matches!(error, QueueError::Timeout(_)), "{error}");
}

#[test]
fn a_word_of_an_earlier_lap_completes_nothing() {
    let bench = Bench::new(CAPABILITIES);
    let unit = bench.unit();
    for _ in 0..128 {
        unit.wait(post(&unit, &[IOTLB])).unwrap();
    }
    bench.fake.state().silent = true;
    let error = unit.wait(post(&unit, &[IOTLB])).unwrap_err();
    assert!(matches!(error, QueueError::Timeout(_)), "{error}");
}

#[test]
fn a_completion_that_comes_late_is_seen() {
    let bench = Bench::new(CAPABILITIES);
    let unit = bench.unit();
    bench.fake.state().late = true;
    unit.wait(post(&unit, &[IOTLB])).unwrap();
}

/// What becomes of `count` lists of three commands and an IOFENCE.C each, if the queue stops in front of
/// the commands with these numbers.
fn with_illegal(at: &[usize], count: usize) -> Vec<Result<(), QueueError>> {
    let bench = Bench::new(CAPABILITIES);
    let unit = bench.unit();
    bench.fake.state().illegal_at = at.into();
    let posted: Vec<_> = (0..count).map(|_| post(&unit, &[IOTLB; 3])).collect();
    let wait = |ticket| unit.wait(ticket).map(drop);
    posted.into_iter().map(wait).collect()
}

#[test]
fn an_illegal_command_at_any_place_fails_its_own_list() {
    // Probe takes 4 slots.
    for place in 0..3 {
        let slot = 4 + place;
        let error = Err(QueueError::IllegalCommand { slot });
        assert_eq!(with_illegal(&[place], 2), [error, Ok(())]);
    }
    // A refused fence of the ring's own cannot be helped.
    let error = Err(QueueError::IllegalCommand { slot: 7 });
    assert_eq!(with_illegal(&[3], 2), [error, error]);
}

#[test]
fn each_of_two_submitters_has_its_own_error() {
    let error = |slot| Err(QueueError::IllegalCommand { slot });
    let results = with_illegal(&[1, 6], 3);
    assert_eq!(results, [error(5), error(10), Ok(())]);
}
