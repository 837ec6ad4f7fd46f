//! An SMMU that stops, keeps silent or answers late: who is told, and who is not.

mod fake;

use fake::{FULL, Machine, Platform, Trouble};
use iommu_core::Range;
use iommu_core::error::QueueError;
use iommu_core::ids::{DeviceId, Pasid, Tag};
use iommu_core::iommu::{Iommu, Ticket};
use iommu_core::operation::{Invalidation, Levels, Target};
use iommu_smmuv3::Unit;

const TARGETS: [Target; 2] = [
    Target::Iotlb {
        tag: Tag(5),
        pasid: Pasid::UNTAGGED,
    },
    Target::DeviceTlb {
        device: DeviceId(0x108),
        pasid: Pasid::UNTAGGED,
    },
];
const TLBI: u8 = 0x12;
const SYNC: u8 = 0x46;

fn probe() -> (Machine, Unit<Platform>) {
    let machine = Machine::new(FULL);
    let unit = Unit::probe(machine.parts()).unwrap();
    (machine, unit)
}

fn post(unit: &Unit<Platform>, targets: &[Target]) -> Ticket {
    let invalidation = Invalidation {
        targets,
        range: Range::new(0x1000, 0x2000).unwrap(),
        levels: Levels::All,
    };
    unit.submit(&invalidation).unwrap()
}

#[test]
fn an_error_is_told_to_its_own_list_and_no_other() {
    let timeout = QueueError::DeviceTimeout { device: None };
    let (illegal, silent) = (
        Trouble::CommandFails(TLBI, 1),
        Trouble::CommandFails(SYNC, 3),
    );
    // Probe takes 5 slots.
    for (trouble, targets, error) in [
        (
            illegal,
            &TARGETS[..],
            QueueError::IllegalCommand { slot: 5 },
        ),
        // Behind the IOTLB's commands there is a CMD_SYNC within the list, too.
        (silent, &TARGETS[1..], timeout),
    ] {
        let (machine, unit) = probe();
        machine.trouble(trouble);
        let (bad, other) = (post(&unit, targets), post(&unit, &TARGETS[..1]));
        assert_eq!(unit.wait(bad).map(drop), Err(error));
        unit.wait(other).unwrap();
        unit.wait(post(&unit, &TARGETS)).unwrap();
    }
}

#[test]
fn a_head_that_moves_completes_nothing() {
    let (machine, unit) = probe();
    machine.trouble(Trouble::Silent);
    let error = unit.wait(post(&unit, &TARGETS)).unwrap_err();
    assert!(matches!(error, QueueError::Timeout(_)), "{error}");
}

#[test]
fn a_word_of_an_earlier_lap_completes_nothing() {
    let (machine, unit) = probe();
    for _ in 0..512 {
        unit.wait(post(&unit, &TARGETS[..1])).unwrap();
    }
    machine.trouble(Trouble::Silent);
    let error = unit.wait(post(&unit, &TARGETS[..1])).unwrap_err();
    assert!(matches!(error, QueueError::Timeout(_)), "{error}");
}

#[test]
fn a_completion_that_comes_late_is_seen() {
    let (machine, unit) = probe();
    machine.trouble(Trouble::Late);
    unit.wait(post(&unit, &TARGETS)).unwrap();
}

/// What becomes of `count` lists of four commands, a CMD_SYNC within and one behind them, if the queue
/// stops in front of the commands with these numbers.
fn with_illegal(at: &[usize], count: usize) -> Vec<Result<(), QueueError>> {
    let (machine, unit) = probe();
    machine.smmu.state().illegal_at = at.into();
    let [iotlb, device_tlb] = TARGETS;
    let targets = [iotlb, iotlb, device_tlb, device_tlb];
    let posted: Vec<_> = (0..count).map(|_| post(&unit, &targets)).collect();
    let wait = |ticket| unit.wait(ticket).map(drop);
    posted.into_iter().map(wait).collect()
}

#[test]
fn an_illegal_command_at_any_place_fails_its_own_list() {
    // Probe takes 5 slots.
    for place in [0, 1, 3, 4] {
        let slot = 5 + place;
        let error = Err(QueueError::IllegalCommand { slot });
        assert_eq!(with_illegal(&[place], 2), [error, Ok(())]);
    }
    // A refused sync of the ring's own cannot be helped.
    for place in [2, 5] {
        let slot = 5 + place;
        let error = Err(QueueError::IllegalCommand { slot });
        assert_eq!(with_illegal(&[place], 2), [error, error]);
    }
}

#[test]
fn each_of_two_submitters_has_its_own_error() {
    let error = |slot| Err(QueueError::IllegalCommand { slot });
    let results = with_illegal(&[1, 10], 3);
    assert_eq!(results, [error(6), error(15), Ok(())]);
}

#[test]
fn a_queue_that_cannot_be_read_is_told_to_everybody() {
    let (machine, unit) = probe();
    machine.trouble(Trouble::CommandFails(TLBI, 2));
    for ticket in [post(&unit, &TARGETS), post(&unit, &TARGETS)] {
        let result = unit.wait(ticket).map(drop);
        assert_eq!(result, Err(QueueError::MemoryFault));
    }
}
