//! The page-request queue, responses and the drain.

use crate::fake::{PPR, PRO};
use crate::rig::*;
use alloc::sync::Arc;
use iommu_core::error::{AttachError, QueueError};
use iommu_core::ids::{DeviceId, Pasid};
use iommu_core::iommu::{DeviceConfig, Iommu, PageFaults};
use iommu_core::page_request::{
    DeviceShare, Origin, PageGroup, PageRequest, PageRequests, PageResponse, Resolve, Response,
    Taken,
};

const ASKING: DeviceConfig = DeviceConfig {
    page_faults: PageFaults::PageRequests {
        response_pasid: true,
    },
    ..WITH_TLB
};
const PRS_BIT: u64 = 1 << 29;
const PDS_BIT: u64 = 1 << 42;

/// A read of [`DEVICE`] with a PASID: PP, RID and PASID in word 0; RD, LPIG, PRGI and ADDR in word 1.
fn record(pasid: u32, group: u64, page: u64, last: bool) -> [u64; 2] {
    let low = 1 | 1 << 8 | u64::from(DEVICE.0) << 16 | u64::from(pasid) << 32;
    [low, 1 | u64::from(last) << 2 | group << 3 | page << 12]
}

impl Rig {
    fn request(&self, words: [u64; 2]) {
        self.hardware(|state| state.page_request(&self.bench.heap, words));
    }

    fn take(&self, most: usize) -> (Vec<Taken>, usize) {
        let mut taken = Vec::new();
        let left = self
            .unit
            .take_page_requests(most, &mut |one| taken.push(one));
        (taken, left)
    }

    fn groups(&self, most: usize) -> (Vec<u16>, usize) {
        let (taken, left) = self.take(most);
        let group = |taken| match taken {
            Taken::Request(PageRequest { group, .. }) => group,
            Taken::Overflow => u16::MAX,
        };
        (taken.into_iter().map(group).collect(), left)
    }
}

fn response(group: u16, response: Response) -> PageResponse {
    PageResponse {
        device: DEVICE,
        pasid: Pasid::new(9),
        group,
        origin: Origin::PageRequest,
        response,
    }
}

/// PQS = 3 is 2^(3 + 7) slots.
#[test]
fn the_queue_is_set_up_before_translation() {
    let bench = Bench::new(QEMU_CAP, COHERENT_ECAP);
    bench.hardware.with(|state| {
        state.leave_firmware_on();
        (state.pqh, state.pqt, state.prs) = (0x40, 0x80, PPR | PRO);
    });
    let _unit = bench.probe().unwrap();
    bench.hardware.with(|state| {
        assert_eq!((state.pqh, state.pqt, state.prs), (0, 0, 0));
        assert_eq!(state.pqa & 0xfff, 3);
        assert_eq!(state.pqa & 0x7fff & !0xfff, 0, "aligned to its size");
        assert_eq!(state.pectl, 1 << 31);
    });
}

#[test]
fn without_the_capability_there_is_no_queue() {
    let rig = Rig::new(QEMU_CAP, COHERENT_ECAP & !PRS_BIT);
    assert!(!rig.unit.features().page_requests);
    assert_eq!(rig.hardware(|state| state.pqa), 0);
    assert_eq!(
        rig.unit.enable_device(DEVICE, ASKING),
        Err(AttachError::NoPageRequests)
    );
    assert_eq!(rig.take(8), (vec![], 0));
}

/// Linux's context_set_sm_pre(): BIT(4).
#[test]
fn a_device_that_asks_gets_pre() {
    let rig = Rig::plain();
    assert!(rig.unit.features().page_requests && !rig.unit.features().stall);
    rig.unit.enable_device(DEVICE, ASKING).unwrap();
    let [low, ..] = rig.words::<4>(rig.context_entry(DEVICE).unwrap());
    assert_eq!(low & 0x1f, 0b1_1101);
    for config in [
        DeviceConfig {
            device_tlb: false,
            ..ASKING
        },
        DeviceConfig {
            page_faults: PageFaults::Stall,
            ..ASKING
        },
    ] {
        let other = DeviceId::from_bdf(1, 0, 0);
        let refused = rig.unit.enable_device(other, config);
        assert_eq!(refused, Err(AttachError::NoPageRequests));
    }
}

#[test]
fn requests_are_taken_in_order_and_their_slots_given_back() {
    let rig = Rig::plain().attached(ASKING, pasid(9));
    for group in 0..5 {
        rig.request(record(9, group, 7, true));
    }
    assert_eq!(rig.groups(2), (vec![0, 1], 3));
    assert_eq!(rig.hardware(|state| state.pqh), 2 * 32);
    assert_eq!(rig.groups(8), (vec![2, 3, 4], 0));
    assert_eq!(rig.hardware(|state| (state.pqh, state.prs)), (5 * 32, 0));
    assert_eq!(rig.take(8), (vec![], 0));
    assert_eq!(rig.steps(), [], "no command");
}

#[test]
fn the_queue_wraps() {
    let rig = Rig::plain().attached(ASKING, pasid(9));
    for round in 0..5 {
        for group in 0..300 {
            rig.request(record(9, group, round, false));
        }
        let (groups, left) = rig.groups(1000);
        assert_eq!((groups, left), ((0..300).collect(), 0));
    }
}

#[test]
fn records_of_an_unknown_type_are_passed_over() {
    let rig = Rig::plain().attached(ASKING, pasid(9));
    rig.request([2, 0]);
    rig.request([u64::MAX, u64::MAX]);
    rig.request(record(9, 3, 7, true));
    assert_eq!(rig.groups(8), (vec![3], 0));
}

#[test]
fn a_tail_outside_the_queue_ends_all_the_same() {
    let rig = Rig::plain().attached(ASKING, pasid(9));
    rig.hardware(|state| state.pqt = u64::MAX);
    let (taken, left) = rig.take(usize::MAX);
    assert!(taken.len() < 1024 && left == 0);
}

#[test]
fn an_overflow_is_told_after_the_last_request_and_cleared_over_an_empty_queue() {
    let rig = Rig::plain().attached(ASKING, pasid(9));
    for group in 0..1030 {
        rig.request(record(9, group % 512, 7, group % 2 == 0));
    }
    assert_eq!(rig.hardware(|state| state.prs & PRO), PRO);
    let (first, left) = rig.groups(1000);
    assert_eq!((first.len(), left), (1000, 23));
    assert!(!first.contains(&u16::MAX), "requests are left");
    assert_eq!(rig.hardware(|state| state.prs & PRO), PRO);
    let (rest, left) = rig.groups(1000);
    assert_eq!((rest.len(), left), (24, 0));
    assert_eq!(rest[23], u16::MAX);
    assert_eq!(rig.hardware(|state| state.prs & PRO), 0);
    rig.request(record(9, 1, 7, true));
    assert_eq!(rig.groups(8), (vec![1], 0));
}

/// Type 9, PP, code << 12, RID << 16, PASID << 32; PRGI << 3.
#[test]
fn responses_share_a_doorbell_and_wait_for_nothing() {
    let rig = Rig::plain().attached(ASKING, pasid(9));
    let bare = PageResponse {
        pasid: None,
        ..response(5, Response::Success)
    };
    let responses = [response(3, Response::Invalid), bare];
    rig.unit.respond(&responses).unwrap();
    let expected = [
        Step::Command(0x9_0020_1019, 3 << 3),
        Step::Command(0x20_0009, 5 << 3),
        Step::Sync,
        Step::Doorbell,
    ];
    assert_eq!(rig.steps(), expected);
}

/// 512 batches nobody waits for: the queue of 256 descriptors does not run full.
#[test]
fn responses_need_no_wait_for_their_slots_either() {
    let rig = Rig::plain().attached(ASKING, pasid(9));
    let batch = [response(3, Response::Success); 64];
    for _ in 0..512 {
        rig.unit.respond(&batch).unwrap();
    }
    assert!(!rig.steps().contains(&Step::Wait));
    rig.hardware(|state| state.silent = true);
    let stuck = (0..8).find_map(|_| rig.unit.respond(&batch).err());
    assert!(matches!(stuck, Some(QueueError::Timeout(_))), "{stuck:?}");
}

/// 7.10: fence; IOTLB of the PASID; fence, device TLB of the PASID; a wait with PD, SW and FN.
#[test]
fn a_drain_follows_the_specification() {
    let rig = Rig::plain().attached(ASKING, pasid(9));
    rig.unit.block(DEVICE, pasid(9)).unwrap();
    rig.steps();
    rig.unit.drain_page_requests(DEVICE, pasid(9)).unwrap();
    let mut steps = rig.steps();
    let drain = steps.remove(4);
    let expected = [
        FENCE,
        (0x9_0001_0026, 0),
        FENCE,
        (0x9_0020_0008, 0x7fff_ffff_ffff_f800),
    ];
    assert_eq!(steps, list(&expected));
    let Step::Command(low, address) = drain else {
        panic!("{drain:?}");
    };
    assert_eq!((low, address & 3), (1 << 32 | 0xe5, 0));

    let rig = Rig::new(QEMU_CAP, COHERENT_ECAP & !PDS_BIT).attached(ASKING, pasid(9));
    rig.unit.drain_page_requests(DEVICE, pasid(9)).unwrap();
    let drain = &rig.steps()[4];
    assert!(matches!(drain, Step::Command(low, _) if low & 0xff == 0x65));
}

#[test]
fn a_drain_of_what_is_not_there_or_not_confirmed_is_an_error() {
    let rig = Rig::plain().attached(ASKING, pasid(9));
    assert_eq!(
        rig.unit.drain_page_requests(DEVICE, pasid(8)),
        Err(AttachError::UnknownPasid(DEVICE, pasid(8)))
    );
    rig.hardware(|state| state.silent = true);
    assert!(matches!(
        rig.unit.drain_page_requests(DEVICE, pasid(9)),
        Err(AttachError::Queue(QueueError::Timeout(_)))
    ));
}

/// The unit under the neutral service, PASID 9 of [`DEVICE`] and [`OTHER`] with a handler that says
/// yes.
struct Served {
    bench: Bench,
    requests: Arc<PageRequests>,
}

const OTHER: DeviceId = DeviceId::from_bdf(0, 5, 0);

impl Served {
    fn new() -> Self {
        let bench = Bench::new(QEMU_CAP, COHERENT_ECAP);
        let unit: Arc<dyn Iommu> = Arc::new(bench.probe().unwrap());
        let requests = PageRequests::new(unit.clone());
        let yes = Arc::new(Resolve(|_: &PageGroup| Response::Success));
        for device in [DEVICE, OTHER] {
            unit.enable_device(device, ASKING).unwrap();
            unit.attach(device, pasid(9), TAG, &TABLE).unwrap();
            requests.add_device(device, DeviceShare(64)).unwrap();
            requests.route(device, pasid(9), yes.clone()).unwrap();
        }
        bench.journal.take();
        Self { bench, requests }
    }

    fn request(&self, words: [u64; 2]) {
        let heap = &self.bench.heap;
        let add = |state: &mut crate::fake::State| state.page_request(heap, words);
        self.bench.hardware.with(add);
    }

    /// The responses since the last call: (source-id, group, code).
    fn responses(&self) -> Vec<(u32, u64, u64)> {
        let steps = self.bench.journal.take();
        assert!(!steps.contains(&Step::Wait));
        let response = |step: &Step| match *step {
            Step::Command(low, high) if low & 0xf == 9 => {
                Some(((low >> 16) as u16 as u32, high >> 3, low >> 12 & 0xf))
            }
            _ => None,
        };
        steps.iter().filter_map(response).collect()
    }
}

fn of(device: DeviceId, [low, high]: [u64; 2]) -> [u64; 2] {
    [low & !0xffff_0000 | u64::from(device.0) << 16, high]
}

/// Never ending groups, strange types, PASIDs and flags, until the queue overflows: memory stays as
/// it is, every last request that was accepted is answered once, and another device is served.
#[test]
fn a_hostile_device_costs_nobody_else_anything() {
    let served = Served::new();
    let blocks = served.bench.heap.live_blocks();
    let mut state = 1u64;
    let mut roll = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        state >> 11
    };
    for round in 0..20 {
        let auto = served.bench.hardware.with(|state| state.auto_responses);
        let mut due = 0;
        served.request(of(OTHER, record(9, round, 1, false)));
        for _ in 0..2000 {
            // Word 1 is anything, PASID, EXE and PM too; the type is sometimes not the defined one.
            let [low, high] = [roll(), roll() | roll() << 40];
            let kind = if low & 0xf00 == 0 { low & 0xff } else { 1 };
            let words = [low << 32 & 0x003f_ffff_0000_0000 | low & 0x100 | kind, high];
            let is_stop_marker = high & 3 == 0 && low & 0x100 != 0;
            due += usize::from(words[0] & 0xff == 1 && high & 4 != 0 && !is_stop_marker);
            served.request(of(DEVICE, words));
        }
        let lost = served.bench.hardware.with(|state| state.auto_responses) - auto;
        let found = served.requests.serve().unwrap();
        assert!(found.overflowed && !found.more);
        let answered = served.responses();
        let hostile = answered.iter().filter(|(id, ..)| *id == DEVICE.0).count();
        // The fake answers lost stop markers, and those of an unknown type, as well.
        assert!(
            hostile <= due && hostile + lost >= due,
            "{hostile} {due} {lost}"
        );
        assert!(hostile > 100);
        served.request(of(OTHER, record(9, round, 2, true)));
        served.requests.serve().unwrap();
        assert_eq!(served.responses(), [(OTHER.0, round, 0)]);
    }
    assert_eq!(served.bench.heap.live_blocks(), blocks);
}

#[test]
fn under_load_sixteen_responses_share_a_doorbell() {
    let served = Served::new();
    for number in 0..1000 {
        let device = if number % 2 == 0 { DEVICE } else { OTHER };
        served.request(of(device, record(9, number / 2 % 64, 1, true)));
    }
    served.requests.serve().unwrap();
    let steps = served.bench.journal.take();
    let count = |step: &Step| steps.iter().filter(|one| *one == step).count();
    assert!(count(&Step::Doorbell) <= 1000 / 16);
    assert_eq!(count(&Step::Wait), 0);
}

#[test]
fn a_pasid_that_is_gone_is_answered_invalid() {
    let served = Served::new();
    served.request(record(9, 3, 1, false));
    served.requests.serve().unwrap();
    served.requests.unroute(DEVICE, pasid(9));
    served.bench.hardware.with(|state| {
        state.in_flight = vec![record(9, 3, 2, true), of(OTHER, record(9, 4, 1, true))];
    });
    served.requests.drain(DEVICE, pasid(9)).unwrap();
    let steps = served.bench.journal.take();
    let answer = Step::Command(0x9_0020_1019, 3 << 3);
    assert_eq!(steps.iter().filter(|step| **step == answer).count(), 1);
    served.requests.serve().unwrap();
    assert_eq!(served.responses(), [(OTHER.0, 4, 0)], "the other's is kept");
}
