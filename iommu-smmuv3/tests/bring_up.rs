//! Probe: what state it leaves, whatever it found; and that a failure leaves nothing on.

mod fake;

use fake::{ABORT, FULL, Identity, Machine, QEMU, Trouble};
use iommu_core::error::{ProbeError, QueueError};
use iommu_core::ids::DeviceId;
use iommu_core::iommu::{DeviceConfig, Iommu, PageFaults};
use iommu_core::platform::Mmio;
use iommu_smmuv3::Unit;

#[test]
fn registers_after_probe() {
    let machine = Machine::new(QEMU);
    let _unit = Unit::probe(machine.parts()).unwrap();
    let state = machine.smmu.state();
    assert_eq!(
        state.cr0_history,
        [0, 0x8, 0xc, 0xd],
        "off, CMDQEN, EVENTQEN, SMMUEN"
    );
    // Linux writes the same to CR1: write-back, inner shareable, for tables and queues.
    assert_eq!(state.cr1, 0xd75);
    assert_eq!(state.cr2, 0b010, "RECINVSID");
    assert_eq!(
        state.strtab_base_cfg,
        1 << 16 | 8 << 6 | 16,
        "two levels, split 8, 16 bits"
    );
    assert_eq!(state.strtab_base >> 62, 1, "RA");
    assert_eq!((state.cmdq_base >> 62, state.cmdq_base & 0x1f), (1, 10));
    assert_eq!((state.eventq_base >> 62, state.eventq_base & 0x1f), (1, 7));
    assert_eq!(state.irq_ctrl, 0);
}

#[test]
fn obligations_of_the_capabilities() {
    let machine = Machine::new(FULL);
    let unit = Unit::probe(machine.parts()).unwrap();
    let state = machine.smmu.state();
    assert_eq!(
        state.cr0_history,
        [0, 0x18, 0x1c, 0x1d],
        "ATSCHK from the start"
    );
    assert_eq!(state.cr2, 0b110, "PTM, RECINVSID");
    let features = unit.features();
    assert_eq!(features.pasid_bits, 10);
    assert!(features.device_tlb && features.chained_sync && !features.iotlb_keyed_by_pasid);
    drop(state);

    let past_caches = Machine::new(Identity {
        idr0: FULL.idr0 & !(1 << 4),
        ..FULL
    });
    let _unit = Unit::probe(past_caches.parts()).unwrap();
    assert_eq!(
        past_caches.smmu.state().cr1,
        0x820,
        "non-cacheable, outer shareable"
    );
}

#[test]
fn a_linear_table_where_two_levels_are_impossible_or_not_worth_it() {
    let table = |identity| {
        let machine = Machine::new(identity);
        let _unit = Unit::probe(machine.parts()).unwrap();
        machine.smmu.state().strtab_base_cfg
    };
    assert_eq!(
        table(Identity {
            idr0: QEMU.idr0 & !(3 << 27),
            ..QEMU
        }),
        16
    );
    assert_eq!(
        table(Identity {
            idr1: QEMU.idr1 & !0x3f | 8,
            ..QEMU
        }),
        8
    );
    let wide = Identity {
        idr1: QEMU.idr1 & !0x3f | 32,
        ..QEMU
    };
    assert_eq!(table(wide), 1 << 16 | 8 << 6 | 24, "bounded by memory");
}

#[test]
fn what_firmware_left_on_is_turned_off_first() {
    let machine = Machine::new(QEMU);
    {
        let mut state = machine.smmu.state();
        (state.cr0, state.cr0ack) = (0xd, 0xd);
        state.irq_ctrl = 5;
        // A command queue error and an event queue abort nobody acknowledged.
        state.gerror = 0b101;
        state.cmdq_prod = 7;
        state.eventq_prod = 3;
    }
    let _unit = Unit::probe(machine.parts()).unwrap();
    let state = machine.smmu.state();
    // The fake panics if SMMUEN is cleared while GBPA lets traffic through.
    assert_eq!(state.cr0_history, [0, 0x8, 0xc, 0xd]);
    assert_eq!(state.gbpa, 0x1000 | ABORT, "other attributes are kept");
    assert_eq!((state.irq_ctrl, state.gerror ^ state.gerrorn), (0, 0));
    assert_eq!((state.eventq_prod, state.eventq_cons), (0, 0));
}

#[test]
fn each_missing_capability_is_named_and_nothing_is_left_on() {
    let idr0 = |idr0| Identity { idr0, ..QEMU };
    let idr1 = |idr1| Identity { idr1, ..QEMU };
    let cases = [
        // QEMU with stage=2.
        (idr0(0x0d44_1019), "S1P", "SMMU_IDR0"),
        (idr0(QEMU.idr0 & !(2 << 2)), "TTF", "SMMU_IDR0"),
        (idr0(QEMU.idr0 | 3 << 21), "TTENDIAN", "SMMU_IDR0"),
        (
            idr0(QEMU.idr0 & !(3 << 24) | 2 << 24),
            "STALL_MODEL",
            "SMMU_IDR0",
        ),
        (
            idr1(QEMU.idr1 & !(0x1f << 21) | 6 << 21),
            "CMDQS",
            "SMMU_IDR1",
        ),
        (idr1(QEMU.idr1 | 1 << 29), "QUEUES_PRESET", "SMMU_IDR1"),
        (idr1(QEMU.idr1 | 1 << 30), "TABLES_PRESET", "SMMU_IDR1"),
        (Identity { idr5: 0x64, ..QEMU }, "GRAN4K", "SMMU_IDR5"),
    ];
    for (identity, name, register) in cases {
        let machine = Machine::new(identity);
        {
            let mut state = machine.smmu.state();
            (state.cr0, state.cr0ack) = (0xd, 0xd);
        }
        let value = match register {
            "SMMU_IDR0" => identity.idr0,
            "SMMU_IDR1" => identity.idr1,
            _ => identity.idr5,
        };
        let error = Unit::probe(machine.parts()).unwrap_err();
        let ProbeError::MissingCapability {
            capability,
            register: named,
            value: shown,
        } = error
        else {
            panic!("{error}");
        };
        assert!(
            capability.starts_with(name),
            "{capability} instead of {name}"
        );
        assert_eq!((named, shown), (register, u64::from(value)));
        assert!(machine.is_off(), "{name}");
        assert_eq!(machine.memory.live_blocks(), 0);
    }
}

#[test]
fn no_smmu_is_not_written_to() {
    let ones = u32::MAX;
    let machine = Machine::new(Identity {
        idr0: ones,
        idr1: ones,
        idr3: ones,
        idr5: ones,
    });
    assert_eq!(
        Unit::probe(machine.parts()).unwrap_err(),
        ProbeError::NotPresent
    );
    let state = machine.smmu.state();
    assert!(state.cr0_history.is_empty() && state.gbpa == 0x1000);
}

#[test]
fn hardware_that_does_not_answer_is_a_timeout() {
    let probe = |trouble| {
        let machine = Machine::new(QEMU);
        {
            let mut state = machine.smmu.state();
            (state.cr0, state.cr0ack) = (0xd, 0xd);
        }
        machine.trouble(trouble);
        let error = Unit::probe(machine.parts()).unwrap_err();
        (machine, error)
    };
    for trouble in [
        Trouble::GbpaNeverUpdates,
        Trouble::InterruptsNeverStop,
        Trouble::Cr0Stuck(0),
    ] {
        let (machine, error) = probe(trouble);
        assert!(
            matches!(error, ProbeError::Timeout(_)),
            "{trouble:?}: {error}"
        );
        assert_eq!(machine.memory.live_blocks(), 0);
    }
    for step in [0x8, 0xc, 0xd] {
        let (machine, error) = probe(Trouble::Cr0Stuck(step));
        assert!(
            matches!(error, ProbeError::Timeout(_)),
            "{step:#x}: {error}"
        );
        assert!(machine.is_off(), "{step:#x}");
        assert_eq!(machine.memory.live_blocks(), 0);
    }
    let (machine, error) = probe(Trouble::QueueHangs);
    assert!(
        matches!(error, ProbeError::Queue(QueueError::Timeout(_))),
        "{error}"
    );
    assert!(machine.is_off());
}

#[test]
fn a_command_that_is_refused_ends_probe() {
    let machine = Machine::new(QEMU);
    machine.trouble(Trouble::CommandFails(0x30, 1));
    let error = Unit::probe(machine.parts()).unwrap_err();
    assert_eq!(
        error,
        ProbeError::Queue(QueueError::IllegalCommand { slot: 2 })
    );
    assert!(machine.is_off());
    assert_eq!(machine.memory.live_blocks(), 0);
}

#[test]
fn without_memory_nothing_is_left_on() {
    let machine = Machine::new(FULL);
    let mut failures = 0;
    loop {
        machine.memory.fail_after(failures);
        match Unit::probe(machine.parts()) {
            Ok(_) => break,
            Err(error) => assert!(matches!(error, ProbeError::OutOfMemory(_)), "{error}"),
        }
        assert!(machine.is_off());
        assert_eq!(machine.memory.live_blocks(), 0);
        failures += 1;
    }
    assert_eq!(
        failures, 4,
        "command queue, completion words, event queue, stream table"
    );
}

#[test]
fn dropping_a_unit_turns_everything_off_and_frees_everything() {
    let machine = Machine::new(QEMU);
    drop(Unit::probe(machine.parts()).unwrap());
    assert!(machine.is_off());
    assert_eq!(machine.memory.live_blocks(), 0);
}

#[test]
fn memory_that_a_stuck_smmu_may_use_is_never_freed() {
    let machine = Machine::new(QEMU);
    let unit = Unit::probe(machine.parts()).unwrap();
    machine.trouble(Trouble::Cr0Stuck(0));
    drop(unit);
    assert_eq!(machine.memory.live_blocks(), 3);
}

#[test]
fn a_unit_can_be_brought_up_again() {
    let machine = Machine::new(QEMU);
    for _ in 0..2 {
        drop(Unit::probe(machine.parts()).unwrap());
    }
    assert_eq!(machine.mmio().read32(0x20), 0);
}

#[test]
fn every_size_that_the_registers_can_state_works() {
    let works = |idr1: u32, stream: u32| {
        let machine = Machine::new(Identity { idr1, ..FULL });
        let unit = Unit::probe(machine.parts()).unwrap();
        let config = DeviceConfig {
            pasid_bits: 20,
            device_tlb: true,
            page_faults: PageFaults::Fatal,
        };
        unit.enable_device(DeviceId(stream), config).unwrap();
        assert!(machine.ste(stream).is_some(), "IDR1 {idr1:#x}");
        let beyond = DeviceId(u32::MAX);
        assert!(unit.enable_device(beyond, config).is_err());
        machine.record([0x10, 0, 0, 0]);
        assert_eq!(unit.take_faults(&mut |_| ()).reported, 1, "IDR1 {idr1:#x}");
        let pasid = (1u32 << (idr1 >> 6 & 0x1f).min(10)) - 1;
        machine.cd(stream, pasid);
    };
    let idr1 = |stream: u32, substream: u32, events: u32, commands: u32| {
        stream | substream << 6 | events << 16 | commands << 21
    };
    for bits in 0..64 {
        let last = (1u32 << bits.min(24)) - 1;
        works(idr1(bits, 20, 19, 19), last);
    }
    for bits in 0..32 {
        works(idr1(16, bits, 19, 19), 8);
        works(idr1(16, 20, bits, 19), 8);
        works(idr1(16, 20, 19, bits.max(7)), 8);
    }
}
