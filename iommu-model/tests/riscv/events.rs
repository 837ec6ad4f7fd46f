//! The fault queue and the page-request queue.

use crate::bench::{
    Bench, DEVICE, DTF, EN_ATS, EN_PRI, FAULTS, FQB, FQCSR, FQH, PAGE_REQUESTS, PDTV, PQB, PQCSR,
    PQH, PQT, PRPR, READ_ONLY, SV39, V,
};
use iommu_model::riscv::Configuration;
use iommu_model::{
    Access, Hardware, PageRequest, PageResponse, Policy, Refusal, Request, ResponseCode,
};

const ON: u32 = 0x1_0001;
const MF: u32 = 1 << 8;
const OF: u32 = 1 << 9;
const DID: u64 = (DEVICE as u64) << 40;
const ADDRESS: u64 = 0x4000_0000;

/// A device whose process 0x23 has a page for reads.
fn with_process(bench: &Bench, control: u64) {
    let (directory, root) = (bench.take(), bench.take());
    let words = [V | PDTV | control, 0, 0, 1 << 60 | directory >> 12];
    bench.set_device(DEVICE, words);
    let context = [V | 2 | 9 << 12, SV39 | root >> 12];
    bench.store(bench.process_place(directory, 1, 0x23), &context);
    bench.map(root, 3, ADDRESS, 0x8100_0000, READ_ONLY);
}

#[test]
fn a_record_says_who_asked_for_what() {
    let bench = Bench::new(Configuration::default());
    with_process(&bench, EN_ATS);
    let asked = Request {
        pasid: Some(0x23),
        privileged: true,
        ..bench.request(ADDRESS + 0x123, Access::Write)
    };
    let user = Request {
        privileged: false,
        ..asked
    };
    assert_eq!(bench.iommu.translate(&asked), Err(Refusal::NotPresent));
    assert_eq!(bench.iommu.translate(&user), Err(Refusal::NotPresent));
    let elsewhere = Request {
        pasid: Some(0x100),
        access: Access::Execute,
        ..user
    };
    let refused = Err(Refusal::UnsupportedRequest);
    assert_eq!(bench.iommu.translate(&elsewhere), refused);
    assert_eq!(bench.iommu.translate_for_device(&elsewhere), refused);
    let process = |process: u64| process << 12 | 1 << 32;
    let iotval = ADDRESS + 0x123;
    let expected = [
        [15 | process(0x23) | 1 << 33 | 3 << 34 | DID, 0, iotval, 0],
        [15 | process(0x23) | 3 << 34 | DID, 0, iotval, 0],
        [260 | process(0x100) | 1 << 34 | DID, 0, iotval, 0],
        [260 | process(0x100) | 8 << 34 | DID, 0, iotval, 0],
    ];
    assert_eq!(bench.faults(), expected);
}

#[test]
fn a_translation_request_without_rights_is_not_a_fault() {
    let bench = Bench::new(Configuration::default());
    with_process(&bench, EN_ATS);
    let asked = Request {
        pasid: Some(0x23),
        ..bench.request(ADDRESS, Access::Read)
    };
    let found = bench.iommu.translate_for_device(&asked).unwrap();
    assert!(found.permissions.read && !found.permissions.write && !found.permissions.execute);
    for request in [
        Request {
            access: Access::Write,
            ..asked
        },
        Request {
            address: ADDRESS + 0x1000,
            ..asked
        },
        // PDT entry not valid.
        Request {
            pasid: Some(0x24),
            ..asked
        },
    ] {
        let refused = bench.iommu.translate_for_device(&request);
        assert_eq!(refused, Err(Refusal::NotPresent));
    }
    assert_eq!(bench.causes(), Vec::<u64>::new());
    assert!(bench.iommu.admits_translated(DEVICE));
    assert!(!bench.iommu.admits_translated(DEVICE + 1));
    assert_eq!(bench.causes(), [258]);
}

#[test]
fn a_context_can_be_silent_about_its_translations() {
    let bench = Bench::new(Configuration::default());
    with_process(&bench, DTF);
    let asked = Request {
        pasid: Some(0x23),
        ..bench.request(ADDRESS, Access::Write)
    };
    assert_eq!(bench.iommu.translate(&asked), Err(Refusal::NotPresent));
    assert_eq!(bench.causes(), Vec::<u64>::new());
    // A reserved bit.
    bench.set_device(DEVICE + 1, [V | DTF | 1 << 12, 0, 0, 0]);
    let asked = Request {
        device: DEVICE + 1,
        ..asked
    };
    assert_eq!(
        bench.iommu.translate(&asked),
        Err(Refusal::UnsupportedRequest)
    );
    assert_eq!(bench.causes(), [259]);
}

#[test]
fn a_full_fault_queue_loses_records_until_software_has_seen_it() {
    let bench = Bench::new(Configuration::default());
    for _ in 0..FAULTS {
        let _ = bench.read(0);
    }
    assert_eq!(bench.read32(FQCSR), ON | OF);
    assert_eq!(bench.faults().len() as u64, FAULTS - 1);
    // There is room, but the bit is still set.
    let _ = bench.read(0);
    assert_eq!(bench.faults().len(), 0);
    bench.write32(FQCSR, 1 | OF);
    let _ = bench.read(0);
    assert_eq!((bench.read32(FQCSR), bench.faults().len()), (ON, 1));
}

#[test]
fn a_fault_queue_without_memory_says_so() {
    let bench = Bench::off(Configuration::default(), Policy::STRICT, 0, 3);
    bench.write64(FQB, 2);
    bench.write32(FQH, 0);
    bench.write32(FQCSR, 1);
    let _ = bench.read(0);
    assert_eq!(bench.read32(FQCSR), ON | MF);
    bench.write32(FQCSR, 1 | MF);
    assert_eq!(bench.read32(FQCSR), ON);
    let _ = bench.read(0);
    bench.write32(FQCSR, 0);
    bench.write32(FQCSR, 1);
    assert_eq!(bench.read32(FQCSR), ON);
}

fn page_request(last: bool) -> PageRequest {
    PageRequest {
        device: DEVICE,
        pasid: Some(0x23),
        privileged: false,
        address: 0x1234_5678_9000,
        read: true,
        write: true,
        execute: false,
        last,
        group: 0x155,
    }
}

#[test]
fn a_page_request_is_queued_as_it_came() {
    let bench = Bench::new(Configuration::default());
    with_process(&bench, EN_ATS | EN_PRI);
    let device = bench.connect(DEVICE);
    bench.iommu.page_request(page_request(false));
    bench.iommu.page_request(PageRequest {
        privileged: true,
        execute: true,
        write: false,
        ..page_request(true)
    });
    // Without a PASID; a stop marker has neither right.
    bench.iommu.page_request(PageRequest {
        pasid: None,
        execute: true,
        ..page_request(false)
    });
    assert_eq!(bench.read32(PQT), 3);
    let word = |index: u64| bench.load(bench.pq + 8 * index);
    let pasid = 0x23 << 12 | 1 << 32 | DID;
    let expected = [
        pasid,
        0x1234_5678_9000 | 0x155 << 3 | 0b011,
        pasid | 0b11 << 33,
        0x1234_5678_9000 | 0x155 << 3 | 0b101,
        DID,
        0x1234_5678_9000 | 0x155 << 3 | 0b011,
    ];
    assert_eq!([0, 1, 2, 3, 4, 5].map(word), expected);
    assert_eq!(device.responses(), []);
    assert_eq!(bench.causes(), Vec::<u64>::new());
}

/// Section "PCIe ATS Page Request handling".
#[test]
fn what_cannot_be_queued_is_answered() {
    let respond = |pasid, code| {
        [PageResponse {
            pasid,
            group: 0x155,
            code,
        }]
    };
    let with = |control| {
        let bench = Bench::new(Configuration::default());
        with_process(&bench, control);
        let device = bench.connect(DEVICE);
        (bench, device)
    };
    for (pasid, control) in [
        (None, EN_ATS | EN_PRI),
        (Some(0x23), EN_ATS | EN_PRI | PRPR),
    ] {
        // Full, then overflowed.
        let (bench, device) = with(control);
        for _ in 1..PAGE_REQUESTS {
            bench.iommu.page_request(page_request(true));
        }
        assert_eq!(device.responses(), []);
        for _ in 0..2 {
            bench.iommu.page_request(page_request(true));
            assert_eq!(device.responses(), respond(pasid, ResponseCode::Success));
            assert_eq!(bench.read32(PQCSR), ON | OF);
            bench.write32(PQH, bench.read32(PQT));
        }
        bench.iommu.page_request(page_request(false));
        bench.iommu.page_request(PageRequest {
            read: false,
            write: false,
            ..page_request(true)
        });
        assert_eq!(device.responses(), []);
        // Off.
        bench.write32(PQCSR, OF);
        bench.iommu.page_request(page_request(true));
        let failure = respond(Some(0x23), ResponseCode::Failure);
        assert_eq!(device.responses(), failure);
        // No memory.
        bench.write64(PQB, 1);
        bench.write32(PQH, 0);
        bench.write32(PQCSR, 1);
        bench.iommu.page_request(page_request(true));
        assert_eq!(device.responses(), failure);
        assert_eq!(bench.read32(PQCSR), ON | MF);
        assert_eq!(bench.causes(), Vec::<u64>::new());
    }
    // EN_PRI is 0: TTYP 9, message code 4.
    let (bench, device) = with(EN_ATS);
    bench.iommu.page_request(page_request(true));
    let invalid = respond(None, ResponseCode::InvalidRequest);
    assert_eq!(device.responses(), invalid);
    let expected = [260 | 0x23 << 12 | 1 << 32 | 9 << 34 | DID, 0, 4, 0];
    assert_eq!(bench.faults(), [expected]);
    // No context.
    let bench = Bench::new(Configuration::default());
    let device = bench.connect(DEVICE);
    bench.iommu.page_request(page_request(true));
    let failure = respond(Some(0x23), ResponseCode::Failure);
    assert_eq!(device.responses(), failure);
    assert_eq!(bench.causes(), [258]);
}

#[test]
fn a_queue_that_is_turned_off_has_taken_what_came_before() {
    let later = Policy {
        later: true,
        ..Policy::STRICT
    };
    let bench = Bench::with_policy(later, 0);
    with_process(&bench, EN_ATS | EN_PRI);
    bench.iommu.page_request(page_request(true));
    let _ = bench.read_as(0x24, 0);
    assert_eq!((bench.read32(PQT), bench.read32(FQH)), (0, 0));
    bench.write32(PQCSR, 0);
    bench.write32(FQCSR, 0);
    while bench.read32(PQCSR) | bench.read32(FQCSR) != 0 {
        bench.machine.step();
    }
    assert_eq!(bench.read32(PQT), 1);
    assert_eq!(bench.faults().len(), 1);
}
