use crate::fake::{IQE, IRE, ITE, QIE, SRTP, TE, WBF};
use crate::rig::*;
use iommu_core::error::Incompatible;
use iommu_core::error::{AttachError, ProbeError, QueueError};
use iommu_core::ids::{PhysicalAddress, Tag};
use iommu_core::iommu::{Features, Iommu};
use iommu_core::page_table::{Format, PageTable};

#[test]
fn probe_turns_translation_on_over_an_empty_root_table() {
    let rig = Rig::plain();
    rig.hardware(|state| {
        assert_eq!(state.commands, [(QIE, true), (SRTP, true), (TE, true)]);
        assert_eq!(state.gsts & (TE | QIE | IRE), TE | QIE);
        assert_eq!(state.fectl, 1 << 31);
    });
    let root = rig.hardware(|state| state.root);
    assert!((0..512).all(|word| rig.bench.load(root + 8 * word) == 0));
    let features = Features {
        pasid_bits: 20,
        device_tlb: true,
        iotlb_keyed_by_pasid: true,
        chained_sync: true,
        caches_not_present: false,
        page_requests: true,
        stall: false,
    };
    assert_eq!(rig.unit.features(), features);
    let caching = Rig::new(QEMU_CAP | 1 << 7, COHERENT_ECAP).unit.features();
    assert!(caching.caches_not_present);
}

/// Descriptors from Linux's macros: QI_CC_GRAN(global) | 1; QI_PC_GRAN(3) | 7;
/// QI_IOTLB_DR | QI_IOTLB_DW | QI_IOTLB_GRAN(global) | 2.
#[test]
fn probe_invalidates_everything_unless_the_hardware_does() {
    let bench = Bench::new(QEMU_CAP & !ESRTPS, COHERENT_ECAP);
    let unit = bench.probe().unwrap();
    let expected = list(&[(0x11, 0), (0x37, 0), (0xd2, 0)]);
    assert_eq!(bench.journal.take(), expected);
    drop(unit);

    let bench = Bench::new(QEMU_CAP, COHERENT_ECAP);
    let unit = bench.probe().unwrap();
    assert_eq!(bench.journal.take(), []);
    drop(unit);
}

#[test]
fn draining_is_asked_for_only_where_it_is_offered() {
    for (offered, low) in [(0, 0x12), (1 << 54, 0x52), (1 << 55, 0x92)] {
        let cap = QEMU_CAP & !ESRTPS & !(3 << 54) | offered;
        let bench = Bench::new(cap, COHERENT_ECAP);
        let _unit = bench.probe().unwrap();
        assert!(bench.journal.take().contains(&Step::Command(low, 0)));
    }
}

#[test]
fn what_firmware_left_on_goes_off_first() {
    let protected = QEMU_CAP | 1 << 5;
    let bench = Bench::new(protected, COHERENT_ECAP);
    bench.hardware.with(|state| state.leave_firmware_on());
    let _unit = bench.probe().unwrap();
    bench.hardware.with(|state| {
        let off = [(TE, false), (IRE, false), (QIE, false)];
        assert_eq!(state.commands[..3], off);
        assert_eq!(state.commands[3..], [(QIE, true), (SRTP, true), (TE, true)]);
        assert_eq!((state.fsts, state.pmen), (0, 0));
    });
}

#[test]
fn errors_of_a_queue_that_is_off_are_acknowledged() {
    let bench = Bench::new(QEMU_CAP, COHERENT_ECAP);
    bench.hardware.with(|state| state.fsts = ITE | IQE);
    let _unit = bench.probe().unwrap();
    assert_eq!(bench.hardware.with(|state| state.fsts), 0);
}

#[test]
fn the_protected_regions_stay_alone_without_the_capability() {
    let bench = Bench::new(QEMU_CAP, COHERENT_ECAP);
    bench.hardware.with(|state| state.pmen = 1 << 31 | 1);
    let _unit = bench.probe().unwrap();
    assert_eq!(bench.hardware.with(|state| state.pmen), 1 << 31 | 1);
}

#[test]
fn each_missing_capability_is_named_and_leaves_everything_off() {
    let cases = [(1, "QI"), (43, "SMTS"), (40, "PASID"), (47, "FSTS")];
    for (bit, name) in cases {
        let ecap = COHERENT_ECAP & !(1 << bit);
        let bench = Bench::new(QEMU_CAP, ecap);
        bench.hardware.with(|state| state.leave_firmware_on());
        let error = bench.probe().unwrap_err();
        let ProbeError::MissingCapability {
            capability,
            register,
            value,
        } = error
        else {
            panic!("{error}");
        };
        assert!(capability.contains(name) && register == "ECAP_REG" && value == ecap);
        bench
            .hardware
            .with(|state| assert_eq!(state.gsts & (TE | QIE | IRE), 0));
        assert_eq!(bench.heap.live_blocks(), 0);
    }
}

#[test]
fn registers_of_all_ones_are_no_hardware() {
    let bench = Bench::new(u64::MAX, u64::MAX);
    assert_eq!(bench.probe().unwrap_err(), ProbeError::NotPresent);
}

#[test]
fn hardware_that_never_answers_ends_in_a_time_out() {
    for stuck in [QIE, SRTP, TE] {
        let bench = Bench::new(QEMU_CAP, COHERENT_ECAP);
        bench.hardware.with(|state| state.stuck = stuck);
        assert!(
            matches!(bench.probe(), Err(ProbeError::Timeout(_))),
            "{stuck:#x}"
        );
        bench
            .hardware
            .with(|state| assert_eq!(state.gsts & (TE | QIE), 0));
        assert_eq!(bench.heap.live_blocks(), 0);
    }
    let bench = Bench::new(QEMU_CAP | RWBF, COHERENT_ECAP);
    bench.hardware.with(|state| state.stuck = WBF);
    assert!(matches!(bench.probe(), Err(ProbeError::Timeout(_))));
}

#[test]
fn a_queue_that_fails_or_keeps_silent_leaves_everything_off() {
    let bench = Bench::new(QEMU_CAP & !ESRTPS, COHERENT_ECAP);
    bench.hardware.with(|state| state.silent = true);
    let error = bench.probe().unwrap_err();
    assert!(
        matches!(error, ProbeError::Queue(QueueError::Timeout(_))),
        "{error}"
    );
    bench
        .hardware
        .with(|state| assert_eq!(state.gsts & (TE | QIE), 0));
}

#[test]
fn memory_is_freed_only_if_the_hardware_stops() {
    let rig = Rig::plain();
    let heap = rig.bench.heap.clone();
    rig.unit.disable().unwrap();
    assert_eq!(heap.live_blocks(), 0);

    let rig = Rig::plain();
    rig.hardware(|state| state.stuck = TE);
    let heap = rig.bench.heap.clone();
    assert!(rig.unit.disable().is_err());
    assert_ne!(heap.live_blocks(), 0);
}

#[test]
fn every_allocation_may_fail() {
    for left in 0.. {
        let bench = Bench::new(QEMU_CAP, COHERENT_ECAP);
        bench.heap.fail_after(left);
        match bench.probe() {
            Err(error) => assert!(matches!(error, ProbeError::OutOfMemory(_))),
            Ok(_) => return assert_eq!(left, 5),
        }
        bench
            .hardware
            .with(|state| assert_eq!(state.gsts & (TE | QIE), 0));
        assert_eq!(bench.heap.live_blocks(), 0);
    }
}

#[test]
fn queue_errors_say_what_happened() {
    let fails = |set: fn(&mut crate::fake::State)| {
        let rig = Rig::plain().attached(WITHOUT_TLB, pasid(9));
        rig.hardware(set);
        rig.unit.block(DEVICE, pasid(9)).unwrap_err()
    };
    assert_eq!(
        fails(|state| state.reject_next = true),
        AttachError::Queue(QueueError::IllegalCommand { slot: 0 })
    );
    assert_eq!(
        fails(|state| (state.reject_next, state.iqercd) = (true, 2)),
        AttachError::Queue(QueueError::MemoryFault)
    );
    assert_eq!(
        fails(|state| (state.fsts, state.iqercd) = (ITE, 0x20 << 32)),
        AttachError::Queue(QueueError::DeviceTimeout {
            device: Some(DEVICE)
        })
    );
    assert_eq!(
        fails(|state| state.fsts = ITE),
        AttachError::Queue(QueueError::DeviceTimeout { device: None })
    );
    assert!(matches!(
        fails(|state| state.silent = true),
        AttachError::Queue(QueueError::Timeout(_))
    ));
}

#[test]
fn a_queue_that_a_device_has_stopped_still_goes_off() {
    let rig = Rig::plain().attached(WITHOUT_TLB, pasid(9));
    rig.hardware(|state| state.fsts = ITE);
    rig.unit.block(DEVICE, pasid(9)).unwrap_err();
    assert_eq!(rig.unit.disable(), Ok(()));
    rig.bench
        .hardware
        .with(|state| assert_eq!(state.gsts & (TE | QIE), 0));
}

#[test]
fn the_slot_of_an_illegal_command_is_its_own() {
    let rig = Rig::plain().attached(WITHOUT_TLB, pasid(9));
    rig.unit.disable_device(DEVICE).unwrap_err();
    rig.unit.block(DEVICE, pasid(9)).unwrap();
    rig.unit.attach(DEVICE, pasid(8), TAG, &TABLE).unwrap();
    rig.hardware(|state| state.reject_next = true);
    // The first block took three slots.
    let slot = 3;
    assert_eq!(
        rig.unit.block(DEVICE, pasid(8)),
        Err(AttachError::Queue(QueueError::IllegalCommand { slot }))
    );
    rig.hardware(|state| assert_eq!(state.fsts & IQE, 0, "acknowledged, and the queue goes on"));
}

#[test]
fn an_unexpected_answer_of_a_device_is_acknowledged_and_does_not_stop_the_queue() {
    let rig = Rig::plain().attached(WITHOUT_TLB, pasid(9));
    rig.hardware(|state| (state.fsts, state.silent) = (crate::fake::ICE, true));
    let error = rig.unit.block(DEVICE, pasid(9)).unwrap_err();
    assert!(matches!(error, AttachError::Queue(QueueError::Timeout(_))));
    rig.hardware(|state| assert_eq!(state.fsts, 0));
}

#[test]
fn tags_start_at_one_and_end_with_the_domain_ids() {
    let rig = Rig::new(QEMU_CAP & !7, COHERENT_ECAP);
    let tags: Vec<_> = core::iter::from_fn(|| rig.unit.allocate_tag().ok()).collect();
    assert_eq!(tags, (1..16).map(Tag).collect::<Vec<_>>());
    rig.unit.free_tag(Tag(3));
    assert_eq!(rig.unit.allocate_tag(), Ok(Tag(3)));
    for (nd, last) in [(1, 63), (6, 0xffff), (7, 0xffff)] {
        let capabilities = iommu_vtd::caps::Capabilities::from_registers(nd, 0);
        assert_eq!(capabilities.last_tag(), last);
    }
}

#[test]
fn a_page_table_must_fit_the_hardware() {
    let rig = Rig::plain();
    let check = |table| rig.unit.check(&table);
    let levels = |levels| PageTable {
        format: Format::X86_64 { levels },
        ..TABLE
    };
    assert_eq!(check(TABLE), Ok(()));
    let widths = |cpu| Err(Incompatible::VirtualAddressBits { cpu, iommu: 48 });
    assert_eq!(check(levels(5)), widths(57));
    assert_eq!(check(levels(3)), widths(39));
    let riscv = PageTable {
        format: Format::Riscv64 { levels: 4 },
        ..TABLE
    };
    assert_eq!(check(riscv), Err(Incompatible::Architecture));
    for root in [0x1234_5008, 1 << 52] {
        let table = PageTable {
            root: PhysicalAddress(root),
            ..TABLE
        };
        assert_eq!(check(table), Err(Incompatible::Root));
    }
    let five = Rig::new(QEMU_CAP | 1 << 60, COHERENT_ECAP);
    assert_eq!(five.unit.check(&levels(5)), Ok(()));
    assert_eq!(five.unit.check(&TABLE), Ok(()));
}

#[test]
fn walks_that_do_not_snoop_want_a_table_that_is_written_back() {
    let rig = Rig::new(QEMU_CAP, COHERENT_ECAP & !(1 << 48));
    assert_eq!(rig.unit.check(&TABLE), Err(Incompatible::NonCoherentWalk));
    let written_back = PageTable {
        written_back: true,
        ..TABLE
    };
    assert_eq!(rig.unit.check(&written_back), Ok(()));
}
