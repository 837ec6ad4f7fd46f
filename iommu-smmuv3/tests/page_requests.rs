//! The PRI queue, stalled transactions, their answers and the drain.

extern crate alloc;

mod fake;

use alloc::sync::Arc;
use fake::{CMDQEN, EVENTQEN, Identity, Machine, PRIQEN, Platform, QEMU, SMMUEN};
use iommu_core::error::AttachError;
use iommu_core::ids::{DeviceId, Pasid, PhysicalAddress, Tag};
use iommu_core::iommu::{DeviceConfig, Iommu, PageFaults};
use iommu_core::page_request::{
    DeviceShare, Origin, PageGroup, PageRequest, PageRequests, PageResponse, Resolve, Response,
    Taken,
};
use iommu_core::page_table::{Format, PageTable};
use iommu_core::testing::Event;
use iommu_smmuv3::Unit;

/// QEMU's, with ATS, PRI, 20-bit SubstreamIDs and 2^10 page requests.
const PAGES: Identity = Identity {
    idr0: QEMU.idr0 | 1 << 10 | 1 << 16,
    idr1: QEMU.idr1 | 20 << 6 | 10 << 11,
    ..QEMU
};
/// QEMU's, with configurable stalls and 20-bit SubstreamIDs.
const STALLS: Identity = Identity {
    idr0: QEMU.idr0 & !(3 << 24),
    idr1: QEMU.idr1 | 20 << 6,
    ..QEMU
};
const SYNC: [u64; 2] = [0x46, 0];
const DEVICE: DeviceId = DeviceId(0x108);
const OTHER: DeviceId = DeviceId(0x109);
const NINE: Pasid = Pasid::new(9).unwrap();
const TAG: Tag = Tag(5);
const ASKING: DeviceConfig = DeviceConfig {
    pasid_bits: 8,
    device_tlb: true,
    page_faults: PageFaults::PageRequests {
        response_pasid: true,
    },
};
const STALLING: DeviceConfig = DeviceConfig {
    pasid_bits: 8,
    device_tlb: false,
    page_faults: PageFaults::Stall,
};
const TABLE: PageTable = PageTable {
    root: PhysicalAddress(0x4000_1000),
    format: Format::Aarch64 {
        virtual_bits: 48,
        physical_bits: 44,
        memory_attributes: 0x44_ff00,
    },
    written_back: false,
};

fn probe(identity: Identity) -> (Machine, Unit<Platform>) {
    let machine = Machine::new(identity);
    let unit = Unit::probe(machine.parts()).unwrap();
    machine.recorder.take();
    (machine, unit)
}

/// A unit with `DEVICE` enabled and PASID 9 attached.
fn attached(identity: Identity, config: DeviceConfig) -> (Machine, Unit<Platform>) {
    let (machine, unit) = probe(identity);
    unit.enable_device(DEVICE, config).unwrap();
    unit.attach(DEVICE, NINE, TAG, &TABLE).unwrap();
    machine.recorder.take();
    (machine, unit)
}

/// A read with a substream: SSV 63, Last 62, R 60.
fn record(device: DeviceId, substream: u64, group: u64, page: u64, last: bool) -> [u64; 2] {
    let flags = 1 << 63 | u64::from(last) << 62 | 1 << 60;
    [
        flags | substream << 32 | u64::from(device.0),
        page << 12 | group,
    ]
}

/// A stalled write of PASID 9: F_TRANSLATION.
fn stall(tag: u64) -> [u64; 4] {
    let first = u64::from(DEVICE.0) << 32 | 9 << 12 | 1 << 11 | 0x10;
    [first, 1 << 31 | tag, 0x5678, 0]
}

fn response(group: u16, origin: Origin, response: Response) -> PageResponse {
    PageResponse {
        device: DEVICE,
        pasid: (origin == Origin::PageRequest).then_some(NINE),
        group,
        origin,
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

fn list(commands: &[[u64; 2]], waits: bool) -> Vec<Event> {
    let commands = commands.iter().map(|words| Event::Command(words.to_vec()));
    let mut events: Vec<_> = commands
        .chain([Event::Command(SYNC.to_vec()), Event::Doorbell])
        .collect();
    events.extend(waits.then_some(Event::Wait));
    events
}

#[test]
fn the_queue_is_enabled_before_translation() {
    let (machine, unit) = probe(PAGES);
    let features = unit.features();
    assert!(features.page_requests && !features.stall);
    let ats = CMDQEN | 1 << 4;
    let history = machine.smmu.state().cr0_history.clone();
    let events = ats | EVENTQEN;
    let steps = [ats, events, events | PRIQEN, events | PRIQEN | SMMUEN];
    assert_eq!(history[history.len() - 4..], steps);
    assert_eq!(machine.smmu.state().priq_base & 0x1f, 10);

    let (machine, unit) = probe(Identity {
        idr0: PAGES.idr0 & !(1 << 16),
        ..PAGES
    });
    assert!(!unit.features().page_requests);
    assert_eq!(machine.smmu.state().priq_base, 0);
    assert_eq!(groups(&unit, 8), (vec![], 0));
    let refused = unit.enable_device(DEVICE, ASKING);
    assert_eq!(refused, Err(AttachError::NoPageRequests));
}

/// PPAR is bit 82, S1STALLD bit 91 of an STE; S is bit 44, R bit 45 of a CD.
#[test]
fn entries_say_what_happens_at_a_fault() {
    let (machine, unit) = attached(PAGES, ASKING);
    let ste = machine.words(machine.ste(DEVICE.0).unwrap());
    assert_eq!(ste[1] >> 18 & 1, 1);
    assert_eq!(machine.words(machine.cd(DEVICE.0, 9))[0] >> 44 & 0b11, 0b10);
    let without_tlb = DeviceConfig {
        device_tlb: false,
        ..ASKING
    };
    for config in [without_tlb, STALLING] {
        let refused = unit.enable_device(OTHER, config);
        assert_eq!(refused, Err(AttachError::NoPageRequests));
    }

    let (machine, unit) = attached(STALLS, STALLING);
    assert!(unit.features().stall && !unit.features().page_requests);
    let ste = machine.words(machine.ste(DEVICE.0).unwrap());
    assert_eq!((ste[1] >> 18 & 1, ste[1] >> 27 & 1), (0, 0));
    assert_eq!(machine.words(machine.cd(DEVICE.0, 9))[0] >> 44 & 0b11, 0b11);
    let patient = DeviceConfig {
        page_faults: PageFaults::Fatal,
        ..STALLING
    };
    unit.enable_device(OTHER, patient).unwrap();
    let ste = machine.words(machine.ste(OTHER.0).unwrap());
    assert_eq!(ste[1] >> 27 & 1, 1, "the other device must not");
    unit.block(DEVICE, NINE).unwrap();
    let cd = machine.words(machine.cd(DEVICE.0, 9))[0];
    assert_eq!(
        cd >> 44 & 0b11,
        0,
        "a blocked PASID neither stalls nor records"
    );
}

#[test]
fn requests_are_taken_in_order_and_their_slots_given_back() {
    let (machine, unit) = attached(PAGES, ASKING);
    for round in 0..8 {
        for group in 0..300 {
            machine.page_request(record(DEVICE, 9, group, round, false));
        }
        assert_eq!(groups(&unit, 100), ((0..100).collect(), 200));
        assert_eq!(groups(&unit, 1000), ((100..300).collect(), 0));
        let state = machine.smmu.state();
        assert_eq!(state.priq_prod, state.priq_cons);
    }
    assert_eq!(machine.recorder.take(), [], "no command");
}

#[test]
fn a_producer_outside_the_queue_ends_all_the_same() {
    let (machine, unit) = attached(PAGES, ASKING);
    machine.smmu.state().priq_prod = 0x7ff;
    let (taken, left) = groups(&unit, usize::MAX);
    assert!(taken.len() <= 1025 && left == 0);
    assert_eq!(taken.last(), Some(&u16::MAX));
    assert_eq!(groups(&unit, usize::MAX), (vec![], 0));
}

#[test]
fn an_overflow_is_acknowledged_by_the_write_that_empties_the_queue() {
    let (machine, unit) = attached(PAGES, ASKING);
    for round in 0..2 {
        for group in 0..1030 {
            machine.page_request(record(DEVICE, 9, group % 511, 1, true));
        }
        let overflow = |machine: &Machine| {
            let state = machine.smmu.state();
            (state.priq_prod ^ state.priq_cons) >> 31
        };
        assert_eq!(overflow(&machine), 1, "round {round}");
        let (first, left) = groups(&unit, 1000);
        assert!(first.len() == 1000 && left == 24 && !first.contains(&u16::MAX));
        assert_eq!(overflow(&machine), 1, "requests are left");
        let (rest, left) = groups(&unit, 1000);
        assert_eq!((rest.len(), rest[24], left), (25, u16::MAX, 0));
        assert_eq!(overflow(&machine), 0);
    }
    machine.page_request(record(DEVICE, 9, 3, 1, true));
    assert_eq!(groups(&unit, 8), (vec![3], 0));
}

/// GERROR.PRIQ_ABT_ERR is bit 3.
#[test]
fn an_aborted_write_counts_as_an_overflow() {
    let (machine, unit) = attached(PAGES, ASKING);
    machine.page_request(record(DEVICE, 9, 3, 1, true));
    machine.smmu.state().gerror ^= 1 << 3;
    machine.page_request(record(DEVICE, 9, 4, 1, true));
    assert_eq!(groups(&unit, 8), (vec![3, u16::MAX], 0));
    machine.page_request(record(DEVICE, 9, 5, 1, true));
    assert_eq!(groups(&unit, 8), (vec![5], 0));
}

#[test]
fn answers_share_a_doorbell_and_wait_for_nothing() {
    let (machine, unit) = attached(PAGES, ASKING);
    let responses = [
        response(3, Origin::PageRequest, Response::Invalid),
        response(4, Origin::PageRequest, Response::Success),
    ];
    unit.respond(&responses).unwrap();
    let expected = [
        [0x108_0000_9841, 1 << 12 | 3],
        [0x108_0000_9841, 2 << 12 | 4],
    ];
    assert_eq!(machine.recorder.take(), list(&expected, false));

    let (machine, unit) = attached(STALLS, STALLING);
    let responses = [
        response(3, Origin::Stall, Response::Success),
        response(4, Origin::Stall, Response::Invalid),
        response(5, Origin::Stall, Response::Failure),
    ];
    unit.respond(&responses).unwrap();
    let expected = [
        [0x108_0000_1044, 3],
        [0x108_0000_2044, 4],
        [0x108_0000_2044, 5],
    ];
    assert_eq!(machine.recorder.take(), list(&expected, false));
}

/// A CMD_SYNC behind the responses; CMD_ATC_INV of the PASID; CMD_SYNC.
#[test]
fn a_drain_pushes_what_is_on_its_way() {
    let (machine, unit) = attached(PAGES, ASKING);
    machine.smmu.state().in_flight = vec![record(DEVICE, 9, 3, 1, true)];
    unit.drain_page_requests(DEVICE, NINE).unwrap();
    let expected = list(&[SYNC, [0x108_0000_9840, 52]], true);
    assert_eq!(machine.recorder.take(), expected);
    assert_eq!(groups(&unit, 8), (vec![3], 0));
    let ten = Pasid::new(10).unwrap();
    let unknown = Err(AttachError::UnknownPasid(DEVICE, ten));
    assert_eq!(unit.drain_page_requests(DEVICE, ten), unknown);

    // The records of stalls are visible behind a CMD_SYNC.
    let (machine, unit) = attached(STALLS, STALLING);
    unit.drain_page_requests(DEVICE, NINE).unwrap();
    assert_eq!(machine.recorder.take(), list(&[], true));
}

#[test]
fn a_stalling_device_that_goes_leaves_nothing_stalled() {
    let (machine, unit) = probe(STALLS);
    unit.enable_device(DEVICE, STALLING).unwrap();
    machine.recorder.take();
    unit.disable_device(DEVICE).unwrap();
    let entry = list(&[[0x108_0000_0003, 1]], true);
    let stalls = list(&[[0x108_0000_0045, 0]], true);
    assert_eq!(machine.recorder.take(), [entry, stalls].concat());
}

#[test]
fn stalls_and_faults_come_from_one_queue_to_whom_they_belong() {
    let (machine, unit) = attached(STALLS, STALLING);
    let fault = |address| [0x108 << 32 | 0x10, 1 << 35, address, 0];
    machine.record(fault(1));
    machine.record(stall(7));
    machine.record(fault(2));
    machine.record(stall(8));
    let faults = || {
        let mut addresses = Vec::new();
        let summary = unit.take_faults(&mut |fault| addresses.extend(fault.address));
        assert_eq!(summary.reported, addresses.len());
        (addresses, summary.lost)
    };
    assert_eq!(groups(&unit, 1), (vec![7], 1));
    assert_eq!(faults(), (vec![1, 2], false));
    assert_eq!(groups(&unit, 8), (vec![8], 0));

    // Nobody takes faults: stalls are served all the same, and the newest faults are kept.
    for address in 0..500 {
        machine.record(fault(address));
        machine.record(stall(address));
        assert_eq!(groups(&unit, 8), (vec![address as u16], 0));
    }
    let (kept, lost) = faults();
    assert_eq!((kept.last(), lost), (Some(&499), true));
    assert_eq!(kept.len(), 128, "as many as the queue has slots");
    assert_eq!(faults(), (vec![], false));

    // Nobody takes stalls: none is lost, and memory is bounded.
    for tag in 0..128 {
        machine.record(stall(tag));
    }
    assert_eq!(faults(), (vec![], false));
    for tag in 128..200 {
        machine.record(stall(tag));
    }
    machine.record(fault(9));
    assert_eq!(faults(), (vec![], false), "the queue is left as it is");
    assert_eq!(groups(&unit, 1000), ((0..200).collect(), 0));
    assert_eq!(faults(), (vec![9], false));
}

/// The unit under the neutral service, PASID 9 of the devices with a handler that says yes.
struct Served {
    machine: Machine,
    requests: Arc<PageRequests>,
}

impl Served {
    fn new(identity: Identity, config: DeviceConfig) -> Self {
        let (machine, unit) = probe(identity);
        let unit: Arc<dyn Iommu> = Arc::new(unit);
        let requests = PageRequests::new(unit.clone());
        let yes = Arc::new(Resolve(|_: &PageGroup| Response::Success));
        for device in [DEVICE, OTHER] {
            unit.enable_device(device, config).unwrap();
            unit.attach(device, NINE, TAG, &TABLE).unwrap();
            requests.add_device(device, DeviceShare(64)).unwrap();
            requests.route(device, NINE, yes.clone()).unwrap();
        }
        machine.recorder.take();
        Self { machine, requests }
    }

    /// The responses since the last call: (StreamID, group, Resp).
    fn responses(&self) -> Vec<(u64, u64, u64)> {
        let response = |event: Event| match event {
            Event::Command(words) if words[0] as u8 == 0x41 => {
                Some((words[0] >> 32, words[1] & 0x1ff, words[1] >> 12))
            }
            Event::Wait => panic!("nobody waits"),
            _ => None,
        };
        let events = self.machine.recorder.take();
        events.into_iter().filter_map(response).collect()
    }
}

/// Never ending groups, dead PASIDs, others' ids and strange flags, until the queue overflows: memory
/// stays as it is, every last request that was accepted is answered once, and another device is served.
#[test]
fn a_hostile_device_costs_nobody_else_anything() {
    let served = Served::new(PAGES, ASKING);
    let machine = &served.machine;
    let blocks = machine.memory.live_blocks();
    let mut state = 1u64;
    let mut roll = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        state >> 11
    };
    for round in 0..20 {
        let auto = machine.smmu.state().auto_responses;
        let mut due = 0;
        machine.page_request(record(OTHER, 9, round, 1, false));
        for _ in 0..2000 {
            let device = if roll() % 16 == 0 {
                DeviceId(77)
            } else {
                DEVICE
            };
            // Any flags, any page and index; PASIDs from 1 to 15.
            let flags = roll() << 52 & 0xfc << 56;
            let substream = roll() % 15 + 1;
            let words = [flags | substream << 32 | u64::from(device.0), roll()];
            let is_stop_marker = words[0] >> 60 & 0b111 == 0b100 && words[0] >> 63 == 1;
            due += usize::from(words[0] >> 62 & 1 == 1 && !is_stop_marker);
            machine.page_request(words);
        }
        let lost = machine.smmu.state().auto_responses - auto;
        let found = served.requests.serve().unwrap();
        assert!(found.overflowed && !found.more);
        let answered = served.responses();
        let hostile = answered.iter().filter(|(id, ..)| *id != u64::from(OTHER.0));
        assert_eq!(hostile.count(), due - lost);
        machine.page_request(record(OTHER, 9, round, 2, true));
        served.requests.serve().unwrap();
        assert_eq!(served.responses(), [(u64::from(OTHER.0), round, 2)]);
    }
    assert_eq!(machine.memory.live_blocks(), blocks);
}

#[test]
fn under_load_sixteen_responses_share_a_doorbell() {
    let served = Served::new(PAGES, ASKING);
    for number in 0..1000 {
        let device = if number % 2 == 0 { DEVICE } else { OTHER };
        let words = record(device, 9, number / 2 % 64, 1, true);
        served.machine.page_request(words);
    }
    served.requests.serve().unwrap();
    let events = served.machine.recorder.take();
    let count = |event| events.iter().filter(|one| **one == event).count();
    assert!(count(Event::Doorbell) <= 1000 / 16);
    assert_eq!(count(Event::Wait), 0);
}

#[test]
fn a_pasid_that_is_gone_is_answered() {
    let served = Served::new(PAGES, ASKING);
    served.machine.page_request(record(DEVICE, 9, 3, 1, false));
    served.requests.serve().unwrap();
    served.requests.unroute(DEVICE, NINE);
    served.machine.smmu.state().in_flight =
        vec![record(DEVICE, 9, 3, 2, true), record(OTHER, 9, 4, 1, true)];
    served.requests.drain(DEVICE, NINE).unwrap();
    let invalid = Event::Command(vec![0x108_0000_9841, 1 << 12 | 3]);
    let events = served.machine.recorder.take();
    assert_eq!(events.iter().filter(|event| **event == invalid).count(), 1);
    served.requests.serve().unwrap();
    let kept = [(u64::from(OTHER.0), 4, 2)];
    assert_eq!(served.responses(), kept, "the other's is not lost");

    // A stalled transaction ends with an abort.
    let served = Served::new(STALLS, STALLING);
    served.requests.unroute(DEVICE, NINE);
    served.machine.record(stall(6));
    served.requests.drain(DEVICE, NINE).unwrap();
    let abort = Event::Command(vec![0x108_0000_2044, 6]);
    assert!(served.machine.recorder.take().contains(&abort));
}

/// A table of stalled transactions that are all resumed, in batches.
#[test]
fn stalled_transactions_are_retried() {
    let served = Served::new(STALLS, STALLING);
    (0..40).for_each(|tag| served.machine.record(stall(tag)));
    let found = served.requests.serve().unwrap();
    assert_eq!((found.requests, found.groups), (40, 40));
    let events = served.machine.recorder.take();
    for tag in 0..40 {
        let retry = Event::Command(vec![0x108_0000_1044, tag]);
        assert!(events.contains(&retry), "{tag}");
    }
    let doorbells = events.iter().filter(|event| **event == Event::Doorbell);
    assert!(doorbells.count() <= 2);
}
