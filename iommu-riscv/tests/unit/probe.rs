//! Bringing the IOMMU up, and down.

use crate::fake::{ATS, Bench, CAPABILITIES, MSI_FLAT, NO_SECOND_STAGE, PD17, PD20, State};
use crate::{DIRECTORY, FAULTS, QUEUE, Script};
use iommu_core::error::{OutOfMemory, ProbeError, QueueError};
use iommu_core::iommu::Iommu;
use iommu_riscv::Config;
use std::sync::MutexGuard;

#[test]
fn everything_inherited_is_invalidated_before_the_directory_is_used() {
    let bench = Bench::new(CAPABILITIES);
    let unit = bench.probe().unwrap();
    let expected = Script::after(0)
        .command(0x003, 0)
        .command(0x001, 0)
        .command(0x081, 0)
        .done();
    assert_eq!(bench.recorder.take(), expected.events);
    let state = bench.fake.state();
    let at = |offset, value| {
        let write = (offset, value);
        state
            .writes
            .iter()
            .position(|found| *found == write)
            .unwrap()
    };
    assert!(at(36, 4) < at(16, DIRECTORY >> 2 | 4));
    assert_eq!(state.cqb, QUEUE >> 2 | 7);
    assert_eq!(state.fqb, FAULTS >> 2 | 6);
    assert_eq!((state.fqh, state.fqt), (0, 0));
    assert_eq!(state.fctl, 2);
    drop(state);
    drop(unit);
    assert!(bench.fake.is_off());
    assert_eq!(bench.memory.heap.live_blocks(), 0);
}

#[test]
fn an_iommu_without_second_stage_is_not_asked_for_one() {
    let bench = Bench::new(NO_SECOND_STAGE);
    let _unit = bench.probe().unwrap();
    let expected = Script::after(0).command(0x003, 0).command(0x001, 0).done();
    assert_eq!(bench.recorder.take(), expected.events);
}

#[test]
fn an_iommu_that_firmware_left_on_is_turned_off_first() {
    for mode in 1..=4 {
        let bench = Bench::new(CAPABILITIES | 1 << 27);
        {
            let mut state = bench.fake.state();
            state.ddtp = 0x8_0000 << 10 | mode;
            state.cqcsr = 1 | 1 << 16 | 1 << 10;
            state.fqcsr = 1 | 1 << 16 | 1 << 9;
            state.pqcsr = 1 | 1 << 16 | 1 << 8;
            state.ipsr = 0xf;
            state.fctl = 5;
            (state.cqh, state.cqt) = (7, 9);
        }
        let _unit = bench.probe().unwrap();
        let state = bench.fake.state();
        assert_eq!(state.ddtp, DIRECTORY >> 2 | 4);
        assert_eq!(state.cqcsr, 1 | 1 << 16);
        assert_eq!(state.fqcsr, 1 | 1 << 16);
        assert_eq!(state.pqcsr, 1 | 1 << 16);
        assert_eq!(state.ipsr, 0);
        assert_eq!(state.fctl, 2);
        assert_eq!(state.writes[0], (16, 0x8_0000 << 10));
    }
}

#[test]
fn features_say_what_the_capabilities_permit() {
    let features = |capabilities| {
        let bench = Bench::new(capabilities);
        bench.probe().unwrap().features()
    };
    let all = features(CAPABILITIES);
    assert_eq!((all.pasid_bits, all.device_tlb), (8, true));
    assert!(!all.iotlb_keyed_by_pasid && !all.chained_sync);
    assert!(!features(CAPABILITIES & !ATS).device_tlb);
    assert_eq!(features(CAPABILITIES | PD17).pasid_bits, 17);
    assert_eq!(features(CAPABILITIES | PD20).pasid_bits, 20);
}

fn missing(bench: &Bench, config: Config) -> (&'static str, &'static str) {
    match bench.probe_with(config).map(drop) {
        Err(ProbeError::MissingCapability {
            capability,
            register,
            ..
        }) => (capability, register),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_missing_capability_is_named_and_nothing_is_written() {
    let cases = [
        (CAPABILITIES & !0xf0, "version 1.x"),
        (CAPABILITIES | 0x20, "version 1.x"),
        (CAPABILITIES & !(7 << 9), "Sv39, Sv48 or Sv57"),
        (CAPABILITIES & !(7 << 38), "PD8, PD17 or PD20"),
    ];
    for (capabilities, capability) in cases {
        let bench = Bench::new(capabilities);
        let found = missing(&bench, Config::default());
        assert_eq!(found, (capability, "capabilities"));
        assert_eq!(bench.fake.state().writes, []);
    }
    let bench = Bench::new(CAPABILITIES);
    bench.fake.state().fctl = 1;
    let found = missing(&bench, Config::default());
    assert_eq!(found, ("little-endian operation", "fctl"));
    assert_eq!(bench.fake.state().writes, []);

    let config = Config {
        update_accessed_dirty: true,
        ..Config::default()
    };
    let bench = Bench::new(CAPABILITIES);
    assert_eq!(missing(&bench, config), ("AMO_HWAD", "capabilities"));
    assert!(
        Bench::new(CAPABILITIES | 1 << 24)
            .probe_with(config)
            .is_ok()
    );
}

#[test]
fn what_only_shows_when_it_is_tried_leaves_the_iommu_off() {
    type Spoil = fn(&mut MutexGuard<'_, State>);
    let cases: [(Spoil, &str, &str); 5] = [
        (
            |state| {
                state.capabilities |= 1 << 27;
                (state.fctl, state.fctl_writable) = (1, 6);
            },
            "little-endian operation",
            "fctl",
        ),
        (
            |state| (state.fctl, state.fctl_writable) = (4, 3),
            "GXL = 0",
            "fctl",
        ),
        (
            |state| state.log2_queue = 6,
            "a command queue of 128 entries",
            "cqb",
        ),
        (
            |state| state.modes = 0b01111,
            "a device directory for these device ids",
            "ddtp",
        ),
        (
            |state| state.modes = 0b00011,
            "a device directory for these device ids",
            "ddtp",
        ),
    ];
    for (spoil, capability, register) in cases {
        let bench = Bench::new(CAPABILITIES);
        spoil(&mut bench.fake.state());
        assert_eq!(missing(&bench, Config::default()), (capability, register));
        assert!(bench.fake.is_off());
        assert_eq!(bench.memory.heap.live_blocks(), 0);
    }
}

#[test]
fn registers_of_all_ones_are_no_iommu() {
    let bench = Bench::new(u64::MAX);
    assert_eq!(bench.probe().map(drop), Err(ProbeError::NotPresent));
}

#[test]
fn the_directory_has_as_many_levels_as_the_device_ids_need() {
    let mode = |capabilities, device_id_bits, modes| {
        let bench = Bench::new(capabilities);
        bench.fake.state().modes = modes;
        let config = Config {
            device_id_bits,
            ..Config::default()
        };
        let _unit = bench.probe_with(config).unwrap();
        bench.fake.state().ddtp & 0xf
    };
    let (base, extended) = (CAPABILITIES & !MSI_FLAT, CAPABILITIES);
    for (capabilities, bits) in [(base, [7, 16, 24]), (extended, [6, 15, 24])] {
        let [one, two, three] = bits;
        assert_eq!(mode(capabilities, one, 0b11111), 2);
        assert_eq!(mode(capabilities, one + 1, 0b11111), 3);
        assert_eq!(mode(capabilities, two, 0b11111), 3);
        assert_eq!(mode(capabilities, two + 1, 0b11111), 4);
        assert_eq!(mode(capabilities, three, 0b11111), 4);
        assert_eq!(mode(capabilities, one, 0b11011), 3);
        assert_eq!(mode(capabilities, one, 0b10011), 4);
    }
}

#[test]
fn a_smaller_queue_is_taken() {
    let bench = Bench::new(CAPABILITIES);
    bench.fake.state().log2_queue = 7;
    let _unit = bench.probe().unwrap();
    assert_eq!(bench.fake.state().cqb & 0x1f, 6);
}

fn timeout(bench: &Bench) -> &'static str {
    match bench.probe().map(drop) {
        Err(ProbeError::Timeout(timeout)) => timeout.operation,
        other => panic!("{other:?}"),
    }
}

#[test]
fn hardware_that_stays_busy_ends_in_a_timeout() {
    let stuck = [
        (16, "turning the device directory off"),
        (72, "the command queue"),
        (76, "turning the fault queue off"),
        (80, "turning the page-request queue off"),
    ];
    for (register, operation) in stuck {
        let bench = Bench::new(CAPABILITIES);
        bench.fake.state().stuck = Some(register);
        assert_eq!(timeout(&bench), operation);
        assert_eq!(bench.memory.heap.live_blocks(), 0);
    }
    let dead = [
        (72, "turning the command queue on"),
        (76, "turning the fault queue on"),
    ];
    for (register, operation) in dead {
        let bench = Bench::new(CAPABILITIES);
        bench.fake.state().dead = Some(register);
        assert_eq!(timeout(&bench), operation);
        assert!(bench.fake.is_off());
        assert_eq!(bench.memory.heap.live_blocks(), 0);
    }
}

#[test]
fn memory_that_the_hardware_may_still_use_is_never_freed() {
    let bench = Bench::new(CAPABILITIES);
    let unit = bench.unit();
    bench.fake.state().stuck = Some(72);
    drop(unit);
    assert_eq!(bench.memory.heap.live_blocks(), 5);
}

#[test]
fn a_queue_that_does_not_work_leaves_the_iommu_off() {
    let bench = Bench::new(CAPABILITIES);
    bench.fake.state().silent = true;
    let error = bench.probe().map(drop);
    assert!(
        matches!(error, Err(ProbeError::Queue(QueueError::Timeout(_)))),
        "{error:?}"
    );
    assert!(bench.fake.is_off());

    let bench = Bench::new(CAPABILITIES);
    bench.fake.state().fail = Some((0x001, 1 << 10));
    let illegal = QueueError::IllegalCommand { slot: 1 };
    assert_eq!(bench.probe().map(drop), Err(ProbeError::Queue(illegal)));
    assert!(bench.fake.is_off());
    assert_eq!(bench.memory.heap.live_blocks(), 0);
}

#[test]
fn without_memory_nothing_is_left_on_or_allocated() {
    for allocations in 0..4 {
        let bench = Bench::new(CAPABILITIES);
        bench.memory.heap.fail_after(allocations);
        let error = bench.probe().map(drop);
        assert!(
            matches!(error, Err(ProbeError::OutOfMemory(OutOfMemory { .. }))),
            "{error:?}"
        );
        assert!(bench.fake.is_off());
        assert_eq!(bench.memory.heap.live_blocks(), 0);
    }
}
