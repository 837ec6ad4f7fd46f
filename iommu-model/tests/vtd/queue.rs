//! The invalidation queue: order, waits, errors.

use crate::bench::*;
use iommu_model::vtd::Configuration;
use iommu_model::{Hardware, Policy};

const FREE: Policy = Policy {
    later: true,
    unordered: true,
    ..Policy::STRICT
};

/// PASID-based-IOTLB invalidation of everything in the PASID.
const IOTLB: [u64; 2] = [6 | 2 << 4 | (DOMAIN as u64) << 16 | (PASID as u64) << 32, 0];
/// The whole device TLB of the PASID.
const DEVICE_TLB: [u64; 2] = [
    8 | (DEVICE as u64) << 16 | (PASID as u64) << 32,
    0x7fff_ffff_ffff_f800,
];
const FENCE: [u64; 2] = [5 | 1 << 6, 0];

fn free(seed: u64) -> Bench {
    Bench::with(Configuration::default(), FREE, seed)
}

fn answer(bench: &Bench) {
    for request in bench.device.take_invalidations() {
        bench
            .model
            .invalidation_completed(DEVICE, 1 << request.itag);
    }
}

#[test]
fn a_wait_waits_for_devices() {
    let bench = Bench::new();
    bench.post(&[DEVICE_TLB, DEVICE_TLB, bench.wait(7)]);
    bench.machine.settle();
    assert_eq!(bench.memory.cpu_load(bench.status), 0);
    let requests = bench.device.take_invalidations();
    assert_eq!(requests.len(), 2);
    assert_eq!((requests[0].size, requests[0].pasid), (0, Some(PASID)));
    bench
        .model
        .invalidation_completed(DEVICE, 1 << requests[0].itag);
    assert_eq!(bench.memory.cpu_load(bench.status), 0);
    bench
        .model
        .invalidation_completed(DEVICE, 1 << requests[1].itag);
    assert_eq!(bench.memory.cpu_load(bench.status), 7);
}

#[test]
fn a_device_holds_32_requests_and_more_wait() {
    let bench = Bench::new();
    // 31 with their wait fill the window first.
    for _ in 0..2 {
        bench.post(&[DEVICE_TLB; 31]);
    }
    bench.post(&[bench.wait(1)]);
    let first = bench.device.take_invalidations();
    assert_eq!(first.len(), 32);
    let mut itags: Vec<_> = first.iter().map(|request| request.itag).collect();
    itags.sort_unstable();
    assert_eq!(itags, (0..32).collect::<Vec<_>>());
    bench.model.invalidation_completed(DEVICE, 1 << 17);
    let next = bench.device.take_invalidations();
    assert_eq!((next.len(), next[0].itag), (1, 17));
    bench.model.invalidation_completed(DEVICE, u32::MAX);
    answer(&bench);
    assert_eq!(bench.memory.cpu_load(bench.status), 1);
}

#[test]
fn a_wait_can_raise_an_interrupt_once() {
    let bench = Bench::new();
    bench.write32(0xa0, 0);
    bench.post(&[[5 | 1 << 4, 0], [5 | 1 << 4, 0]]);
    assert_eq!(bench.read32(0x9c), 1, "IWC");
    assert_eq!(bench.model.take_interrupts(), ["invalidation event"]);
    bench.write32(0x9c, 1);
    bench.post(&[[5 | 1 << 4, 0]]);
    assert_eq!(bench.model.take_interrupts(), ["invalidation event"]);
}

/// Linux's recovery: overwrite the descriptor, acknowledge, go on.
#[test]
fn an_illegal_descriptor_stops_the_queue_in_front_of_itself() {
    let bench = Bench::new();
    bench.table.map(VA, BASE);
    bench.read(VA).unwrap();
    bench.table.unmap(VA);
    bench.write32(FECTL, 0);
    bench.post(&[bench.wait(1), [0, 0], IOTLB, bench.wait(2)]);
    assert_eq!(bench.read32(FSTS), IQE);
    assert_eq!(bench.model.take_interrupts(), ["fault event"]);
    assert_eq!(
        (bench.read64(IQH), bench.memory.cpu_load(bench.status)),
        (32, 1)
    );
    bench.post(&[bench.wait(3)]);
    assert_eq!(bench.read64(IQH), 32, "the doorbell alone helps nothing");
    assert!(bench.read(VA).is_ok());
    bench.store(bench.queue + 32, &FENCE);
    bench.write32(FSTS, IQE);
    assert_eq!(bench.memory.cpu_load(bench.status), 3);
    assert_eq!(bench.read64(IQH), 160);
    assert!(bench.read(VA).is_err());
}

#[test]
fn a_descriptor_can_be_made_illegal() {
    let bench = Bench::new();
    bench.model.reject_next();
    bench.post(&[IOTLB]);
    assert_eq!(bench.read32(FSTS) & IQE, IQE);
    bench.write32(FSTS, IQE);
    assert_eq!(bench.read64(IQH), 0, "in its place it is illegal again");
    assert_eq!(bench.read32(FSTS) & IQE, IQE);
    bench.store(bench.queue, &FENCE);
    bench.write32(FSTS, IQE);
    assert_eq!(bench.read64(IQH), 32, "another is legal there");
}

#[test]
fn a_tail_outside_the_queue_and_a_queue_outside_memory_are_errors() {
    for (tail, error) in [(8192, 1), (16, 1)] {
        let bench = Bench::new();
        bench.write64(IQT, tail);
        assert_eq!((bench.read32(FSTS), bench.read64(IQERCD)), (IQE, error));
    }
    let bench = Bench::off(Configuration::default(), Policy::STRICT, 0);
    bench.write64(IQA, 0x12_3456_7000 | 1 << 11);
    bench.command(1 << 26);
    bench.write64(IQT, 32);
    assert_eq!((bench.read32(FSTS), bench.read64(IQERCD)), (IQE, 2));
}

#[test]
fn a_device_that_does_not_answer_aborts_every_pending_wait() {
    let bench = Bench::new();
    bench.post(&[DEVICE_TLB, bench.wait(1), IOTLB, bench.wait(2)]);
    assert_eq!(bench.memory.cpu_load(bench.status), 0);
    bench.model.time_out_devices();
    assert_eq!(bench.read32(FSTS), ITE);
    assert_eq!(bench.read64(IQERCD) >> 32, u64::from(DEVICE));
    bench.post(&[bench.wait(3)]);
    assert_eq!(bench.read64(IQH), 128, "nothing is fetched");
    bench.write32(FSTS, ITE);
    assert_eq!(bench.memory.cpu_load(bench.status), 3, "not 1 and not 2");
    // The answer comes too late.
    let request = bench.device.take_invalidations()[0];
    bench
        .model
        .invalidation_completed(DEVICE, 1 << request.itag);
    assert_eq!(bench.read32(FSTS), ICE);
    assert_eq!(bench.read64(IQERCD) >> 48, u64::from(DEVICE));
    bench.post(&[bench.wait(4)]);
    assert_eq!(bench.memory.cpu_load(bench.status), 4, "that stops nothing");
}

#[test]
fn only_the_device_that_is_waited_for_longest_times_out() {
    let bench = Bench::new();
    let other = std::sync::Arc::new(Sent::default());
    bench.model.connect(0x28, other.clone());
    let theirs = [8 | 0x28 << 16 | 9 << 32, 0];
    bench.post(&[DEVICE_TLB, theirs, bench.wait(1)]);
    bench.model.time_out_devices();
    bench.write32(FSTS, ITE);
    let request = other.take_invalidations()[0];
    bench.model.invalidation_completed(0x28, 1 << request.itag);
    assert_eq!(bench.read32(FSTS), 0, "it was still waited for");
}

#[test]
fn a_frozen_queue_does_nothing_and_says_nothing() {
    let bench = Bench::new();
    bench.model.freeze();
    bench.post(&[bench.wait(1)]);
    bench.machine.settle();
    assert_eq!(bench.memory.cpu_load(bench.status), 0);
    assert_eq!((bench.read32(FSTS), bench.read64(IQH)), (0, 0));
}

/// A device TLB that is told to forget may ask again at once, and get what the IOTLB still has.
#[test]
fn a_device_tlb_invalidation_may_overtake_the_iotlb_unless_there_is_a_fence() {
    let overtaken = |seed, fence: &[[u64; 2]]| {
        let bench = free(seed);
        bench.table.map(VA, BASE);
        bench.read(VA).unwrap();
        bench.table.unmap(VA);
        bench.post(&[&[IOTLB], fence, &[DEVICE_TLB]].concat());
        while bench.device.invalidations.lock().unwrap().is_empty() {
            assert!(bench.machine.step());
        }
        bench.read(VA).is_ok()
    };
    assert!((0..100).any(|seed| overtaken(seed, &[])));
    assert!(!(0..100).any(|seed| overtaken(seed, &[FENCE])));
}

/// 6.5.2.11: caches are invalidated from the top, whatever is free.
#[test]
fn context_pasid_and_iotlb_commands_keep_their_order() {
    for seed in 0..100 {
        let bench = free(seed);
        bench.table.map(VA, BASE);
        bench.read(VA).unwrap();
        bench.set_pasid(PASID, [0; 8]);
        bench.post(&[[0x11, 0], [0x37, 0], IOTLB]);
        while bench.model.cached_translations() != 0 {
            assert!(bench.machine.step());
        }
        assert!(bench.read(VA).is_err(), "the PASID entry went first");
        assert_eq!(bench.take_fault(), Some(0x59));
    }
}

/// A wait covers what lies between it and the wait before it, and no more.
#[test]
fn a_wait_may_overtake_a_wait() {
    let second = |bench: &Bench| [0x25 | 1 << 32, bench.status + 8];
    let overtakes = |seed| {
        let bench = free(seed);
        bench.post(&[DEVICE_TLB, bench.wait(1), IOTLB, second(&bench)]);
        bench.machine.settle();
        assert_eq!(bench.memory.cpu_load(bench.status), 0);
        bench.memory.cpu_load(bench.status + 8) == 1
    };
    assert!((0..20).all(overtakes), "nothing else holds it back");
    // With a fence it does not.
    let bench = free(1);
    bench.post(&[DEVICE_TLB, FENCE, IOTLB, second(&bench)]);
    bench.machine.settle();
    assert_eq!(bench.memory.cpu_load(bench.status + 8), 0);
    answer(&bench);
    bench.machine.settle();
    assert_eq!(bench.memory.cpu_load(bench.status + 8), 1);
}

#[test]
fn an_iotlb_invalidation_drains_what_was_translated_before() {
    let policy = Policy {
        posted: true,
        ..Policy::STRICT
    };
    // DR and DW; PASID-based invalidations drain by themselves.
    for (descriptor, drains) in [(IOTLB, true), ([0xd2, 0], true), ([0x12, 0], false)] {
        let bench = Bench::with(Configuration::default(), policy, 0);
        let at = bench.status + 64;
        let write = move |memory: &iommu_model::Memory| memory.store(at, 5).unwrap();
        bench.machine.perform(DEVICE, write);
        bench.post(&[descriptor]);
        assert_eq!(bench.memory.cpu_load(at) == 5, drains);
    }
}

#[test]
fn what_is_left_over_the_end_goes_on_at_the_beginning() {
    let bench = Bench::new();
    for round in 1..=300 {
        bench.post(&[IOTLB, bench.wait(round)]);
        assert_eq!(bench.memory.cpu_load(bench.status), u64::from(round));
    }
    assert_eq!(bench.read64(IQH), 600 % 256 * 32);
}
