//! The command queue: legality, order, fences, device answers, errors.

use crate::bench::{
    ATS_INVAL, ATS_PRGR, AV, Bench, COMMANDS, CQB, CQCSR, CQH, CQT, DEVICE, DV, FCTL, FENCE, GV,
    GVMA, INVAL_DDT, INVAL_PDT, IPSR, NL, PR, PSCV, PV, PW, S, V, VMA, WRITABLE, page,
};
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, Ordering};
use iommu_model::riscv::Configuration;
use iommu_model::{Hardware, InvalidationRequest, PageResponse, Policy, Refusal, ResponseCode};

const ON: u32 = 0x1_0001;
const CQMF: u32 = 1 << 8;
const CMD_TO: u32 = 1 << 9;
const CMD_ILL: u32 = 1 << 10;
const FENCE_W_IP: u32 = 1 << 11;
const ADDRESS: u64 = 0x4000_0000;
const FRAME: u64 = 0x8100_0000;

/// Posts one command and clears the error that it may raise.
fn is_legal(bench: &Bench, command: [u64; 2]) -> bool {
    bench.post(&[command]);
    bench.machine.settle();
    let status = bench.read32(CQCSR);
    if status == ON {
        return bench.read32(CQH) == bench.read32(CQT);
    }
    assert_eq!(status, ON | CMD_ILL, "{command:x?}");
    // The queue stands at the command; it becomes a legal one.
    bench.store(bench.cq + 16 * u64::from(bench.read32(CQH)), &[VMA, 0]);
    bench.write32(CQCSR, 1 | CMD_ILL);
    bench.machine.settle();
    assert_eq!(bench.read32(CQH), bench.read32(CQT));
    false
}

/// Ends the device-TLB invalidations that nobody answers, with the time-out that a fence tells.
fn forget_device_tlbs(bench: &Bench) {
    bench.iommu.time_out_devices();
    bench.post(&[[FENCE, 0]]);
    bench.write32(CQCSR, 1 | CMD_TO);
    assert_eq!(
        (bench.read32(CQCSR), bench.read32(CQH)),
        (ON, bench.read32(CQT))
    );
}

#[test]
fn every_reserved_bit_makes_a_command_illegal() {
    // Legal commands with every operand, and the bits that may be set beside.
    let commands: [([u64; 2], u64, u64); 7] = [
        ([VMA | AV, 0], 0x0fff_f007_ffff_f400, 0x3fff_ffff_ffff_fe00),
        ([GVMA | AV, 0], 0x0fff_f006_ffff_f480, 0x3fff_ffff_ffff_fe00),
        ([FENCE, 0], 0xffff_ffff_0000_3000, 0x3fff_ffff_ffff_ffff),
        ([INVAL_DDT, 0], 0xffff_ff02_0000_0000, 0),
        ([INVAL_PDT | DV, 0], 0xffff_ff02_ffff_f000, 0),
        ([ATS_INVAL, 0], 0xffff_ff03_ffff_f000, 0xffff_ffff_ffff_f801),
        ([ATS_PRGR, 0], 0xffff_ff03_ffff_f000, 0x0000_f1ff_0000_0000),
    ];
    let bench = Bench::new(Configuration::default());
    for (legal, first, second) in commands {
        assert!(is_legal(&bench, legal), "{legal:x?}");
        forget_device_tlbs(&bench);
        for bit in 10..64 {
            // AV without memory behind ADDR is another matter, and IODIR.INVAL_PDT needs DV.
            let masked = legal[0] & 0x7f == FENCE && bit == 10;
            if masked || legal[0] >> bit & 1 == 1 {
                continue;
            }
            let command = [legal[0] | 1 << bit, legal[1]];
            let expected = first >> bit & 1 == 1;
            assert_eq!(is_legal(&bench, command), expected, "{command:x?}");
            forget_device_tlbs(&bench);
        }
        for bit in 0..64 {
            let command = [legal[0], legal[1] | 1 << bit];
            let expected = second >> bit & 1 == 1;
            assert_eq!(is_legal(&bench, command), expected, "{command:x?}");
            forget_device_tlbs(&bench);
        }
    }
}

#[test]
fn opcodes_and_functions_that_are_not_defined_are_illegal() {
    let bench = Bench::new(Configuration::default());
    let defined = [VMA, GVMA, FENCE, INVAL_DDT, ATS_INVAL, ATS_PRGR];
    for operation in 0..1 << 10 {
        let expected = defined.contains(&operation);
        assert_eq!(is_legal(&bench, [operation, 0]), expected, "{operation:#x}");
        forget_device_tlbs(&bench);
    }
    assert!(is_legal(&bench, [INVAL_PDT | DV, 0]));
}

#[test]
fn what_the_capabilities_do_not_offer_is_illegal() {
    let all = Configuration::default();
    let cases = [
        (Configuration { nl: false, ..all }, [VMA | AV | NL, 0]),
        (Configuration { s: false, ..all }, [VMA | AV, S]),
        (Configuration { ats: false, ..all }, [ATS_INVAL, 0]),
        (Configuration { ats: false, ..all }, [ATS_PRGR, 0]),
        (
            Configuration { pd20: false, ..all },
            [INVAL_PDT | DV | 0x2_0000 << 12, 0],
        ),
    ];
    for (configuration, command) in cases {
        assert!(is_legal(&Bench::new(all), command));
        assert!(!is_legal(&Bench::new(configuration), command));
    }
    // Device ids that the directory has no room for.
    let bench = Bench::off(all, Policy::STRICT, 0, 1);
    bench.turn_on();
    assert!(is_legal(&bench, [INVAL_DDT | DV | 63 << 40, 0]));
    assert!(!is_legal(&bench, [INVAL_DDT | DV | 64 << 40, 0]));
    // PSCV belongs to VMA.
    assert!(is_legal(&bench, [VMA | PSCV | GV, 0]));
    assert!(!is_legal(&bench, [GVMA | PSCV | GV, 0]));
}

#[test]
fn a_fence_stores_its_word_and_raises_its_wire() {
    let bench = Bench::off(Configuration::default(), Policy::STRICT, 0, 3);
    bench.write32(FCTL, 2);
    bench.turn_on();
    bench.write32(CQCSR, 3);
    let word = bench.take();
    bench.run(&[[FENCE | AV | 0xabcd_1234 << 32, (word + 4) >> 2]]);
    assert_eq!(bench.load(word), 0xabcd_1234 << 32);
    bench.run(&[[FENCE | 1 << 11, 0]]);
    assert_eq!(bench.read32(CQCSR), ON | 2 | FENCE_W_IP);
    assert_eq!(bench.iommu.take_interrupts(), ["cip"]);
    // It does not stop the queue.
    bench.run(&[[FENCE, 0]]);
    bench.write32(CQCSR, 3 | FENCE_W_IP);
    bench.write32(IPSR, 1);
    assert_eq!((bench.read32(CQCSR), bench.read32(IPSR)), (ON | 2, 0));
}

#[test]
fn a_fence_waits_for_every_device() {
    let bench = Bench::new(Configuration::default());
    let root = bench.with_first_stage();
    bench.set_device(6, [3, 0, 7 << 12, 8 << 60 | root >> 12]);
    let (one, other) = (bench.connect(DEVICE), bench.connect(6));
    let word = bench.take();
    let rid = |device: u32| u64::from(device) << 40;
    bench.post(&[
        [ATS_INVAL | rid(DEVICE), ADDRESS],
        [
            ATS_INVAL | PV | 0x2345 << 12 | rid(6),
            0x7fff_ffff_ffff_f801,
        ],
        [FENCE | AV | 1 << 32, word >> 2],
    ]);
    let expected = InvalidationRequest {
        itag: 0,
        pasid: None,
        global: false,
        address: ADDRESS,
        size: 4096,
    };
    assert_eq!(one.invalidations(), [expected]);
    let expected = InvalidationRequest {
        pasid: Some(0x2345),
        global: true,
        address: 0,
        size: 0,
        ..expected
    };
    assert_eq!(other.invalidations(), [expected]);
    assert_eq!((bench.load(word), bench.read32(CQH)), (0, 2));
    bench.iommu.invalidation_completed(6, 1);
    // Nobody asked with this tag.
    bench.iommu.invalidation_completed(DEVICE, 2);
    assert_eq!(bench.load(word), 0);
    bench.iommu.invalidation_completed(DEVICE, 1);
    assert_eq!((bench.load(word), bench.read32(CQH)), (1, 3));
}

/// Blocks as PCIe writes them.
#[test]
fn an_invalidation_request_covers_its_aligned_block() {
    let bench = Bench::new(Configuration::default());
    bench.with_first_stage();
    let device = bench.connect(DEVICE);
    let blocks = [
        (0x1234_5000, (0x1234_5000, 0x1000)),
        (0x1234_4800, (0x1234_4000, 0x2000)),
        (0x1234_5800, (0x1234_4000, 0x4000)),
        (0x123f_f800, (0x1200_0000, 0x80_0000)),
        (0x7fff_ffff_ffff_f800, (0, 0)),
    ];
    for (payload, expected) in blocks {
        bench.post(&[[ATS_INVAL | u64::from(DEVICE) << 40, payload]]);
        let sent = device.invalidations();
        assert_eq!((sent[0].address, sent[0].size), expected, "{payload:#x}");
        bench.iommu.invalidation_completed(DEVICE, 1);
    }
}

#[test]
fn a_device_has_32_tags() {
    let bench = Bench::new(Configuration::default());
    bench.with_first_stage();
    let device = bench.connect(DEVICE);
    let invalidate = [ATS_INVAL | u64::from(DEVICE) << 40, 0];
    bench.post(&[invalidate; 40]);
    assert_eq!(device.invalidations().len(), 32);
    bench.iommu.invalidation_completed(DEVICE, 0b101);
    let tags: Vec<u8> = device
        .invalidations()
        .iter()
        .map(|sent| sent.itag)
        .collect();
    assert_eq!(tags, [0, 2]);
    bench.iommu.invalidation_completed(DEVICE, u32::MAX);
    assert_eq!(device.invalidations().len(), 6);
    bench.iommu.invalidation_completed(DEVICE, u32::MAX);
    bench.run(&[[FENCE, 0]]);
}

#[test]
fn a_time_out_is_told_by_the_next_fence() {
    let bench = Bench::new(Configuration::default());
    bench.with_first_stage();
    let device = bench.connect(DEVICE);
    let word = bench.take();
    let invalidate = [ATS_INVAL | u64::from(DEVICE) << 40, 0];
    bench.post(&[invalidate]);
    bench.iommu.time_out_devices();
    assert_eq!(bench.read32(CQCSR), ON);
    bench.post(&[[VMA, 0], [FENCE | AV | 1 << 32, word >> 2], [VMA, 0]]);
    assert_eq!((bench.read32(CQCSR), bench.read32(CQH)), (ON | CMD_TO, 2));
    assert_eq!(bench.load(word), 0);
    bench.write32(CQCSR, 1 | CMD_TO);
    assert_eq!((bench.load(word), bench.read32(CQH)), (1, 4));
    // The tag is not given to another before its answer came.
    device.invalidations();
    bench.post(&[invalidate]);
    assert_eq!(device.invalidations()[0].itag, 1);
    bench.iommu.invalidation_completed(DEVICE, 1);
    bench.post(&[[FENCE, 0]]);
    assert_ne!(bench.read32(CQH), bench.read32(CQT));
    bench.iommu.invalidation_completed(DEVICE, 2);
    assert_eq!(bench.read32(CQH), bench.read32(CQT));
}

/// "If EN_ATS is set to 1, IOMMU supports ... Invalidation Completion Message; otherwise they are
/// treated as unsupported requests."
#[test]
fn a_completion_counts_only_while_ats_is_enabled() {
    let bench = Bench::new(Configuration::default());
    bench.with_first_stage();
    bench.connect(DEVICE);
    let did = u64::from(DEVICE) << 40;
    bench.post(&[[ATS_INVAL | did, 0], [FENCE, 0]]);
    let [first, ..] = [0, 8].map(|word| bench.load(bench.device_place(DEVICE) + word));
    bench.store(bench.device_place(DEVICE), &[first & !2]);
    bench.iommu.invalidation_completed(DEVICE, 1);
    assert_ne!(bench.read32(CQH), bench.read32(CQT));
    // TTYP 9, message code 2.
    let expected = [260 | 9 << 34 | did, 0, 2, 0];
    assert_eq!(bench.faults(), [expected]);
}

#[test]
fn a_response_reaches_its_device() {
    let bench = Bench::new(Configuration::default());
    let device = bench.connect(0xff_1234);
    let rid = 0x1234 << 40 | 0xff << 56 | 1 << 33;
    bench.run(&[
        [ATS_PRGR | rid, 0x1ff << 32],
        [ATS_PRGR | rid | PV | 0xabcde << 12, 1 << 44 | 5 << 32],
        [ATS_PRGR | rid, 0xf << 44],
    ]);
    let response = |pasid, group, code| PageResponse { pasid, group, code };
    let expected = [
        response(None, 0x1ff, ResponseCode::Success),
        response(Some(0xabcde), 5, ResponseCode::InvalidRequest),
        response(None, 0, ResponseCode::Failure),
    ];
    assert_eq!(device.responses(), expected);
}

#[test]
fn memory_that_is_not_there_stops_the_queue_at_the_command() {
    // The word of a fence.
    let bench = Bench::new(Configuration::default());
    bench.post(&[[VMA, 0], [FENCE | AV, 0x1000 >> 2], [VMA, 0]]);
    assert_eq!((bench.read32(CQCSR), bench.read32(CQH)), (ON | CQMF, 1));
    bench.store(bench.cq + 16, &[FENCE, 0]);
    bench.write32(CQCSR, 1 | CQMF);
    assert_eq!((bench.read32(CQCSR), bench.read32(CQH)), (ON, 3));
    // The queue itself.
    let bench = Bench::off(Configuration::default(), Policy::STRICT, 0, 3);
    bench.write64(CQB, 7);
    bench.write32(CQT, 1);
    bench.write32(CQCSR, 1);
    assert_eq!((bench.read32(CQCSR), bench.read32(CQH)), (ON | CQMF, 0));
    // Turning it off and on clears the error.
    bench.write32(CQCSR, 0);
    bench.write32(CQT, 0);
    bench.write32(CQCSR, 1);
    assert_eq!(bench.read32(CQCSR), ON);
}

#[test]
fn a_large_queue_must_be_aligned_to_its_size() {
    for (offset, works) in [(0, true), (4096, false)] {
        let bench = Bench::off(Configuration::default(), Policy::STRICT, 0, 3);
        let base = bench.memory().take(16 << 10, 16 << 10).unwrap() + offset;
        bench.store(base, &[VMA, 0]);
        bench.write64(CQB, base >> 12 << 10 | 8);
        bench.write32(CQT, 1);
        bench.write32(CQCSR, 1);
        assert_eq!(bench.read32(CQCSR) == ON, works);
    }
}

#[test]
fn the_queue_wraps() {
    let bench = Bench::new(Configuration::default());
    let word = bench.take();
    for round in 1..=3 * COMMANDS {
        bench.run(&[[FENCE | AV | round << 32, word >> 2]]);
        assert_eq!(bench.load(word), round);
    }
}

#[test]
fn only_a_fence_with_both_bits_waits_for_posted_accesses() {
    for (bits, done) in [(0, false), (PR, false), (PW, false), (PR | PW, true)] {
        let posted = Policy {
            posted: true,
            ..Policy::STRICT
        };
        let bench = Bench::with_policy(posted, 0);
        let performed = Arc::new(AtomicBool::new(false));
        let flag = performed.clone();
        bench
            .machine
            .perform(DEVICE, move |_| flag.store(true, Ordering::Relaxed));
        bench.post(&[[VMA, 0], [FENCE | bits, 0]]);
        assert_eq!(performed.load(Ordering::Relaxed), done);
    }
}

/// With every freedom, an `ATS.INVAL` is sent before the `IOTINVAL` before it takes effect, and
/// even before the fence between them is complete.
#[test]
fn commands_are_executed_in_any_order_but_before_their_fence() {
    let (mut early, mut behind_a_fence, mut late) = (false, false, false);
    for seed in 0..400 {
        let bench = Bench::with_policy(Policy::FREE, seed);
        let root = bench.with_first_stage();
        let device = bench.connect(DEVICE);
        bench.map(root, 3, ADDRESS, FRAME, WRITABLE);
        assert!(bench.read(ADDRESS).is_ok());
        bench.map(root, 3, ADDRESS, 0, 0);
        let word = bench.take();
        let with_fence = seed % 2 == 0;
        let first = if with_fence {
            [FENCE | AV | 1 << 32, word >> 2]
        } else {
            [VMA, 0]
        };
        bench.post(&[
            [VMA | AV, page(ADDRESS)],
            first,
            [ATS_INVAL | u64::from(DEVICE) << 40, ADDRESS],
            [FENCE | AV | 2 << 32, word >> 2],
        ]);
        for _ in 0..1000 {
            let sent = !device.invalidations().is_empty();
            let stale = bench.read(ADDRESS).is_ok();
            early |= sent && stale && !with_fence;
            behind_a_fence |= sent && bench.load(word) == 0 && with_fence;
            assert!(!stale || bench.load(word) == 0 || !with_fence);
            if sent {
                break;
            }
            bench.machine.step();
        }
        bench.machine.settle();
        assert!(bench.load(word) < 2, "the device has not answered");
        bench.iommu.invalidation_completed(DEVICE, u32::MAX);
        late |= bench.load(word) < 2;
        bench.machine.settle();
        assert_eq!(bench.load(word), 2);
        assert_eq!(bench.read(ADDRESS), Err(Refusal::NotPresent));
    }
    assert!(early && behind_a_fence && late);
}

/// "Previous commands may have completed, timed out, or their execution aborted by the IOMMU."
#[test]
fn an_illegal_command_may_abort_those_before_it() {
    let (mut completed, mut aborted) = (false, false);
    for seed in 0..200 {
        let bench = Bench::with_policy(Policy::FREE, seed);
        let root = bench.with_first_stage();
        bench.map(root, 3, ADDRESS, FRAME, WRITABLE);
        assert!(bench.read(ADDRESS).is_ok());
        bench.map(root, 3, ADDRESS, 0, 0);
        bench.post(&[[VMA, 0], [VMA, 0], [0, 0]]);
        bench.machine.settle();
        assert_eq!((bench.read32(CQCSR), bench.read32(CQH)), (ON | CMD_ILL, 2));
        bench.store(bench.cq + 32, &[FENCE, 0]);
        bench.write32(CQCSR, 1 | CMD_ILL);
        bench.machine.settle();
        assert_eq!(bench.read32(CQH), 3);
        let stale = bench.read(ADDRESS).is_ok();
        (completed, aborted) = (completed || !stale, aborted || stale);
    }
    assert!(completed && aborted);
}

#[test]
fn the_knobs_reject_a_command_and_stop_the_queue() {
    let bench = Bench::new(Configuration::default());
    bench.iommu.reject_next();
    bench.post(&[[VMA, 0]]);
    assert_eq!(bench.read32(CQCSR), ON | CMD_ILL);
    bench.write32(CQCSR, 1 | CMD_ILL);
    // The same command at the same place is as illegal as before.
    assert_eq!((bench.read32(CQCSR), bench.read32(CQH)), (ON | CMD_ILL, 0));
    bench.store(bench.cq, &[FENCE, 0]);
    bench.write32(CQCSR, 1 | CMD_ILL);
    assert_eq!((bench.read32(CQCSR), bench.read32(CQH)), (ON, 1));
    bench.iommu.freeze();
    bench.post(&[[VMA, 0]]);
    bench.machine.settle();
    assert_eq!((bench.read32(CQCSR), bench.read32(CQH)), (ON, 1));
}

/// A valid context is not needed for anything but completions.
#[test]
fn the_answer_of_a_device_without_context_does_not_count() {
    let bench = Bench::new(Configuration::default());
    bench.set_device(DEVICE, [V, 0, 0, 0]);
    bench.connect(DEVICE);
    bench.post(&[[ATS_INVAL | u64::from(DEVICE) << 40, 0], [FENCE, 0]]);
    bench.iommu.invalidation_completed(DEVICE, 1);
    assert_eq!(bench.read32(CQH), 1);
    bench.iommu.time_out_devices();
    assert_eq!(bench.read32(CQCSR), ON | CMD_TO);
}
