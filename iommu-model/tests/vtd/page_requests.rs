//! The page request queue and page group responses.

use crate::bench::*;
use iommu_model::vtd::Configuration;
use iommu_model::{Hardware, PageRequest, PageResponse, Policy, ResponseCode};

const PQH: usize = 0xc0;
const PQT: usize = 0xc8;
const PQA: usize = 0xd0;
const PRS: usize = 0xdc;
const PECTL: usize = 0xe0;

const REQUEST: PageRequest = PageRequest {
    device: DEVICE,
    pasid: Some(PASID),
    privileged: false,
    address: VA,
    read: true,
    write: true,
    execute: false,
    last: true,
    group: 0x155,
};

fn with_queue(policy: Policy) -> (Bench, u64) {
    let bench = Bench::with(Configuration::default(), policy, 0);
    let queue = bench.page();
    bench.write64(PQA, queue);
    (bench, queue)
}

fn response(code: ResponseCode) -> PageResponse {
    PageResponse {
        pasid: Some(PASID),
        group: REQUEST.group,
        code,
    }
}

/// The fields as Linux's decode_prq_descriptor takes them out.
#[test]
fn a_request_is_written_as_linux_reads_it() {
    let (bench, queue) = with_queue(Policy::STRICT);
    bench.write32(PECTL, 0);
    let odd = PageRequest {
        device: DEVICE,
        privileged: true,
        execute: true,
        read: true,
        write: false,
        last: false,
        ..REQUEST
    };
    bench.model.page_request(REQUEST);
    bench.model.page_request(odd);
    bench.model.page_request(PageRequest {
        pasid: None,
        ..REQUEST
    });
    let word = |index: u64| bench.memory.cpu_load(queue + 8 * index);
    assert_eq!(word(0), 1 | 1 << 8 | 0x20 << 16 | 9 << 32);
    assert_eq!(word(1), VA | 0x155 << 3 | 0b111);
    assert_eq!((word(2), word(3)), (0, 0));
    assert_eq!(word(4) >> 52, 0b11, "execute and privileged");
    assert_eq!(word(5) & 0b111, 0b001);
    assert_eq!(word(8), 1 | 0x20 << 16, "without a PASID");
    assert_eq!((bench.read64(PQH), bench.read64(PQT)), (0, 96));
    assert_eq!(bench.read32(PRS), 1);
    assert_eq!(bench.model.take_interrupts(), ["page request event"]);
    bench.write32(PRS, 1);
    bench.model.page_request(REQUEST);
    assert_eq!(bench.model.take_interrupts(), ["page request event"]);
    assert_eq!(bench.device.take_responses(), []);
}

#[test]
fn what_does_not_fit_is_answered_with_success_until_software_has_looked() {
    let (bench, queue) = with_queue(Policy::STRICT);
    // 128 descriptors, one of which stays free.
    for _ in 0..127 {
        bench.model.page_request(REQUEST);
    }
    assert_eq!((bench.read32(PRS), bench.read64(PQT)), (1, 127 * 32));
    bench.model.page_request(REQUEST);
    assert_eq!((bench.read32(PRS), bench.read64(PQT)), (3, 127 * 32));
    assert_eq!(
        bench.device.take_responses(),
        [response(ResponseCode::Success)]
    );
    // Only the last of a group is answered, and a stop marker never.
    let not_last = PageRequest {
        last: false,
        ..REQUEST
    };
    let stop_marker = PageRequest {
        read: false,
        write: false,
        ..REQUEST
    };
    bench.write64(PQH, 127 * 32);
    bench.model.page_request(not_last);
    bench.model.page_request(stop_marker);
    assert_eq!(bench.read64(PQT), 127 * 32, "room alone is not enough");
    assert_eq!(bench.device.take_responses(), []);
    bench.write32(PRS, 2);
    bench.model.page_request(stop_marker);
    assert_eq!(bench.read64(PQT), 0);
    assert_eq!(bench.memory.cpu_load(queue + 127 * 32 + 8) & 0b111, 0b100);
}

#[test]
fn who_may_not_ask_is_told_so_for_ever() {
    let (bench, _) = with_queue(Policy::STRICT);
    let refused = |bench: &Bench, request, reason| {
        bench.model.page_request(request);
        assert_eq!(
            bench.device.take_responses(),
            [response(ResponseCode::Failure)]
        );
        let [low, high] = bench.take_record().unwrap();
        assert_eq!((low, high >> 32 & 0xff), (VA, reason));
        assert_eq!((high >> 62 & 1, high >> 28 & 1), (0, 1), "a page request");
    };
    let mut words = context(bench.directory);
    words[0] &= !(1 << 4);
    bench.set_context(words);
    refused(&bench, REQUEST, 0x47);
    words[0] = words[0] & !(1 << 3) | 1 << 4;
    bench.set_context(words);
    bench.execute(&[[0x11, 0]]);
    refused(&bench, REQUEST, 0x45);
    bench.set_context([0; 4]);
    bench.execute(&[[0x11, 0]]);
    refused(&bench, REQUEST, 0x41);
    assert_eq!(bench.read64(PQT), 0);
}

/// QI_PGRP_*: type 9, PASID present in bit 4, the code from 12, the requester from 16, PASID from 32;
/// LPIG in bit 2 and the group from 3 in word 1.
#[test]
fn responses_reach_the_device() {
    let bench = Bench::new();
    for (code, expected) in [
        (0, ResponseCode::Success),
        (1, ResponseCode::InvalidRequest),
        (15, ResponseCode::Failure),
    ] {
        let low = 9 | 1 << 4 | code << 12 | 0x20 << 16 | 9 << 32;
        bench.execute(&[[low, 1 << 2 | 0x155 << 3]]);
        assert_eq!(bench.device.take_responses(), [response(expected)]);
    }
    bench.execute(&[[9 | 0x20 << 16, 0x155 << 3]]);
    assert_eq!(bench.device.take_responses()[0].pasid, None);
}

/// PD in bit 7 of a wait.
#[test]
fn a_draining_wait_leaves_no_request_on_its_way() {
    let later = Policy {
        later: true,
        unordered: true,
        ..Policy::STRICT
    };
    for seed in 0..50 {
        let bench = Bench::with(Configuration::default(), later, seed);
        let queue = bench.page();
        bench.write64(PQA, queue);
        for _ in 0..3 {
            bench.model.page_request(REQUEST);
        }
        bench.post(&[[0x25 | 1 << 7 | 1 << 32, bench.status]]);
        while bench.memory.cpu_load(bench.status) == 0 {
            assert!(bench.machine.step());
        }
        assert_eq!(bench.read64(PQT), 96);
    }
}
