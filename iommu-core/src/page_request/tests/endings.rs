//! How groups end otherwise: handlers that drop them, unbinding, reset, removal, threads.

use super::super::*;
use super::rig::*;
use crate::error::QueueError;
use crate::ids::{DeviceId, Pasid};
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering::SeqCst};

#[test]
fn a_group_that_its_handler_drops_is_answered() {
    let system = System::new();
    let keeper = Arc::new(Keeper::default());
    system
        .service
        .route(NIC, Pasid::UNTAGGED, keeper.clone())
        .unwrap();
    system.serve([with(Pasid::UNTAGGED, last(read(7, 1)))]);
    assert_eq!(system.queue.calls(), []);
    keeper.0.lock().clear();
    assert_eq!(system.queue.responses(), [(NIC, 7, Response::Invalid)]);
}

#[test]
fn a_late_answer_changes_nothing() {
    for end in [
        |service: &PageRequests| service.unroute(NIC, pasid(1)),
        |service: &PageRequests| service.remove_device(NIC),
        |service: &PageRequests| service.device_reset(NIC),
    ] {
        let system = System::new();
        let keeper = Arc::new(Keeper::default());
        system.service.unroute(NIC, pasid(1));
        system.service.route(NIC, pasid(1), keeper.clone()).unwrap();
        system.serve([read(7, 1), last(read(7, 2)), read(8, 3)]);
        let group = keeper.0.lock().pop().unwrap();
        end(&system.service);
        let answered = system.queue.responses();
        assert!(answered.len() <= 1, "the open group is not answered");
        // Somebody else's groups have every slot by now.
        system.service.unroute(NIC, pasid(2));
        let others = Arc::new(Keeper::default());
        let _ = system.service.route(NIC, pasid(2), others.clone());
        system.serve((0..32).map(|group| with(pasid(2), last(read(group, 1)))));
        system.queue.calls();
        assert_eq!(group.pages().count(), 0);
        group.respond(Response::Success, &mut Responses::new());
        assert_eq!(system.queue.calls(), []);
    }
}

#[test]
fn removal_answers_and_reset_does_not() {
    let system = System::new();
    let keeper = Arc::new(Keeper::default());
    system
        .service
        .route(NIC, Pasid::UNTAGGED, keeper.clone())
        .unwrap();
    let group = with(Pasid::UNTAGGED, last(read(7, 1)));
    system.serve([group, asking(NOTHING, read(8, 1))]);
    system.service.device_reset(NIC);
    assert_eq!(system.queue.calls(), []);
    system.serve([last(read(8, 2))]);
    let fresh = [(NIC, 8, Response::Success)];
    assert_eq!(system.queue.responses(), fresh, "refusals are forgotten");

    // What lies in the hardware's queue is from before the reset too.
    system.queue.fill([last(read(9, 1)), read(10, 1)]);
    system.service.device_reset(NIC);
    assert_eq!(system.service.kept(NIC), 0);
    system.serve([]);
    assert_eq!(system.queue.calls(), []);

    system.serve([group]);
    assert_eq!(system.service.kept(NIC), 1, "it is in a handler's hands");
    system.service.remove_device(NIC);
    assert_eq!(system.queue.responses(), [(NIC, 7, Response::Invalid)]);
    assert_eq!(
        system.service.route(NIC, pasid(1), keeper.clone()),
        Err(RouteError::UnknownDevice(NIC))
    );
    system.service.add_device(NIC, SHARE).unwrap();
    system.serve([last(read(7, 1))]);
    assert_eq!(system.queue.responses(), [(NIC, 7, Response::Invalid)]);
}

#[test]
fn mistakes_are_named() {
    let system = System::new();
    let add = |device| system.service.add_device(device, SHARE);
    assert_eq!(add(NIC), Err(AddError::AlreadyAdded(NIC)));
    assert_eq!(add(ABSENT), Err(AddError::NotEnabled(ABSENT)));
    let fatal = DeviceId(77);
    assert_eq!(add(fatal), Err(AddError::NotEnabled(fatal)));
    let again = system.service.route(NIC, pasid(1), system.handler.clone());
    assert_eq!(again, Err(RouteError::PasidInUse(NIC, pasid(1))));
}

#[test]
fn unbinding_answers_drains_and_takes_what_came_meanwhile() {
    let system = System::new();
    let keeper = Arc::new(Keeper::default());
    system.service.unroute(NIC, pasid(1));
    system.service.route(NIC, pasid(1), keeper.clone()).unwrap();
    system.serve([last(read(1, 1)), read(2, 1)]);
    // Still in the queue, and still on its way.
    system.queue.fill([last(read(3, 1)), of(GPU, read(5, 1))]);
    *system.queue.in_flight.lock() = vec![
        Taken::Request(last(read(4, 1))),
        Taken::Request(of(GPU, last(read(5, 2)))),
    ];
    system.service.unroute(NIC, pasid(1));
    system.service.drain(NIC, pasid(1)).unwrap();
    let calls = system.queue.calls();
    let [
        Call::Respond(first),
        Call::Drain(NIC, with),
        Call::Respond(rest),
    ] = &calls[..]
    else {
        panic!("{calls:?}");
    };
    assert_eq!(*with, pasid(1));
    let groups = |batch: &[PageResponse]| -> Vec<_> {
        assert!(batch.iter().all(|one| one.response == Response::Invalid));
        batch.iter().map(|one| one.group).collect()
    };
    assert_eq!((groups(first), groups(rest)), (vec![1], vec![3, 4]));
    // The other device's group was taken out on the way and is not lost.
    system.serve([]);
    assert_eq!(system.queue.responses(), [(GPU, 5, Response::Success)]);
}

#[test]
fn a_drain_is_repeated_after_an_overflow() {
    let system = System::new();
    *system.queue.in_flight.lock() = vec![Taken::Overflow];
    system.service.unroute(NIC, pasid(1));
    system.service.drain(NIC, pasid(1)).unwrap();
    let drain = Call::Drain(NIC, pasid(1));
    assert_eq!(system.queue.calls(), [drain.clone(), drain]);
}

#[test]
fn a_stall_is_a_group_by_itself() {
    let system = System::new();
    let stall = |tag, permissions| PageRequest {
        device: SMART,
        address: 0x1234,
        group: tag,
        last: true,
        origin: Origin::Stall,
        permissions,
        ..read(0, 0)
    };
    let fetch = Permissions {
        execute: true,
        ..NOTHING
    };
    let kernel = Permissions {
        privileged: true,
        ..fetch
    };
    system.serve([
        stall(0xffff, fetch),
        stall(7, kernel),
        with(pasid(2), stall(8, fetch)),
    ]);
    let mut responses = system.queue.responses();
    responses.sort_by_key(|(_, tag, _)| *tag);
    let expected = [
        (SMART, 7, Response::Invalid),
        (SMART, 8, Response::Invalid),
        (SMART, 0xffff, Response::Success),
    ];
    assert_eq!(responses, expected);
    assert_eq!(system.handler.taken(), [(SMART, pasid(1), vec![0x1234])]);
}

#[test]
fn a_queue_for_a_thread_is_bounded_and_answers_in_batches() {
    let system = System::new();
    let woken = Arc::new(AtomicUsize::new(0));
    let wake = woken.clone();
    let threads = Arc::new(GroupQueue::new(20, move || {
        wake.fetch_add(1, SeqCst);
    }));
    system.service.unroute(NIC, pasid(1));
    system
        .service
        .route(NIC, pasid(1), threads.clone())
        .unwrap();
    system.serve((0..24).map(|group| last(read(group, 1))));
    assert_eq!(woken.load(SeqCst), 20);
    let again = [20, 21, 22, 23].map(|group| (NIC, group, Response::Success));
    assert_eq!(system.queue.responses(), again, "these are to ask again");
    let page = |group: &PageGroup| match group.pages().next() {
        Some(page) if page.permissions.read => Response::Success,
        _ => Response::Invalid,
    };
    threads.resolve(page).unwrap();
    let calls = system.queue.calls();
    assert_eq!(calls.len(), 1, "one doorbell for twenty");
    assert!(threads.pop().is_none());
}

#[test]
fn a_queue_that_takes_no_responses_is_an_error() {
    let system = System::new();
    system.queue.fails.store(true, SeqCst);
    system.queue.fill([last(read(1, 1))]);
    assert_eq!(system.service.serve(), Err(QueueError::MemoryFault));
    system.queue.fails.store(false, SeqCst);
    assert!(system.service.serve().is_ok());
}
