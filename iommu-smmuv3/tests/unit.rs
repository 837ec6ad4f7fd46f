//! What the unit sends, command by command and doorbell by doorbell, and what it leaves behind.

mod fake;

use fake::{CMDQEN, FULL, Identity, Machine, Platform, QEMU, SMMUEN, Trouble};
use iommu_core::Range;
use iommu_core::error::{AttachError, Incompatible, QueueError};
use iommu_core::ids::{DeviceId, Pasid, PhysicalAddress, Tag};
use iommu_core::iommu::{DeviceConfig, Iommu, PageFaults};
use iommu_core::operation::{Invalidation, Levels, Target};
use iommu_core::page_table::{Format, PageTable};
use iommu_core::testing::Event;
use iommu_smmuv3::Unit;

/// QEMU's, with ATS and 20-bit SubstreamIDs; no MSI, so that every CMD_SYNC looks the same.
const ATS: Identity = Identity {
    idr0: QEMU.idr0 | 1 << 10,
    idr1: QEMU.idr1 | 20 << 6,
    ..QEMU
};

const SYNC: [u64; 2] = [0x46, 0];
const DEVICE: DeviceId = DeviceId(0x108);
const NINE: Pasid = Pasid::new(9).unwrap();
const PLAIN: DeviceConfig = DeviceConfig {
    pasid_bits: 0,
    device_tlb: false,
    page_faults: PageFaults::Fatal,
};
const SHARED: DeviceConfig = DeviceConfig {
    pasid_bits: 8,
    device_tlb: true,
    page_faults: PageFaults::Fatal,
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

/// A unit with `DEVICE` enabled and `pasid` attached under tag 5.
fn attached(identity: Identity, config: DeviceConfig, pasid: Pasid) -> (Machine, Unit<Platform>) {
    let (machine, unit) = probe(identity);
    unit.enable_device(DEVICE, config).unwrap();
    unit.attach(DEVICE, pasid, Tag(5), &TABLE).unwrap();
    machine.recorder.take();
    (machine, unit)
}

/// One list: the commands with the final CMD_SYNC, one doorbell, one wait.
fn list(commands: &[[u64; 2]]) -> Vec<Event> {
    let commands = commands.iter().map(|words| Event::Command(words.to_vec()));
    commands
        .chain([Event::Command(SYNC.to_vec()), Event::Doorbell, Event::Wait])
        .collect()
}

#[test]
fn probe_invalidates_everything_inherited_once() {
    let machine = Machine::new(QEMU);
    let _unit = Unit::probe(machine.parts()).unwrap();
    assert_eq!(
        machine.recorder.take(),
        list(&[[0x04, 31], SYNC, [0x30, 0]])
    );
}

#[test]
fn probe_invalidates_the_el2_regime_where_there_is_one() {
    let machine = Machine::new(Identity {
        idr0: QEMU.idr0 | 1 << 9,
        ..QEMU
    });
    let _unit = Unit::probe(machine.parts()).unwrap();
    assert_eq!(
        machine.recorder.take(),
        list(&[[0x04, 31], SYNC, [0x20, 0], [0x30, 0]])
    );
}

#[test]
fn a_message_completes_a_sync_without_reading_a_register() {
    let machine = Machine::new(FULL);
    let unit = Unit::probe(machine.parts()).unwrap();
    machine.smmu.state().reads = 0;
    unit.enable_device(DEVICE, PLAIN).unwrap();
    assert_eq!(machine.smmu.state().reads, 0);
    let commands = machine.recorder.take_commands();
    let message = commands.last().unwrap();
    // CS = IRQ, MSH = inner shareable, MSIAttr = write-back, first lap.
    assert_eq!(message[0], 0x0000_0001_0fc0_1046);
    assert_ne!(message[1], 0);
}

#[test]
fn a_list_for_many_devices_fits_the_queue() {
    let (machine, unit) = probe(FULL);
    let device = |device| Target::DeviceTlb {
        device: DeviceId(device),
        pasid: Pasid::UNTAGGED,
    };
    let targets: Vec<_> = (0..500).map(device).collect();
    let ticket = unit.submit(&Invalidation {
        targets: &targets,
        range: Range::new(0x7000, 0x7000 + (0x155 << 12)).unwrap(),
        levels: Levels::All,
    });
    let _completed = unit.wait(ticket.unwrap()).unwrap();
    // Two blocks each, though three would be cheaper.
    assert_eq!(machine.recorder.take_commands().len(), 2 * 500 + 1);
}

#[test]
fn enabling_a_device_forgets_the_invalid_entry_and_the_new_leaf() {
    let (machine, unit) = probe(QEMU);
    unit.enable_device(DEVICE, PLAIN).unwrap();
    assert_eq!(
        machine.recorder.take(),
        list(&[[0x0000_0108_0000_0003, 0]]),
        "with the L1STD"
    );
    unit.enable_device(DeviceId(0x110), PLAIN).unwrap();
    assert_eq!(
        machine.recorder.take(),
        list(&[[0x0000_0110_0000_0003, 1]]),
        "the entry only"
    );
    unit.enable_device(DeviceId(0x210), PLAIN).unwrap();
    assert_eq!(machine.recorder.take(), list(&[[0x0000_0210_0000_0003, 0]]));
    assert_eq!(unit.device_config(DEVICE), Some(PLAIN));
}

#[test]
fn a_device_tlb_is_emptied_before_the_device_is_used_and_after() {
    let (machine, unit) = probe(ATS);
    unit.enable_device(DEVICE, SHARED).unwrap();
    let everything = [0x0000_0108_0000_0040, 52];
    assert_eq!(
        machine.recorder.take(),
        list(&[[0x0000_0108_0000_0003, 0], SYNC, everything])
    );
    unit.disable_device(DEVICE).unwrap();
    assert_eq!(
        machine.recorder.take(),
        list(&[[0x0000_0108_0000_0003, 1], SYNC, everything])
    );
}

#[test]
fn disabling_a_device_forgets_its_entry() {
    let (machine, unit) = probe(QEMU);
    unit.enable_device(DEVICE, PLAIN).unwrap();
    machine.recorder.take();
    let blocks = machine.memory.live_blocks();
    unit.disable_device(DEVICE).unwrap();
    assert_eq!(machine.recorder.take(), list(&[[0x0000_0108_0000_0003, 1]]));
    assert_eq!(machine.words(machine.ste(DEVICE.0).unwrap()), [0; 8]);
    assert_eq!(
        machine.memory.live_blocks(),
        blocks - 1,
        "the context table is freed"
    );
    assert_eq!(unit.device_config(DEVICE), None);
}

#[test]
fn entries_in_memory_lead_to_the_page_table() {
    let (machine, _unit) = attached(ATS, SHARED, NINE);
    let entry = machine.words(machine.ste(DEVICE.0).unwrap());
    // S1CDMax 8, S1 translation; S1DSS = substream 0, write-back inner shareable, full ATS.
    assert_eq!((entry[0] >> 59, entry[0] & 0x3f), (8, 0b1011));
    assert_eq!(entry[1..], [0x1000_00d6, 0, 0, 0, 0, 0, 0]);
    // As in tests/golden/linux-fields.txt.
    let descriptor = [0x0005_e204_c000_3510, 0x4000_1000, 0, 0x44_ff00, 0, 0, 0, 0];
    assert_eq!(machine.words(machine.cd(DEVICE.0, 9)), descriptor);
    assert_eq!(machine.words(machine.cd(DEVICE.0, 0)), [0; 8]);
}

#[test]
fn obligations_of_the_capabilities_reach_the_stream_table_entry() {
    let (machine, _unit) = attached(FULL, PLAIN, Pasid::UNTAGGED);
    let entry = machine.words(machine.ste(DEVICE.0).unwrap());
    assert_eq!(
        entry[1],
        1 << 44 | 1 << 27 | 0xd4,
        "SHCFG = incoming, S1STALLD, no EATS"
    );
}

#[test]
fn attaching_forgets_the_invalid_descriptor() {
    let (machine, unit) = probe(ATS);
    unit.enable_device(DEVICE, SHARED).unwrap();
    machine.recorder.take();
    unit.attach(DEVICE, NINE, Tag(5), &TABLE).unwrap();
    assert_eq!(machine.recorder.take(), list(&[[0x0000_0108_0000_9005, 1]]));
    unit.attach(DEVICE, Pasid::UNTAGGED, Tag(6), &TABLE)
        .unwrap();
    assert_eq!(machine.recorder.take(), list(&[[0x0000_0108_0000_0005, 1]]));
}

#[test]
fn blocking_is_silent_and_forgets_descriptor_tlb_and_device_tlb_in_this_order() {
    let (machine, unit) = attached(ATS, SHARED, NINE);
    unit.block(DEVICE, NINE).unwrap();
    let commands = [
        [0x0000_0108_0000_9005, 1],
        SYNC,
        [0x0005_0000_0000_0011, 0],
        SYNC,
        [0x0000_0108_0000_9840, 52],
    ];
    assert_eq!(machine.recorder.take(), list(&commands));
    // EPD0 = 1, R = 0 and ASID 0, still valid.
    assert_eq!(
        machine.words(machine.cd(DEVICE.0, 9))[0],
        0x0000_c204_c000_7510
    );
    unit.block(DEVICE, NINE).unwrap();
    assert_eq!(machine.recorder.take(), [], "it is blocked already");
}

#[test]
fn blocking_without_a_device_tlb_sends_nothing_to_the_device() {
    let (machine, unit) = attached(ATS, PLAIN, Pasid::UNTAGGED);
    unit.block(DEVICE, Pasid::UNTAGGED).unwrap();
    let commands = [[0x0000_0108_0000_0005, 1], SYNC, [0x0005_0000_0000_0011, 0]];
    assert_eq!(machine.recorder.take(), list(&commands));
}

#[test]
fn untagged_translations_leave_a_device_tlb_by_a_request_without_pasid() {
    let (machine, unit) = attached(ATS, SHARED, Pasid::UNTAGGED);
    unit.block(DEVICE, Pasid::UNTAGGED).unwrap();
    let commands = machine.recorder.take_commands();
    assert_eq!(commands[4], [0x0000_0108_0000_0040, 52]);
}

#[test]
fn detaching_blocks_first_and_then_takes_the_descriptor_away() {
    let (machine, unit) = attached(ATS, SHARED, NINE);
    let descriptor = machine.cd(DEVICE.0, 9);
    unit.detach(DEVICE, NINE).unwrap();
    let blocked = [
        [0x0000_0108_0000_9005, 1],
        SYNC,
        [0x0005_0000_0000_0011, 0],
        SYNC,
        [0x0000_0108_0000_9840, 52],
    ];
    let gone = [[0x0000_0108_0000_9005, 1]];
    assert_eq!(
        machine.recorder.take(),
        [list(&blocked), list(&gone)].concat()
    );
    assert_eq!(machine.words(descriptor), [0; 8]);

    unit.attach(DEVICE, NINE, Tag(5), &TABLE).unwrap();
    unit.block(DEVICE, NINE).unwrap();
    machine.recorder.take();
    unit.detach(DEVICE, NINE).unwrap();
    assert_eq!(
        machine.recorder.take(),
        list(&gone),
        "what was blocked is not blocked again"
    );
}

fn submit(identity: Identity, targets: &[Target], start: u64, end: u64) -> Vec<Event> {
    let (machine, unit) = attached(identity, SHARED, NINE);
    let range = Range::new(start, end).unwrap();
    let ticket = unit
        .submit(&Invalidation {
            targets,
            range,
            levels: Levels::All,
        })
        .unwrap();
    unit.wait(ticket).unwrap();
    machine.recorder.take()
}

const IOTLB: Target = Target::Iotlb {
    tag: Tag(5),
    pasid: Pasid::UNTAGGED,
};
const DEVICE_TLB: Target = Target::DeviceTlb {
    device: DEVICE,
    pasid: NINE,
};

#[test]
fn an_invalidation_of_the_iotlb() {
    let page = submit(ATS, &[IOTLB], 0x5000, 0x6000);
    assert_eq!(page, list(&[[0x0005_0000_0000_0012, 0x5000]]));
    // 5 pages: NUM 4, SCALE 0. 33 pages: 16 × 2 from the front, 2 up to the end.
    let five = submit(ATS, &[IOTLB], 0x5000, 0xa000);
    assert_eq!(five, list(&[[0x0005_0000_0000_4012, 0x5400]]));
    let thirty_three = submit(ATS, &[IOTLB], 0, 0x2_1000);
    let two = [
        [0x0005_0000_0010_f012, 0x400],
        [0x0005_0000_0010_0012, 0x1_f400],
    ];
    assert_eq!(thirty_three, list(&two));
    let all = submit(ATS, &[IOTLB], 0, u64::MAX);
    assert_eq!(all, list(&[[0x0005_0000_0000_0011, 0]]));
}

#[test]
fn an_invalidation_of_a_device_tlb() {
    let page = submit(ATS, &[DEVICE_TLB], 0x5000, 0x6000);
    assert_eq!(page, list(&[[0x0000_0108_0000_9840, 0x5000]]));
    // 0x3000 to 0x6000: one page and two pages, on either side of 0x4000.
    let three = submit(ATS, &[DEVICE_TLB], 0x3000, 0x6000);
    assert_eq!(
        three,
        list(&[
            [0x0000_0108_0000_9840, 0x3000],
            [0x0000_0108_0000_9840, 0x4001]
        ])
    );
    let all = submit(ATS, &[DEVICE_TLB], 0, u64::MAX);
    assert_eq!(all, list(&[[0x0000_0108_0000_9840, 52]]));
}

#[test]
fn a_device_tlb_is_invalidated_after_the_iotlb_is_done_with_one_doorbell_and_one_wait() {
    let both = submit(ATS, &[IOTLB, DEVICE_TLB, DEVICE_TLB], 0x5000, 0x6000);
    let commands = [
        [0x0005_0000_0000_0012, 0x5000],
        SYNC,
        [0x0000_0108_0000_9840, 0x5000],
        [0x0000_0108_0000_9840, 0x5000],
    ];
    assert_eq!(both, list(&commands));
}

#[test]
fn misuse_is_a_typed_error_and_changes_nothing() {
    let (machine, unit) = attached(ATS, SHARED, NINE);
    let entry = machine.words(machine.ste(DEVICE.0).unwrap());
    let descriptor = machine.words(machine.cd(DEVICE.0, 9));
    let wide = Pasid::new(256).unwrap();
    let other = DeviceId(0x109);
    let tlb = DeviceConfig {
        device_tlb: true,
        ..PLAIN
    };
    let no_format = PageTable {
        format: Format::Riscv64 { levels: 3 },
        ..TABLE
    };

    assert_eq!(
        unit.enable_device(DEVICE, PLAIN),
        Err(AttachError::DeviceInUse(DEVICE))
    );
    let too_wide = DeviceId(0x1_0000);
    assert_eq!(
        unit.enable_device(too_wide, PLAIN),
        Err(AttachError::DeviceIdTooWide(too_wide))
    );
    assert_eq!(
        unit.disable_device(other),
        Err(AttachError::UnknownDevice(other))
    );
    assert_eq!(
        unit.disable_device(DEVICE),
        Err(AttachError::PasidInUse(DEVICE, NINE))
    );
    assert_eq!(
        unit.attach(DEVICE, NINE, Tag(6), &TABLE),
        Err(AttachError::PasidInUse(DEVICE, NINE))
    );
    assert_eq!(
        unit.attach(other, NINE, Tag(6), &TABLE),
        Err(AttachError::UnknownDevice(other))
    );
    assert_eq!(
        unit.attach(DEVICE, wide, Tag(6), &TABLE),
        Err(AttachError::PasidTooWide {
            pasid: wide,
            bits: 8
        })
    );
    assert_eq!(
        unit.attach(DEVICE, Pasid::UNTAGGED, Tag(6), &no_format),
        Err(AttachError::Incompatible(Incompatible::Architecture))
    );
    let unknown = Err(AttachError::UnknownPasid(DEVICE, Pasid::UNTAGGED));
    assert_eq!(unit.block(DEVICE, Pasid::UNTAGGED), unknown);
    assert_eq!(unit.detach(DEVICE, Pasid::UNTAGGED), unknown);

    assert_eq!(machine.recorder.take(), [], "nothing was sent");
    assert_eq!(machine.words(machine.ste(DEVICE.0).unwrap()), entry);
    assert_eq!(machine.words(machine.cd(DEVICE.0, 9)), descriptor);
    assert_eq!(unit.device_config(other), None);

    unit.detach(DEVICE, NINE).unwrap();
    assert_eq!(
        unit.detach(DEVICE, NINE),
        Err(AttachError::UnknownPasid(DEVICE, NINE))
    );
    let (_machine, without_ats) = probe(QEMU);
    assert_eq!(
        without_ats.enable_device(DEVICE, tlb),
        Err(AttachError::NoDeviceTlb)
    );
}

#[test]
fn without_substreams_only_untagged_requests_can_be_attached() {
    let (machine, unit) = probe(QEMU);
    assert_eq!(unit.features().pasid_bits, 0);
    unit.enable_device(
        DEVICE,
        DeviceConfig {
            pasid_bits: 20,
            device_tlb: false,
            page_faults: PageFaults::Fatal,
        },
    )
    .unwrap();
    let too_wide = AttachError::PasidTooWide {
        pasid: NINE,
        bits: 0,
    };
    assert_eq!(unit.attach(DEVICE, NINE, Tag(5), &TABLE), Err(too_wide));
    unit.attach(DEVICE, Pasid::UNTAGGED, Tag(5), &TABLE)
        .unwrap();
    let entry = machine.words(machine.ste(DEVICE.0).unwrap());
    assert_eq!((entry[0] >> 59, entry[1] & 3), (0, 0), "S1CDMax, S1DSS");
}

#[test]
fn a_full_device_enable_is_rolled_back_when_memory_runs_out() {
    let (machine, unit) = probe(QEMU);
    let blocks = machine.memory.live_blocks();
    for allocations in 0..2 {
        machine.memory.fail_after(allocations);
        let error = unit.enable_device(DEVICE, PLAIN).unwrap_err();
        assert!(matches!(error, AttachError::OutOfMemory(_)), "{error}");
        assert_eq!(machine.memory.live_blocks(), blocks);
        assert_eq!(unit.device_config(DEVICE), None);
        assert_eq!(machine.recorder.take(), []);
    }
    machine.memory.fail_after(usize::MAX);
    unit.enable_device(DEVICE, PLAIN).unwrap();
}

#[test]
fn a_stopped_queue_names_the_cause_and_goes_on_where_it_can() {
    let (tlbi, sync) = (0x12, 0x46);
    let timeout = QueueError::DeviceTimeout { device: None };
    // Probe takes 4 slots, enabling 4, attaching 2.
    let cases = [
        (tlbi, 1, QueueError::IllegalCommand { slot: 10 }, true),
        (tlbi, 2, QueueError::MemoryFault, false),
        (sync, 3, timeout, true),
        (tlbi, 0x55, QueueError::Unknown { code: 0x55 }, false),
    ];
    for (opcode, code, error, goes_on) in cases {
        let (machine, unit) = attached(ATS, SHARED, NINE);
        let invalidation = Invalidation {
            targets: &[IOTLB],
            range: Range::new(0x1000, 0x2000).unwrap(),
            levels: Levels::All,
        };
        machine.trouble(Trouble::CommandFails(opcode, code));
        let bad = unit.submit(&invalidation).unwrap();
        let other = unit.submit(&invalidation).unwrap();
        assert_eq!(unit.wait(bad).map(drop), Err(error));
        let expected = if goes_on { Ok(()) } else { Err(error) };
        assert_eq!(unit.wait(other).map(drop), expected);
        let later = unit.submit(&invalidation);
        let later = later.and_then(|ticket| unit.wait(ticket)).map(drop);
        assert_eq!(later, expected);
    }
}

#[test]
fn an_attach_that_the_hardware_did_not_complete_leaves_no_valid_entry() {
    let (machine, unit) = probe(ATS);
    unit.enable_device(DEVICE, SHARED).unwrap();
    machine.trouble(Trouble::CommandFails(0x05, 1));
    let error = unit.attach(DEVICE, NINE, Tag(5), &TABLE).unwrap_err();
    assert!(
        matches!(error, AttachError::Queue(QueueError::IllegalCommand { .. })),
        "{error}"
    );
    assert_eq!(machine.words(machine.cd(DEVICE.0, 9))[0], 0);
    assert_eq!(
        unit.detach(DEVICE, NINE),
        Err(AttachError::UnknownPasid(DEVICE, NINE))
    );
}

#[test]
fn an_enable_that_the_hardware_did_not_complete_leaves_no_valid_entry() {
    let (machine, unit) = probe(QEMU);
    machine.trouble(Trouble::CommandFails(0x03, 1));
    let blocks = machine.memory.live_blocks();
    let error = unit.enable_device(DEVICE, PLAIN).unwrap_err();
    assert!(matches!(error, AttachError::Queue(_)), "{error}");
    assert_eq!(machine.words(machine.ste(DEVICE.0).unwrap())[0], 0);
    assert_eq!(unit.device_config(DEVICE), None);
    assert_eq!(
        machine.memory.live_blocks(),
        blocks + 2,
        "what the SMMU may have seen is kept"
    );
}

#[test]
fn a_detach_that_the_hardware_did_not_complete_keeps_the_pasid() {
    let (machine, unit) = attached(ATS, SHARED, NINE);
    machine.trouble(Trouble::CommandFails(0x11, 1));
    assert!(matches!(
        unit.detach(DEVICE, NINE),
        Err(AttachError::Queue(_))
    ));
    assert_eq!(
        unit.disable_device(DEVICE),
        Err(AttachError::PasidInUse(DEVICE, NINE))
    );
    assert!(machine.smmu.state().cr0 & (SMMUEN | CMDQEN) != 0);
}

#[test]
fn tags_are_asids_and_never_zero() {
    let (_machine, unit) = probe(QEMU);
    let first = unit.allocate_tag().unwrap();
    assert_eq!(first, Tag(1));
    unit.free_tag(first);
    let (_machine, narrow) = probe(Identity {
        idr0: QEMU.idr0 & !(1 << 12),
        ..QEMU
    });
    let mut tags: Vec<_> = core::iter::from_fn(|| narrow.allocate_tag().ok()).collect();
    assert_eq!((tags.len(), tags.pop()), (255, Some(Tag(255))));
}
