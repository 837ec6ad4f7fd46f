//! Page requests, by the driver's queue and the model's.

use crate::rig::*;
use iommu_core::iommu::Iommu;
use iommu_core::page_request::{PageRequest, PageResponse, Response, Taken};
use iommu_model::device::Ended;

/// Takes every request and overflow out of the queue.
fn take(rig: &Rig) -> Vec<Taken> {
    let mut taken = Vec::new();
    while rig
        .unit
        .take_page_requests(usize::MAX, &mut |one| taken.push(one))
        > 0
    {}
    taken
}

fn answer(rig: &Rig, request: &PageRequest, response: Response) {
    let response = PageResponse {
        device: request.device,
        pasid: Some(request.pasid),
        group: request.group,
        origin: request.origin,
        response,
    };
    rig.unit.respond(&[response]).unwrap();
}

fn requests(rig: &Rig) -> Vec<PageRequest> {
    take(rig)
        .into_iter()
        .filter_map(|taken| match taken {
            Taken::Request(request) => Some(request),
            Taken::Overflow => None,
        })
        .collect()
}

#[test]
fn pages_come_when_they_are_asked_for() {
    everywhere(|rig| {
        rig.device.enable_page_requests(true);
        let job = rig.device.start(rig.transfer(ADDRESS, 0x77));
        let frame = rig.frame();
        for _ in 0..10_000 {
            rig.machine.step();
            for request in requests(rig) {
                assert_eq!(request.address, ADDRESS);
                assert!(request.permissions.write && request.last);
                rig.table.map(ADDRESS, frame);
                answer(rig, &request, Response::Success);
            }
            if job.ended().is_some() {
                break;
            }
        }
        assert!(job.ended().is_some_and(|ended| ended.is_done()));
        rig.settle();
        assert_eq!(rig.machine.memory.load(frame), Ok(0x7777_7777_7777_7777));
    });
}

#[test]
fn a_drain_ends_with_everything_in_the_queue() {
    everywhere(|rig| {
        rig.device.enable_page_requests(true);
        let job = rig.device.start(rig.transfer(ADDRESS, 0x77));
        for _ in 0..100 {
            rig.machine.step();
        }
        rig.device.stop(Some(rig.pasid.get()));
        rig.unit.block(ID, rig.pasid).unwrap();
        rig.unit.drain_page_requests(ID, rig.pasid).unwrap();
        let requests = requests(rig);
        let stop_markers = requests
            .iter()
            .filter(|request| !(request.permissions.read || request.permissions.write));
        assert_eq!(stop_markers.count(), 1);
        for request in &requests {
            answer(rig, request, Response::Invalid);
        }
        rig.unit.detach(ID, rig.pasid).unwrap();
        rig.settle();
        assert!(!matches!(job.ended(), Some(Ended::Done(_))));
    });
}
