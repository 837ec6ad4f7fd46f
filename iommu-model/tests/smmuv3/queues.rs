//! The event queue, stalled transactions, the page-request queue, interrupts.

use crate::raw::{EVENTS_LOG2, FORGET_DEVICE, Raw, STAGE_1, first_word, offset};
use crate::smmuv3_bench::{BASE, DEVICE, Table};
use iommu_model::smmuv3::{Configuration, StallModel};
use iommu_model::{Access, Hardware, PageRequest, PageResponse, Policy, Refusal, ResponseCode};

const A: u64 = 0x10_0000_0000;
const OVERFLOW: u32 = 1 << 31;

fn fault(raw: &Raw, count: usize) {
    for _ in 0..count {
        assert!(raw.bench.translate(None, A, Access::Read).is_err());
    }
}

#[test]
fn a_full_event_queue_discards_and_says_so_once() {
    let mut raw = Raw::new(Configuration::default());
    let slots = 1 << EVENTS_LOG2;
    fault(&raw, slots);
    assert_eq!(
        raw.read(offset::EVENTQ_PROD),
        slots as u32,
        "full, and nothing is lost"
    );
    fault(&raw, 2);
    assert_eq!(raw.read(offset::EVENTQ_PROD), OVERFLOW | slots as u32);
    assert_eq!(raw.take_numbers(), vec![0x04; slots]);
    assert_eq!(
        raw.read(offset::EVENTQ_CONS),
        OVERFLOW | slots as u32,
        "acknowledged"
    );
    fault(&raw, slots + 1);
    assert_eq!(raw.read(offset::EVENTQ_PROD) & OVERFLOW, 0, "toggled back");
    assert_eq!(raw.take_numbers().len(), slots);
    assert_eq!(raw.bench.smmu.take_complaints(), [""; 0]);
}

#[test]
fn a_queue_that_is_off_loses_events_without_an_overflow() {
    let mut raw = Raw::new(Configuration::default());
    raw.write(offset::CR0, 0b1001);
    fault(&raw, 9);
    assert_eq!(raw.read(offset::EVENTQ_PROD), 0);
    raw.write(offset::CR0, 0b1101);
    assert!(raw.take_events().is_empty());
}

#[test]
fn an_event_queue_that_is_not_memory_is_an_error_until_it_is_acknowledged() {
    let raw = Raw::new(Configuration::default());
    raw.write(offset::CR0, 0b1001);
    raw.write64(offset::EVENTQ_BASE, (BASE - 0x1000) | 2);
    raw.write(offset::CR0, 0b1101);
    fault(&raw, 1);
    assert_eq!(raw.read(offset::GERROR), 1 << 2, "EVENTQ_ABT_ERR");
    assert_eq!(raw.read(offset::EVENTQ_PROD), 0);
    fault(&raw, 1);
    assert_eq!(raw.read(offset::GERROR), 1 << 2);
    raw.write(offset::GERRORN, 1 << 2);
    fault(&raw, 1);
    assert_eq!(raw.read(offset::GERROR), 0, "again");
}

#[test]
fn interrupts_come_when_a_queue_fills_and_when_an_error_arises() {
    let mut raw = Raw::new(Configuration::default());
    fault(&raw, 1);
    assert_eq!(raw.bench.smmu.take_interrupts(), [""; 0], "not enabled");
    raw.take_events();
    let word = raw.bench.page();
    raw.write64(offset::EVENTQ_IRQ_CFG0, word);
    raw.write(offset::EVENTQ_IRQ_CFG1, 0xabc);
    raw.write(offset::IRQ_CTRL, 0b111);
    fault(&raw, 2);
    assert_eq!(raw.bench.smmu.take_interrupts(), ["Event queue"], "once");
    assert_eq!(raw.bench.memory().cpu_load(word), 0xabc);
    raw.post([0xff, 0]);
    assert_eq!(raw.bench.smmu.take_interrupts(), ["GERROR"]);
}

#[test]
fn events_wait_for_their_turn_and_a_sync_brings_them() {
    let policy = Policy {
        later: true,
        ..Policy::STRICT
    };
    let raw = Raw::with_policy(Configuration::default(), policy, 0);
    fault(&raw, 1);
    assert_eq!(raw.read(offset::EVENTQ_PROD), 0);
    raw.run(FORGET_DEVICE);
    assert_eq!(raw.read(offset::EVENTQ_PROD), 1);
}

/// A stream whose faults stall: CD.S.
fn stalling() -> (Raw, u64) {
    let configuration = Configuration {
        stall_max: 2,
        ..Configuration::default()
    };
    let raw = Raw::new(configuration);
    let table = Table::new(&raw.bench);
    let context = raw.bench.memory().take(64, 64).unwrap();
    let words = [first_word(5) | 1 << 44, table.root, 0, 0xff];
    for (word, at) in words.into_iter().zip((context..).step_by(8)) {
        raw.bench.store(at, word);
    }
    raw.stream(DEVICE, &[STAGE_1 | context]);
    let at = table.at(A, 3);
    (raw, at)
}

const STREAM: u64 = (DEVICE as u64) << 32;

#[test]
fn a_stalled_transaction_waits_for_its_resume() {
    let (mut raw, leaf) = stalling();
    let endpoint = raw.bench.connect(DEVICE);
    let resumed = || std::mem::take(&mut endpoint.received.lock().unwrap().resumed);
    let read = |raw: &Raw| raw.bench.translate(None, A, Access::Read);
    assert_eq!(read(&raw), Err(Refusal::Stalled(0)));
    assert_eq!(read(&raw), Err(Refusal::Stalled(1)));
    assert_eq!(read(&raw), Err(Refusal::NotPresent), "STALL_MAX is 2");
    let events = raw.take_events();
    let told: Vec<_> = events
        .iter()
        .map(|it| (it[0] as u8, it[1] as u32))
        .collect();
    assert_eq!(
        told,
        [(0x10, 1 << 31), (0x10, 1 << 31 | 1), (0x10, 0)],
        "Stall and STAG"
    );
    // Another tag, another stream: nothing.
    raw.run([0x44 | 1 << 12 | STREAM, 7]);
    raw.run([0x44 | 1 << 12 | 9 << 32, 0]);
    assert!(resumed().is_empty());
    raw.bench.store(leaf, BASE | crate::smmuv3_bench::PAGE);
    raw.run([0x44 | 1 << 12 | STREAM, 1]);
    assert_eq!(resumed(), [(1, true)]);
    assert!(read(&raw).is_ok());
    raw.run([0x44 | STREAM, 0]);
    assert_eq!(resumed(), [(0, false)]);
    raw.run([0x44 | STREAM, 0]);
    assert!(resumed().is_empty(), "once");
}

#[test]
fn stalls_end_with_their_stream_and_with_the_smmu() {
    let (raw, _) = stalling();
    let endpoint = raw.bench.connect(DEVICE);
    let resumed = || std::mem::take(&mut endpoint.received.lock().unwrap().resumed);
    let read = |raw: &Raw| raw.bench.translate(None, A, Access::Read).unwrap_err();
    read(&raw);
    raw.run([0x45 | 9 << 32, 0]);
    assert!(resumed().is_empty());
    raw.run([0x45 | STREAM, 0]);
    assert_eq!(resumed(), [(0, false)]);
    assert_eq!(read(&raw), Refusal::Stalled(0), "the tag is free again");
    raw.write(offset::CR0, 0b1100);
    assert_eq!(resumed(), [(0, false)]);
}

#[test]
fn the_event_of_a_stall_is_never_lost() {
    let (mut raw, _) = stalling();
    let endpoint = raw.bench.connect(DEVICE);
    let slots = 1 << EVENTS_LOG2;
    for _ in 0..slots {
        let other = iommu_model::Request {
            device: 7,
            ..crate::smmuv3_bench::Bench::request(None, A, Access::Read)
        };
        raw.bench.smmu.translate(&other).unwrap_err();
    }
    assert_eq!(
        raw.bench.translate(None, A, Access::Read),
        Err(Refusal::Stalled(0))
    );
    assert_eq!(raw.read(offset::EVENTQ_PROD), slots as u32, "no overflow");
    assert_eq!(raw.take_events().len(), slots);
    assert_eq!(raw.take_numbers(), [0x10], "there is room now");
    raw.run([0x44 | STREAM, 0]);
    // What is invalidated while the event waits is tried again instead.
    for _ in 0..slots {
        raw.bench.translate(Some(3), A, Access::Read).unwrap_err();
    }
    assert_eq!(
        raw.bench.translate(None, A, Access::Read),
        Err(Refusal::Stalled(0))
    );
    endpoint.received.lock().unwrap().resumed.clear();
    raw.run(FORGET_DEVICE);
    raw.take_events();
    assert_eq!(endpoint.received.lock().unwrap().resumed, [(0, true)]);
    assert!(raw.take_events().is_empty());
}

#[test]
fn a_stall_only_smmu_needs_s() {
    let configuration = Configuration {
        stall_model: StallModel::Always,
        ..Configuration::default()
    };
    let mut raw = Raw::new(configuration);
    let root = raw.bench.page();
    raw.stage_1(DEVICE, root, 5, 0);
    assert_eq!(
        raw.bench.translate(None, A, Access::Read),
        Err(Refusal::CompleterAbort)
    );
    assert_eq!(raw.take_numbers(), [0x0a]);
}

fn page_request(group: u16, last: bool, pasid: Option<u32>) -> PageRequest {
    PageRequest {
        device: DEVICE,
        pasid,
        privileged: false,
        address: 0x7f12_3456_7000,
        read: true,
        write: false,
        execute: false,
        last,
        group,
    }
}

fn response(group: u16, pasid: Option<u32>, code: ResponseCode) -> PageResponse {
    PageResponse { pasid, group, code }
}

/// Field positions from Linux's arm-smmu-v3.h (PRIQ_0, PRIQ_1).
#[test]
fn page_requests_are_queued_and_answered() {
    let raw = Raw::new(Configuration::default());
    let endpoint = raw.bench.connect(DEVICE);
    raw.write(offset::IRQ_CTRL, 0b111);
    raw.bench
        .smmu
        .page_request(page_request(0x155, true, Some(9)));
    assert_eq!(raw.read(offset::PRIQ_PROD), 1);
    assert_eq!(raw.bench.smmu.take_interrupts(), ["PRI queue"]);
    let word = |at| raw.bench.memory().cpu_load(raw.requests + at);
    assert_eq!(
        (word(0), word(8)),
        (0xd000_0009_0000_0108, 0x7f12_3456_7155)
    );
    // CMD_PRI_RESP: Success, with the SubstreamID.
    raw.run([0x41 | 1 << 11 | 9 << 12 | STREAM, 0b10 << 12 | 0x155]);
    raw.run([0x41 | STREAM, 0b01 << 12 | 0x156]);
    raw.run([0x41 | STREAM, 0x157]);
    assert_eq!(
        endpoint.received.lock().unwrap().responses,
        [
            response(0x155, Some(9), ResponseCode::Success),
            response(0x156, None, ResponseCode::InvalidRequest),
            response(0x157, None, ResponseCode::Failure),
        ]
    );
}

#[test]
fn a_full_page_request_queue_answers_by_itself() {
    let raw = Raw::new(Configuration::default());
    let endpoint = raw.bench.connect(DEVICE);
    let responses = || std::mem::take(&mut endpoint.received.lock().unwrap().responses);
    for group in 0..2 {
        raw.bench.smmu.page_request(page_request(group, true, None));
    }
    raw.bench.smmu.page_request(page_request(2, false, None));
    assert_eq!(raw.read(offset::PRIQ_PROD), OVERFLOW | 2);
    assert!(responses().is_empty(), "not the last of its group");
    raw.bench.smmu.page_request(page_request(2, true, None));
    assert_eq!(responses(), [response(2, None, ResponseCode::Success)]);
    // With a PASID the stream table entry is asked: it is invalid.
    raw.bench.smmu.page_request(page_request(3, true, Some(5)));
    assert_eq!(responses(), [response(3, None, ResponseCode::Failure)]);
    for (ppar, pasid) in [(0, None), (1 << 18, Some(5))] {
        raw.stream(DEVICE, &[0b1001, ppar]);
        raw.run(FORGET_DEVICE);
        raw.bench.smmu.page_request(page_request(3, true, Some(5)));
        assert_eq!(responses(), [response(3, pasid, ResponseCode::Success)]);
    }
    // Room alone does not help: the overflow must be acknowledged.
    raw.write(offset::PRIQ_CONS, 2);
    raw.bench.smmu.page_request(page_request(4, true, None));
    assert_eq!(responses().len(), 1);
    raw.write(offset::PRIQ_CONS, OVERFLOW | 2);
    raw.bench.smmu.page_request(page_request(5, true, None));
    assert!(responses().is_empty());
    assert_eq!(raw.read(offset::PRIQ_PROD), OVERFLOW | 3);
}

#[test]
fn page_requests_to_a_queue_that_is_off_fail() {
    let raw = Raw::new(Configuration::default());
    let endpoint = raw.bench.connect(DEVICE);
    raw.write(offset::CR0, 0x1d);
    raw.bench.smmu.page_request(page_request(1, true, Some(5)));
    // A stop marker gets no answer.
    let marker = PageRequest {
        read: false,
        ..page_request(0, true, Some(5))
    };
    raw.bench.smmu.page_request(marker);
    assert_eq!(
        endpoint.received.lock().unwrap().responses,
        [response(1, None, ResponseCode::Failure)]
    );
    raw.write64(offset::PRIQ_BASE, (BASE - 0x1000) | 1);
    raw.write(offset::CR0, 0x1f);
    raw.bench.smmu.page_request(page_request(2, true, None));
    assert_eq!(raw.read(offset::GERROR), 1 << 3, "PRIQ_ABT_ERR");
    assert_eq!(endpoint.received.lock().unwrap().responses.len(), 2);
}
