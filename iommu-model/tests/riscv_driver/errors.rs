//! Faults of devices, and errors of the command queue.

use crate::scene::{
    ADDRESS, DEVICE, PLAIN, READ_ONLY, Scene, Table, WITH_DEVICE_TLB, WRITABLE, device_tlb,
    invalidate, iotlb, page, pasid, schedules,
};
use iommu_core::error::QueueError;
use iommu_core::fault::{Fault, Reason};
use iommu_core::iommu::Iommu;
use iommu_core::operation::{Invalidation, Levels};
use iommu_model::device::Answers;
use iommu_model::riscv::Configuration;
use iommu_model::{Access, Hardware, Policy, Refusal};

#[test]
fn faults_arrive_with_what_was_asked() {
    schedules(|policy, seed| {
        let scene = Scene::new(policy, seed, Configuration::default());
        let unit = scene.driver();
        let table = Table::new(&scene.machine.memory, 3);
        table.map(ADDRESS, 0x8100_0000, READ_ONLY);
        let tag = unit.allocate_tag().unwrap();
        unit.enable_device(DEVICE, PLAIN).unwrap();
        unit.attach(DEVICE, pasid(3), tag, &table.neutral())
            .unwrap();
        let refused = scene.ask(Some(3), ADDRESS + 8, Access::Write);
        assert_eq!(refused, Err(Refusal::NotPresent));
        scene.ask(Some(4), ADDRESS, Access::Read).unwrap_err();
        scene.ask(None, ADDRESS, Access::Execute).unwrap_err();
        scene.machine.settle();

        let mut faults: Vec<Fault> = Vec::new();
        let summary = unit.take_faults(&mut |fault| faults.push(fault));
        assert_eq!((summary.reported, summary.lost), (3, false));
        let told: Vec<_> = faults
            .iter()
            .map(|fault| (fault.pasid.get(), fault.address, fault.code))
            .collect();
        let expected = [
            (3, Some(ADDRESS + 8), 15),
            (4, Some(ADDRESS), 266),
            (0, Some(ADDRESS), 266),
        ];
        assert_eq!(told, expected);
        assert!(faults.iter().all(|fault| fault.device == DEVICE));
        assert_eq!(faults[0].reason, Reason::PageFault);
        assert_eq!(faults[2].access, iommu_core::fault::Access::Execute);
        scene.assert_specified();
    });
}

#[test]
fn lost_faults_are_told_and_later_ones_arrive() {
    schedules(|policy, seed| {
        let configuration = Configuration {
            log2_faults: 2,
            ..Configuration::default()
        };
        let scene = Scene::new(policy, seed, configuration);
        let unit = scene.driver();
        for _ in 0..5 {
            scene.ask(None, ADDRESS, Access::Read).unwrap_err();
        }
        scene.machine.settle();
        let summary = unit.take_faults(&mut |_| {});
        assert_eq!((summary.reported, summary.lost), (3, true));
        scene.machine.settle();
        scene.ask(None, ADDRESS, Access::Read).unwrap_err();
        scene.machine.settle();
        let summary = unit.take_faults(&mut |_| {});
        assert_eq!((summary.reported, summary.lost), (1, false));
        scene.assert_specified();
    });
}

#[test]
fn a_device_that_does_not_answer_is_told_and_hurts_nobody_else() {
    schedules(|policy, seed| {
        let scene = Scene::new(policy, seed, Configuration::default());
        let unit = scene.driver();
        let _device = scene.device(Answers::Never);
        let table = Table::new(&scene.machine.memory, 3);
        table.map(ADDRESS, 0x8100_0000, WRITABLE);
        let tag = unit.allocate_tag().unwrap();
        unit.enable_device(DEVICE, WITH_DEVICE_TLB).unwrap();
        unit.attach(DEVICE, pasid(3), tag, &table.neutral())
            .unwrap();
        let invalidation = Invalidation {
            targets: &[device_tlb(pasid(3))],
            range: page(ADDRESS),
            levels: Levels::LeafOnly,
        };
        let ticket = unit.submit(&invalidation).unwrap();
        scene.machine.settle();
        scene.iommu.time_out_devices();
        scene.machine.settle();
        let error = unit.wait(ticket).unwrap_err();
        assert!(
            matches!(error, QueueError::DeviceTimeout { .. }),
            "seed {seed}: {error}"
        );
        for _ in 0..3 {
            invalidate(&unit, &[iotlb(tag)], page(ADDRESS), Levels::LeafOnly).unwrap();
        }
        scene.assert_specified();
    });
}

#[test]
fn an_illegal_command_fails_its_list_and_no_other() {
    schedules(|policy, seed| {
        let scene = Scene::new(policy, seed, Configuration::default());
        let unit = scene.driver();
        let table = Table::new(&scene.machine.memory, 3);
        let tag = unit.allocate_tag().unwrap();
        unit.enable_device(DEVICE, PLAIN).unwrap();
        unit.attach(DEVICE, pasid(3), tag, &table.neutral())
            .unwrap();
        for round in 0..5 {
            let address = ADDRESS + round * 4096;
            table.map(address, 0x8100_0000, WRITABLE);
            scene.ask(Some(3), address, Access::Read).unwrap();
            scene.model.reject_next();
            let error = invalidate(&unit, &[iotlb(tag)], page(address), Levels::LeafOnly);
            assert!(
                matches!(error, Err(QueueError::IllegalCommand { .. })),
                "seed {seed}: {error:?}"
            );
            table.unmap(address);
            let done = invalidate(&unit, &[iotlb(tag)], page(address), Levels::LeafOnly);
            assert_eq!(done, Ok(()), "seed {seed}, round {round}");
            let refused = scene.ask(Some(3), address, Access::Read);
            assert_eq!(refused, Err(Refusal::NotPresent), "seed {seed}");
        }
        scene.assert_specified();
    });
}

/// A second error may come while the queue is still busy with the acknowledgement of the first.
#[test]
fn errors_may_follow_at_once() {
    schedules(|policy, seed| {
        let scene = Scene::new(policy, seed, Configuration::default());
        let unit = scene.driver();
        let tag = unit.allocate_tag().unwrap();
        let invalidation = Invalidation {
            targets: &[iotlb(tag)],
            range: page(ADDRESS),
            levels: Levels::LeafOnly,
        };
        for round in 0..4 {
            scene.model.reject_next();
            let tickets = [0; 3].map(|_| unit.submit(&invalidation).unwrap());
            scene.machine.settle();
            scene.model.reject_next();
            let failures = tickets.map(|ticket| unit.wait(ticket).is_err());
            let failed = failures.into_iter().filter(|failed| *failed).count();
            assert!(failed > 0, "seed {seed}, round {round}");
            invalidate(&unit, &[iotlb(tag)], page(ADDRESS), Levels::LeafOnly).unwrap();
        }
        scene.assert_specified();
    });
}

#[test]
fn a_queue_that_stands_still_is_given_up() {
    for policy in [Policy::STRICT, Policy::FREE] {
        let scene = Scene::new(policy, 0, Configuration::default());
        let unit = scene.driver();
        let tag = unit.allocate_tag().unwrap();
        scene.model.freeze();
        let error = invalidate(&unit, &[iotlb(tag)], page(ADDRESS), Levels::LeafOnly);
        assert!(matches!(error, Err(QueueError::Timeout(_))), "{error:?}");
        scene.assert_specified();
    }
}
