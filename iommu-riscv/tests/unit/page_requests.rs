//! The page-request queue, responses and the drain.

use crate::fake::{ATS, Bench, CAPABILITIES};
use crate::{PROBE_COMMANDS, Script};
use alloc::sync::Arc;
use iommu_core::error::AttachError;
use iommu_core::ids::{DeviceId, Pasid, PhysicalAddress, Tag};
use iommu_core::iommu::{DeviceConfig, Iommu, PageFaults};
use iommu_core::page_request::{
    DeviceShare, Origin, PageGroup, PageRequest, PageRequests, PageResponse, Resolve, Response,
    Taken,
};
use iommu_core::page_table::{Format, PageTable};
use iommu_core::testing::Event;

const DEVICE: DeviceId = DeviceId(0x1234);
const OTHER: DeviceId = DeviceId(0x1235);
const TAG: Tag = Tag(7);
const ASKING: DeviceConfig = DeviceConfig {
    pasid_bits: 8,
    device_tlb: true,
    page_faults: PageFaults::PageRequests {
        response_pasid: true,
    },
};
const TABLE: PageTable = PageTable {
    root: PhysicalAddress(0x8000_0000),
    format: Format::Riscv64 { levels: 4 },
    written_back: false,
};

fn pasid(value: u32) -> Pasid {
    Pasid::new(value).unwrap()
}

/// A read with a PASID: PID at 12, PV at 32, DID at 40; R at 0, L at 2, PRGI at 3, the page at 12.
fn record(device: DeviceId, pasid: u32, group: u64, page: u64, last: bool) -> [u64; 2] {
    [
        u64::from(pasid) << 12 | 1 << 32 | u64::from(device.0) << 40,
        1 | u64::from(last) << 2 | group << 3 | page << 12,
    ]
}

fn response(group: u16, response: Response) -> PageResponse {
    PageResponse {
        device: DEVICE,
        pasid: Some(pasid(9)),
        group,
        origin: Origin::PageRequest,
        response,
    }
}

/// The groups that are taken, `u16::MAX` for an overflow, and what is left.
fn groups(unit: &impl Iommu, most: usize) -> (Vec<u16>, usize) {
    let mut groups = Vec::new();
    let left = unit.take_page_requests(most, &mut |taken| {
        groups.push(match taken {
            Taken::Request(PageRequest { group, .. }) => group,
            Taken::Overflow => u16::MAX,
        });
    });
    (groups, left)
}

/// EN_PRI is bit 2, PRPR bit 6; T2GPA, bit 3, stays 0.
#[test]
fn a_device_that_asks_is_heard() {
    let bench = Bench::new(CAPABILITIES);
    let unit = bench.unit();
    assert!(unit.features().page_requests && !unit.features().stall);
    unit.enable_device(DEVICE, ASKING).unwrap();
    assert_eq!(bench.fake.device_context(0x1234).unwrap()[0], 0x267);
    let without_pasid = DeviceConfig {
        page_faults: PageFaults::PageRequests {
            response_pasid: false,
        },
        ..ASKING
    };
    unit.enable_device(OTHER, without_pasid).unwrap();
    assert_eq!(bench.fake.device_context(0x1235).unwrap()[0], 0x227);

    let without_tlb = DeviceConfig {
        device_tlb: false,
        ..ASKING
    };
    let stalls = DeviceConfig {
        page_faults: PageFaults::Stall,
        ..ASKING
    };
    for config in [without_tlb, stalls] {
        let refused = unit.enable_device(DeviceId(5), config);
        assert_eq!(refused, Err(AttachError::NoPageRequests));
    }
}

#[test]
fn without_ats_there_is_no_queue() {
    let bench = Bench::new(CAPABILITIES & !ATS);
    let unit = bench.unit();
    assert!(!unit.features().page_requests);
    assert_eq!(
        unit.enable_device(DEVICE, ASKING),
        Err(AttachError::NoDeviceTlb)
    );
    assert_eq!(groups(&unit, 8), (vec![], 0));
}

#[test]
fn the_queue_is_as_large_as_the_hardware_takes() {
    let bench = Bench::new(CAPABILITIES);
    let _unit = bench.unit();
    assert_eq!(bench.fake.state().pqb & 0x1f, 9, "2^10 records");
    assert_eq!(bench.fake.state().pqcsr, 1 | 1 << 16);
    let bench = Bench::new(CAPABILITIES);
    bench.fake.state().log2_queue = 7;
    let unit = bench.unit();
    for group in 0..127 {
        bench.fake.page_request(record(DEVICE, 9, group, 1, true));
    }
    assert_eq!(groups(&unit, 1000), ((0..127).collect(), 0));
}

#[test]
fn requests_are_taken_in_order_and_their_slots_given_back() {
    let bench = Bench::new(CAPABILITIES);
    let unit = bench.unit();
    for round in 0..5 {
        for group in 0..300 {
            bench
                .fake
                .page_request(record(DEVICE, 9, group, round, false));
        }
        assert_eq!(groups(&unit, 100), ((0..100).collect(), 200));
        assert_eq!(groups(&unit, 1000), ((100..300).collect(), 0));
        let state = bench.fake.state();
        assert_eq!(state.pqh, state.pqt);
    }
    assert_eq!(bench.recorder.take(), [], "no command");
}

#[test]
fn a_tail_outside_the_queue_ends_all_the_same() {
    let bench = Bench::new(CAPABILITIES);
    let unit = bench.unit();
    bench.fake.state().pqt = u32::MAX;
    let (taken, left) = groups(&unit, usize::MAX);
    assert!(taken.len() < 1024 && left == 0);
}

/// pqof is bit 9, pqmf bit 8.
#[test]
fn an_overflow_is_told_after_the_last_request_and_cleared_over_an_empty_queue() {
    for memory_fault in [false, true] {
        let bench = Bench::new(CAPABILITIES);
        let unit = bench.unit();
        for group in 0..1020 {
            bench
                .fake
                .page_request(record(DEVICE, 9, group % 512, 1, true));
        }
        if memory_fault {
            bench.fake.state().pqcsr |= 1 << 8;
        }
        for _ in 0..10 {
            bench.fake.page_request(record(DEVICE, 9, 1, 1, true));
        }
        let (first, left) = groups(&unit, 1000);
        assert!(first.len() == 1000 && left > 0 && !first.contains(&u16::MAX));
        assert_ne!(bench.fake.state().pqcsr & 0x300, 0, "requests are left");
        let (rest, left) = groups(&unit, 1000);
        assert_eq!((rest.last(), left), (Some(&u16::MAX), 0));
        assert_eq!(bench.fake.state().pqcsr & !(1 << 17), 1 | 1 << 16);
        bench.fake.page_request(record(DEVICE, 9, 3, 1, true));
        assert_eq!(groups(&unit, 8), (vec![3], 0));
    }
}

#[test]
fn a_register_that_stays_busy_is_not_waited_for_without_end() {
    let bench = Bench::new(CAPABILITIES);
    let unit = bench.unit();
    {
        let mut state = bench.fake.state();
        state.pqcsr |= 1 << 9 | 1 << 17;
        state.stuck = Some(80);
    }
    assert_eq!(groups(&unit, 8), (vec![u16::MAX], 0));
    assert_eq!(
        groups(&unit, 8),
        (vec![u16::MAX], 0),
        "and it is tried again"
    );
}

/// Opcode 4, func3 1: 0x84; PV at 32, PID at 12, RID at 40, DSV at 33 and DSEG at 56; the payload has
/// the group index at 32 and the response code at 44.
#[test]
fn responses_share_a_doorbell_and_wait_for_nothing() {
    let bench = Bench::new(CAPABILITIES);
    let unit = bench.unit();
    let elsewhere = PageResponse {
        device: DeviceId(0x05_0100),
        pasid: None,
        ..response(0x1ff, Response::Failure)
    };
    unit.respond(&[response(3, Response::Invalid), elsewhere])
        .unwrap();
    let expected = Script::after(PROBE_COMMANDS)
        .command(0x84 | 9 << 12 | 1 << 32 | 0x1234 << 40, 3 << 32 | 1 << 44)
        .command(
            0x84 | 1 << 33 | 0x100 << 40 | 5 << 56,
            0x1ff << 32 | 0xf << 44,
        )
        .posted();
    assert_eq!(bench.recorder.take(), expected.events);
}

#[test]
fn a_drain_fences_responses_and_pushes_requests() {
    let bench = Bench::new(CAPABILITIES);
    let unit = bench.unit();
    unit.enable_device(DEVICE, ASKING).unwrap();
    unit.attach(DEVICE, pasid(9), TAG, &TABLE).unwrap();
    bench.forget();
    bench.fake.state().in_flight = vec![record(DEVICE, 9, 3, 1, true)];
    unit.drain_page_requests(DEVICE, pasid(9)).unwrap();
    let fence = Script::after(PROBE_COMMANDS + 2 + 3).done();
    let inval = 4 | 9 << 12 | 1 << 32 | 0x1234 << 40;
    let rest = Script::after(fence.position)
        .command(inval, 0x7fff_ffff_ffff_f800)
        .done();
    let expected = [fence.events, rest.events].concat();
    assert_eq!(bench.recorder.take(), expected);
    assert_eq!(groups(&unit, 8), (vec![3], 0));
    assert_eq!(
        unit.drain_page_requests(DEVICE, pasid(8)),
        Err(AttachError::UnknownPasid(DEVICE, pasid(8)))
    );
}

/// The unit under the neutral service, PASID 9 of both devices with a handler that says yes.
struct Served {
    bench: Bench,
    requests: Arc<PageRequests>,
}

impl Served {
    fn new() -> Self {
        let bench = Bench::new(CAPABILITIES);
        let unit: Arc<dyn Iommu> = Arc::new(bench.unit());
        let requests = PageRequests::new(unit.clone());
        let yes = Arc::new(Resolve(|_: &PageGroup| Response::Success));
        for device in [DEVICE, OTHER] {
            unit.enable_device(device, ASKING).unwrap();
            unit.attach(device, pasid(9), TAG, &TABLE).unwrap();
            requests.add_device(device, DeviceShare(64)).unwrap();
            requests.route(device, pasid(9), yes.clone()).unwrap();
        }
        bench.forget();
        Self { bench, requests }
    }

    /// The responses since the last call: (requester id, group, code).
    fn responses(&self) -> Vec<(u32, u64, u64)> {
        let response = |event: Event| match event {
            Event::Command(words) if words[0] & 0x3ff == 0x84 => Some((
                (words[0] >> 40 & 0xffff) as u32,
                words[1] >> 32 & 0x1ff,
                words[1] >> 44,
            )),
            Event::Wait => panic!("nobody waits"),
            _ => None,
        };
        let events = self.bench.recorder.take();
        events.into_iter().filter_map(response).collect()
    }
}

/// Never ending groups, dead PASIDs, others' ids and strange flags, until the queue overflows: memory
/// stays as it is, every last request that was accepted is answered once, and another device is served.
#[test]
fn a_hostile_device_costs_nobody_else_anything() {
    let served = Served::new();
    let blocks = served.bench.memory.heap.live_blocks();
    let mut state = 1u64;
    let mut roll = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        state >> 11
    };
    for round in 0..20 {
        let auto = served.bench.fake.state().auto_responses;
        let mut due = 0;
        served
            .bench
            .fake
            .page_request(record(OTHER, 9, round, 1, false));
        for _ in 0..2000 {
            let low = roll() & 0x7_ffff_ffff;
            let device = if low & 0xf000 == 0 {
                DeviceId(77)
            } else {
                DEVICE
            };
            let words = [low | u64::from(device.0) << 40, roll() | roll() << 40];
            let is_stop_marker = words[1] & 3 == 0 && low >> 32 & 1 == 1;
            due += usize::from(words[1] & 4 != 0 && !is_stop_marker);
            served.bench.fake.page_request(words);
        }
        let lost = served.bench.fake.state().auto_responses - auto;
        let found = served.requests.serve().unwrap();
        assert!(found.overflowed && !found.more);
        let answered = served.responses();
        let hostile = answered.iter().filter(|(id, ..)| *id != OTHER.0);
        assert_eq!(hostile.count(), due - lost);
        served
            .bench
            .fake
            .page_request(record(OTHER, 9, round, 2, true));
        served.requests.serve().unwrap();
        assert_eq!(served.responses(), [(OTHER.0, round, 0)]);
    }
    assert_eq!(served.bench.memory.heap.live_blocks(), blocks);
}

#[test]
fn under_load_sixteen_responses_share_a_doorbell() {
    let served = Served::new();
    for number in 0..1000 {
        let device = if number % 2 == 0 { DEVICE } else { OTHER };
        let words = record(device, 9, number / 2 % 64, 1, true);
        served.bench.fake.page_request(words);
    }
    served.requests.serve().unwrap();
    let events = served.bench.recorder.take();
    let count = |event| events.iter().filter(|one| **one == event).count();
    assert!(count(Event::Doorbell) <= 1000 / 16);
    assert_eq!(count(Event::Wait), 0);
}

#[test]
fn a_pasid_that_is_gone_is_answered_invalid() {
    let served = Served::new();
    served
        .bench
        .fake
        .page_request(record(DEVICE, 9, 3, 1, false));
    served.requests.serve().unwrap();
    served.requests.unroute(DEVICE, pasid(9));
    served.bench.fake.state().in_flight =
        vec![record(DEVICE, 9, 3, 2, true), record(OTHER, 9, 4, 1, true)];
    served.requests.drain(DEVICE, pasid(9)).unwrap();
    let events = served.bench.recorder.take();
    let invalid = [0x84 | 9 << 12 | 1 << 32 | 0x1234 << 40, 3 << 32 | 1 << 44];
    let answers = events
        .iter()
        .filter(|event| **event == Event::Command(invalid.to_vec()));
    assert_eq!(answers.count(), 1);
    served.requests.serve().unwrap();
    let kept = [(OTHER.0, 4, 0)];
    assert_eq!(served.responses(), kept, "the other's is not lost");
}
