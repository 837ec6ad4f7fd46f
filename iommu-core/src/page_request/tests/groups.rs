//! How groups are assembled, and what a device cannot do.

use super::super::*;
use super::rig::*;
use crate::ids::Pasid;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

#[test]
fn a_group_is_handed_over_when_it_is_complete_and_answered_once() {
    let system = System::new();
    let served = system.serve([read(7, 1), read(7, 2), read(7, 3)]);
    assert_eq!((served.requests, served.groups), (3, 0));
    assert_eq!(system.queue.calls(), []);
    let served = system.serve([last(read(7, 4))]);
    assert_eq!((served.requests, served.groups), (1, 1));
    let pages = vec![0x1000, 0x2000, 0x3000, 0x4000];
    assert_eq!(system.handler.taken(), [(NIC, pasid(1), pages)]);
    let response = PageResponse {
        device: NIC,
        pasid: None,
        group: 7,
        origin: Origin::PageRequest,
        response: Response::Success,
    };
    assert_eq!(system.queue.calls(), [Call::Respond(vec![response])]);
}

#[test]
fn a_response_carries_the_pasid_where_the_device_wants_it() {
    let system = System::new();
    let handler = Arc::new(Handler::default());
    system.service.route(GPU, Pasid::UNTAGGED, handler).unwrap();
    system.serve([
        of(GPU, last(read(3, 1))),
        of(GPU, with(Pasid::UNTAGGED, last(read(4, 1)))),
        last(read(5, 1)),
    ]);
    let calls = system.queue.calls();
    let [Call::Respond(batch)] = &calls[..] else {
        panic!("{calls:?}");
    };
    let pasids: Vec<_> = batch.iter().map(|response| response.pasid).collect();
    let by_turns = [Some(pasid(1)), None, None];
    assert_eq!(pasids, by_turns);
}

#[test]
fn groups_of_devices_and_pasids_do_not_mix() {
    let system = System::new();
    system.serve([
        read(7, 1),
        of(GPU, read(7, 2)),
        with(pasid(2), read(7, 3)),
        of(GPU, last(read(7, 4))),
        with(pasid(2), last(read(7, 5))),
        last(read(7, 6)),
    ]);
    let mut taken = system.handler.taken();
    taken.sort();
    let expected = [
        (NIC, pasid(1), vec![0x1000, 0x6000]),
        (NIC, pasid(2), vec![0x3000, 0x5000]),
        (GPU, pasid(1), vec![0x2000, 0x4000]),
    ];
    assert_eq!(taken, expected);
}

#[test]
fn a_stop_marker_is_dropped_and_ends_no_group() {
    let system = System::new();
    let marker = asking(NOTHING, last(read(7, 0)));
    system.serve([read(7, 1), marker, of(ABSENT, marker)]);
    assert_eq!(system.queue.calls(), []);
    system.serve([last(read(7, 2))]);
    assert_eq!(system.queue.responses(), [(NIC, 7, Response::Success)]);
    // Without a PASID it is a request for nothing.
    system.serve([with(Pasid::UNTAGGED, marker)]);
    assert_eq!(system.queue.responses(), [(NIC, 7, Response::Invalid)]);
}

#[test]
fn a_malformed_request_poisons_its_group_until_its_last() {
    let read_only = Permissions {
        read: true,
        ..NOTHING
    };
    let bad = [
        Permissions {
            privileged: true,
            ..read_only
        },
        Permissions {
            execute: true,
            ..read_only
        },
        NOTHING,
    ];
    for permissions in bad {
        for position in 0..3 {
            let system = System::new();
            let mut group = [read(7, 1), read(7, 2), read(7, 3)];
            group[position] = asking(permissions, group[position]);
            system.serve(group);
            assert_eq!(system.queue.calls(), [], "not before its last");
            system.serve([last(read(7, 4)), last(read(7, 5))]);
            let responses = [(NIC, 7, Response::Invalid), (NIC, 7, Response::Success)];
            assert_eq!(system.queue.responses(), responses);
            assert_eq!(
                system.handler.taken(),
                [(NIC, pasid(1), vec![0x5000])],
                "{permissions:?} at {position}: the next use of the index is a new group"
            );
        }
        let system = System::new();
        let write = Permissions {
            write: true,
            ..permissions
        };
        if permissions != NOTHING {
            system.serve([read(7, 1), last(asking(write, read(7, 2)))]);
            assert_eq!(system.queue.responses(), [(NIC, 7, Response::Invalid)]);
        }
        assert_eq!(system.handler.taken(), []);
    }
}

#[test]
fn who_is_not_known_is_answered_and_keeps_nothing() {
    let system = System::new();
    let strangers = [
        of(ABSENT, read(7, 1)),
        with(pasid(9), read(8, 2)),
        of(ABSENT, last(read(7, 1))),
        with(pasid(9), last(read(8, 2))),
    ];
    assert_eq!(system.serve(strangers).groups, 0);
    let responses = [(ABSENT, 7, Response::Invalid), (NIC, 8, Response::Invalid)];
    assert_eq!(system.queue.responses(), responses);
}

#[test]
fn a_device_that_never_ends_its_groups_loses_them_and_nobody_else_does() {
    let system = System::new();
    system.serve([of(GPU, read(1, 1))]);
    let endless = (0..500).map(|group| read(group, 1));
    system.serve(endless);
    assert_eq!(system.queue.calls(), []);
    // The others are served, and so is the device itself.
    system.serve([of(GPU, last(read(1, 2))), read(500, 2), last(read(500, 3))]);
    let responses = [(GPU, 1, Response::Success), (NIC, 500, Response::Success)];
    let mut found = system.queue.responses();
    found.sort_by_key(|(_, group, _)| *group);
    assert_eq!(found, responses);
    // Should one of the lost groups be ended after all, it is answered.
    system.serve([last(read(0, 2)), last(read(499, 2))]);
    let responses = [(NIC, 0, Response::Invalid), (NIC, 499, Response::Success)];
    assert_eq!(system.queue.responses(), responses);
}

#[test]
fn a_group_larger_than_the_share_is_refused_once() {
    let system = System::new();
    let pages = (0..100).map(|page| read(7, page));
    system.serve(pages.chain([last(read(7, 100))]));
    assert_eq!(system.queue.responses(), [(NIC, 7, Response::Invalid)]);
    assert_eq!(system.handler.taken(), []);
    system.serve([last(read(7, 1))]);
    assert_eq!(system.queue.responses(), [(NIC, 7, Response::Success)]);
}

#[test]
fn groups_that_handlers_keep_count_against_the_share() {
    let system = System::new();
    let keeper = Arc::new(Keeper::default());
    system.service.unroute(NIC, pasid(1));
    system.service.route(NIC, pasid(1), keeper.clone()).unwrap();
    system.serve((0..40).map(|group| last(read(group, 1))));
    assert_eq!(keeper.0.lock().len(), 32);
    assert_eq!(system.queue.responses().len(), 8, "the rest is refused");
    system.serve([of(GPU, last(read(1, 1)))]);
    assert_eq!(system.queue.responses(), [(GPU, 1, Response::Success)]);
    keeper.0.lock().clear();
    assert_eq!(system.queue.responses().len(), 32);
}

/// Groups whose hash is the same, by the device's choice of PASIDs, are a chain of bounded length.
#[test]
fn colliding_groups_are_refused_before_they_are_many() {
    let system = System::new();
    system.service.remove_device(NIC);
    system.service.add_device(NIC, DeviceShare(512)).unwrap();
    let shared: Arc<dyn PageRequestHandler> = system.handler.clone();
    // 1,024 places: the upper ten bits of PASID << 9 | index, multiplied.
    let place = |value: u32| (value << 9).wrapping_mul(0x9e37_79b1) >> 22;
    let colliding: Vec<_> = (1..1 << 20)
        .filter(|value| place(*value) == 0)
        .take(100)
        .map(pasid)
        .collect();
    for pasid in &colliding {
        system.service.route(NIC, *pasid, shared.clone()).unwrap();
    }
    system.serve(colliding.iter().map(|pasid| with(*pasid, read(0, 1))));
    system.serve(colliding.iter().map(|pasid| with(*pasid, last(read(0, 2)))));
    let responses = system.queue.responses();
    assert_eq!(responses.len(), 100);
    let handled = system.handler.taken();
    let both = handled.iter().filter(|(_, _, pages)| pages.len() == 2);
    assert!(both.count() <= 8, "a chain has eight groups at most");
}

#[test]
fn an_overflow_forgets_open_groups_and_keeps_complete_ones() {
    let system = System::new();
    system.queue.fill([
        read(1, 1),
        asking(NOTHING, read(2, 1)),
        read(3, 1),
        last(read(3, 2)),
    ]);
    system.queue.queue.lock().push_back(Taken::Overflow);
    // The device uses the indices again: the IOMMU answered what it lost.
    system.queue.fill([last(read(1, 9)), last(read(2, 9))]);
    assert!(system.service.serve().unwrap().overflowed);
    let answered: BTreeMap<_, _> = system
        .queue
        .responses()
        .into_iter()
        .map(|(_, group, response)| (group, response))
        .collect();
    assert_eq!(answered.len(), 3);
    assert!(
        answered
            .values()
            .all(|response| *response == Response::Success)
    );
    let mut taken = system.handler.taken();
    taken.sort();
    let pages: Vec<_> = taken.into_iter().map(|(_, _, pages)| pages).collect();
    assert_eq!(pages, [vec![0x1000, 0x2000], vec![0x9000], vec![0x9000]]);
}

#[test]
fn under_load_many_responses_share_a_doorbell() {
    let system = System::new();
    let groups = (0..512).map(|group| last(read(group % 32, 1)));
    let served = system.serve(groups);
    assert!(!served.more);
    let batches = system.queue.calls();
    assert!(batches.len() <= 512 / 16, "{} doorbells", batches.len());
    let answered = batches.iter().map(|call| match call {
        Call::Respond(batch) => batch.len(),
        Call::Drain(..) => panic!("nobody drains"),
    });
    assert_eq!(answered.sum::<usize>(), 512);
}

#[test]
fn devices_take_turns() {
    let system = System::new();
    let flood = (0..20).map(|group| last(read(group, 1)));
    system.serve(flood.chain([of(GPU, last(read(1, 1)))]));
    let handled = system.handler.taken();
    let place = handled.iter().position(|(device, ..)| *device == GPU);
    assert_eq!(place, Some(1));
}
