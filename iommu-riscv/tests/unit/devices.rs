//! Devices and their address spaces: commands, table contents, order of stores, errors.

use crate::fake::{ATS, Bench, CAPABILITIES, MSI_FLAT, PD17, PD20, Rig};
use crate::{PROBE_COMMANDS, Script};
use iommu_core::error::{AttachError, Incompatible, QueueError};
use iommu_core::ids::{DeviceId, Pasid, PhysicalAddress, Tag};
use iommu_core::iommu::{DeviceConfig, Iommu, PageFaults};
use iommu_core::page_table::{Format, PageTable};
use iommu_core::platform::WalkerCoherency;
use iommu_riscv::{Config, Unit};

const DEVICE: DeviceId = DeviceId(0x1234);
const TAG: Tag = Tag(0x2a);

/// IODIR, IOTINVAL and IOFENCE after a directory entry, in the device's words.
const INVAL_DDT: u64 = 0x1234 << 40 | 1 << 33 | 0x003;
const INVAL_PDT: u64 = 0x1234 << 40 | 1 << 33 | 0x083;
const INVAL_TAG: u64 = 1 << 32 | 0x2a << 12 | 0x001;
const ATS_INVAL: u64 = 0x1234 << 40 | 0x004;
const ATS_ALL: u64 = 0x7fff_ffff_ffff_f800;

const PLAIN: DeviceConfig = DeviceConfig {
    pasid_bits: 8,
    device_tlb: false,
    page_faults: PageFaults::Fatal,
};
const WITH_DEVICE_TLB: DeviceConfig = DeviceConfig {
    pasid_bits: 8,
    device_tlb: true,
    page_faults: PageFaults::Fatal,
};

pub fn pasid(value: u32) -> Pasid {
    Pasid::new(value).unwrap()
}

pub fn table() -> PageTable {
    PageTable {
        root: PhysicalAddress(0x8765_4000),
        format: Format::Riscv64 { levels: 3 },
        written_back: true,
    }
}

fn attached(bench: &Bench, config: DeviceConfig, pasid: Pasid) -> Unit<Rig> {
    let unit = bench.unit();
    unit.enable_device(DEVICE, config).unwrap();
    unit.attach(DEVICE, pasid, TAG, &table()).unwrap();
    bench.forget();
    unit
}

#[test]
fn enabling_a_device_gives_it_an_empty_process_directory() {
    let bench = Bench::new(CAPABILITIES);
    let unit = bench.unit();
    assert_eq!(unit.device_config(DEVICE), None);
    unit.enable_device(DEVICE, PLAIN).unwrap();
    let expected = Script::after(PROBE_COMMANDS).command(INVAL_DDT, 0).done();
    assert_eq!(bench.recorder.take(), expected.events);
    let context = bench.fake.device_context(0x1234).unwrap();
    // V, PDTV, DPE; PD8.
    assert_eq!(context[..3], [0x221, 0, 0]);
    assert_eq!(context[3] >> 60, 1);
    assert_eq!(context[4..], [0; 4]);
    assert_eq!(bench.fake.process_context(0x1234, 0), Some(vec![0, 0]));
    assert_eq!(bench.fake.device_context(0x1235).unwrap()[0], 0);
    assert_eq!(bench.fake.device_context(0x9234), None);
    assert_eq!(unit.device_config(DEVICE), Some(PLAIN));
}

#[test]
fn the_context_says_what_the_device_and_the_kernel_want() {
    let context = |capabilities, config, update_accessed_dirty| {
        let bench = Bench::new(capabilities);
        let config_of_unit = Config {
            update_accessed_dirty,
            ..Config::default()
        };
        let unit = bench.probe_with(config_of_unit).unwrap();
        unit.enable_device(DEVICE, config).unwrap();
        bench.fake.device_context(0x1234).unwrap()
    };
    let with_bits = |pasid_bits| DeviceConfig {
        pasid_bits,
        device_tlb: false,
        page_faults: PageFaults::Fatal,
    };
    assert_eq!(context(CAPABILITIES, WITH_DEVICE_TLB, false)[0], 0x223);
    assert_eq!(context(CAPABILITIES | 1 << 24, PLAIN, true)[0], 0x321);
    assert_eq!(context(CAPABILITIES & !MSI_FLAT, PLAIN, false).len(), 4);
    let mode = |capabilities, bits| context(capabilities, with_bits(bits), false)[3] >> 60;
    let all = CAPABILITIES | PD17 | PD20;
    assert_eq!(
        [0, 8, 9, 17, 18, 20].map(|bits| mode(all, bits)),
        [1, 1, 2, 2, 3, 3]
    );
    assert_eq!(mode(CAPABILITIES, 20), 1);
    assert_eq!(mode(CAPABILITIES & !(1 << 38) | PD17, 0), 2);
}

#[test]
fn attaching_makes_the_process_context_valid() {
    for (value, first) in [(0, INVAL_PDT), (5, INVAL_PDT | 5 << 12)] {
        let bench = Bench::new(CAPABILITIES);
        let unit = bench.unit();
        unit.enable_device(DEVICE, PLAIN).unwrap();
        bench.forget();
        unit.attach(DEVICE, pasid(value), TAG, &table()).unwrap();
        let expected = Script::after(PROBE_COMMANDS + 2)
            .command(first, 0)
            .command(INVAL_TAG, 0)
            .done();
        assert_eq!(bench.recorder.take(), expected.events);
        let context = vec![0x2a001, 8 << 60 | 0x87654];
        assert_eq!(
            bench.fake.process_context(0x1234, value),
            Some(context.clone())
        );
        assert_eq!(bench.fake.state().seen, [Some(context)]);
    }
}

#[test]
fn sv48_and_sv57_tables_have_their_own_modes() {
    let bench = Bench::new(CAPABILITIES | 1 << 11);
    let unit = bench.unit();
    unit.enable_device(DEVICE, PLAIN).unwrap();
    for levels in 3..=5u8 {
        let table = PageTable {
            format: Format::Riscv64 { levels },
            ..table()
        };
        let pasid = pasid(levels.into());
        unit.attach(DEVICE, pasid, TAG, &table).unwrap();
        let context = bench.fake.process_context(0x1234, levels.into()).unwrap();
        assert_eq!(context[1] >> 60, 5 + u64::from(levels));
    }
}

#[test]
fn larger_directories_grow_on_demand() {
    let bench = Bench::new(CAPABILITIES | PD17 | PD20);
    let unit = bench.unit();
    for (device, bits, pages) in [(0x0001, 17, [1, 0]), (0x0002, 20, [2, 1])] {
        let device = DeviceId(device);
        let config = DeviceConfig {
            pasid_bits: bits,
            device_tlb: false,
            page_faults: PageFaults::Fatal,
        };
        unit.enable_device(device, config).unwrap();
        let last = (1 << bits) - 1;
        for (value, expected) in [
            (last, pages[0]),
            (last - 1, 0),
            (last - 256, pages[1].min(1)),
        ] {
            let before = bench.memory.heap.live_blocks();
            unit.attach(device, pasid(value), TAG, &table()).unwrap();
            let grown = bench.memory.heap.live_blocks() - before;
            assert_eq!(grown, if value == last - 256 { 1 } else { expected });
            let context = bench.fake.process_context(device.0, value).unwrap();
            assert_eq!(context, [0x2a001, 8 << 60 | 0x87654]);
        }
        let too_wide = AttachError::PasidTooWide {
            pasid: pasid((1 << bits) & 0xf_ffff),
            bits,
        };
        if bits < 20 {
            let found = unit.attach(device, pasid(1 << bits), TAG, &table());
            assert_eq!(found, Err(too_wide));
        }
    }
}

#[test]
fn blocking_takes_the_context_the_iotlb_and_then_the_device_tlb() {
    let (value, first) = (5, INVAL_PDT | 5 << 12);
    let bench = Bench::new(CAPABILITIES);
    let unit = attached(&bench, WITH_DEVICE_TLB, pasid(value));
    unit.block(DEVICE, pasid(value)).unwrap();
    let expected = Script::after(PROBE_COMMANDS + 5)
        .command(first, 0)
        .done()
        // Commands may be executed out of order: the context is gone before the IOATC is emptied.
        .command(INVAL_TAG, 0)
        .done()
        .command(ATS_INVAL | 1 << 32 | 5 << 12, ATS_ALL)
        .done();
    assert_eq!(bench.recorder.take(), expected.events);
    // The context was invalid before it was invalidated, and its other word still in place.
    let seen = Some(vec![0, 8 << 60 | 0x87654]);
    assert_eq!(bench.fake.state().seen, [seen]);

    unit.block(DEVICE, pasid(value)).unwrap();
    unit.detach(DEVICE, pasid(value)).unwrap();
    assert_eq!(bench.recorder.take(), [], "nothing is left to invalidate");
    assert_eq!(bench.fake.process_context(0x1234, value), Some(vec![0, 0]));
}

#[test]
fn detaching_blocks_first() {
    let bench = Bench::new(CAPABILITIES);
    let unit = attached(&bench, PLAIN, Pasid::UNTAGGED);
    unit.detach(DEVICE, Pasid::UNTAGGED).unwrap();
    let expected = Script::after(PROBE_COMMANDS + 5)
        .command(INVAL_PDT, 0)
        .done()
        .command(INVAL_TAG, 0)
        .done();
    assert_eq!(bench.recorder.take(), expected.events);
    assert_eq!(bench.fake.process_context(0x1234, 0), Some(vec![0, 0]));
    unit.attach(DEVICE, Pasid::UNTAGGED, TAG, &table()).unwrap();
}

#[test]
fn an_untagged_device_tlb_is_asked_without_a_pasid() {
    let bench = Bench::new(CAPABILITIES);
    let unit = attached(&bench, WITH_DEVICE_TLB, Pasid::UNTAGGED);
    unit.detach(DEVICE, Pasid::UNTAGGED).unwrap();
    let commands = bench.recorder.take_commands();
    assert_eq!(commands[4], [ATS_INVAL, ATS_ALL]);
}

#[test]
fn disabling_takes_the_device_context_and_everything_cached_through_it() {
    let bench = Bench::new(CAPABILITIES);
    let unit = bench.unit();
    unit.enable_device(DEVICE, WITH_DEVICE_TLB).unwrap();
    let blocks = bench.memory.heap.live_blocks();
    bench.forget();
    unit.disable_device(DEVICE).unwrap();
    let expected = Script::after(PROBE_COMMANDS + 2)
        .command(INVAL_DDT, 0)
        .done()
        .command(0x001, 0)
        .done();
    assert_eq!(bench.recorder.take(), expected.events);
    let seen = bench.fake.state().seen.clone();
    let context = seen[0].clone().unwrap();
    assert_eq!(context[0], 0);
    assert_ne!(context[3], 0);
    assert_eq!(bench.fake.device_context(0x1234), Some(vec![0; 8]));
    assert_eq!(bench.memory.heap.live_blocks(), blocks - 1);
    assert_eq!(unit.device_config(DEVICE), None);
    unit.enable_device(DEVICE, PLAIN).unwrap();
}

#[test]
fn what_does_not_fit_is_refused_and_changes_nothing() {
    let bench = Bench::new(CAPABILITIES);
    let unit = attached(&bench, PLAIN, pasid(5));
    let other = DeviceId(0x777);
    let wide = DeviceId(1 << 24);
    assert_eq!(
        unit.enable_device(wide, PLAIN),
        Err(AttachError::DeviceIdTooWide(wide))
    );
    assert_eq!(
        unit.enable_device(DEVICE, PLAIN),
        Err(AttachError::DeviceInUse(DEVICE))
    );
    assert_eq!(
        unit.disable_device(other),
        Err(AttachError::UnknownDevice(other))
    );
    assert_eq!(
        unit.disable_device(DEVICE),
        Err(AttachError::PasidInUse(DEVICE, pasid(5)))
    );
    assert_eq!(
        unit.attach(other, pasid(5), TAG, &table()),
        Err(AttachError::UnknownDevice(other))
    );
    assert_eq!(
        unit.attach(DEVICE, pasid(5), TAG, &table()),
        Err(AttachError::PasidInUse(DEVICE, pasid(5)))
    );
    assert_eq!(
        unit.attach(DEVICE, pasid(256), TAG, &table()),
        Err(AttachError::PasidTooWide {
            pasid: pasid(256),
            bits: 8
        })
    );
    for unknown in [unit.block(DEVICE, pasid(6)), unit.detach(DEVICE, pasid(6))] {
        assert_eq!(unknown, Err(AttachError::UnknownPasid(DEVICE, pasid(6))));
    }
    assert_eq!(bench.recorder.take(), []);
    assert_eq!(bench.memory.take_published(), []);
    unit.detach(DEVICE, pasid(5)).unwrap();
    assert_eq!(
        unit.detach(DEVICE, pasid(5)),
        Err(AttachError::UnknownPasid(DEVICE, pasid(5)))
    );

    let bench = Bench::new(CAPABILITIES & !ATS);
    let unit = bench.unit();
    assert_eq!(
        unit.enable_device(DEVICE, WITH_DEVICE_TLB),
        Err(AttachError::NoDeviceTlb)
    );
    assert_eq!(bench.fake.device_context(0x1234), None);
}

#[test]
fn a_page_table_that_the_iommu_cannot_walk_is_refused() {
    let bench = Bench::new(CAPABILITIES & !(0x3f << 32) | 40 << 32);
    let unit = attached(&bench, PLAIN, pasid(5));
    let cases = [
        (
            PageTable {
                format: Format::X86_64 { levels: 4 },
                ..table()
            },
            Incompatible::Architecture,
        ),
        (
            PageTable {
                format: Format::Riscv64 { levels: 5 },
                ..table()
            },
            Incompatible::VirtualAddressBits { cpu: 57, iommu: 48 },
        ),
        (
            PageTable {
                root: PhysicalAddress(1 << 40),
                ..table()
            },
            Incompatible::Root,
        ),
        (
            PageTable {
                root: PhysicalAddress(0x800),
                ..table()
            },
            Incompatible::Root,
        ),
    ];
    for (table, reason) in cases {
        assert_eq!(unit.check(&table), Err(reason));
        let found = unit.attach(DEVICE, pasid(6), TAG, &table);
        assert_eq!(found, Err(AttachError::Incompatible(reason)));
    }
    assert_eq!(unit.check(&table()), Ok(()));
    assert_eq!(bench.recorder.take(), []);
}

fn non_coherent(bench: &Bench) -> Unit<Rig> {
    let config = Config {
        coherency: WalkerCoherency::NonCoherent,
        ..Config::default()
    };
    bench.probe_with(config).unwrap()
}

#[test]
fn an_iommu_that_does_not_snoop_refuses_tables_that_are_not_written_back() {
    let bench = Bench::new(CAPABILITIES);
    let unit = non_coherent(&bench);
    let table = PageTable {
        written_back: false,
        ..table()
    };
    assert_eq!(unit.check(&table), Err(Incompatible::NonCoherentWalk));
}

/// With an IOMMU that does not snoop, each publication is a cleaning, so what the hardware can see
/// is known step by step.
#[test]
fn the_valid_word_is_published_last_and_withdrawn_first() {
    let bench = Bench::new(CAPABILITIES);
    let unit = non_coherent(&bench);
    bench.memory.take_published();
    let directory = crate::DIRECTORY;
    // Allocations after the probe's five: process directory, leaf and middle page.
    let (process, leaf, middle) = (6u64 << 32, 7u64 << 32, 8u64 << 32);
    let tables = || {
        let published = bench.memory.take_published();
        let places = [directory, process, leaf, middle];
        let in_tables = |address: &u64| places.contains(&(address & !0xfff));
        published
            .into_iter()
            .filter(|(address, _)| in_tables(address))
            .collect::<Vec<_>>()
    };
    let empty = |page: u64| (page, vec![0; 512]);

    unit.enable_device(DEVICE, PLAIN).unwrap();
    // 0x1234: DDI[0] = 0x34, DDI[1] = 0x48, DDI[2] = 0.
    let context = leaf + 0x34 * 64;
    let expected = vec![
        empty(process),
        empty(leaf),
        empty(middle),
        (middle + 0x48 * 8, vec![leaf >> 2 | 1]),
        (directory, vec![middle >> 2 | 1]),
        (context + 8, vec![0, 0, 1 << 60 | process >> 12]),
        (context, vec![0x221]),
    ];
    assert_eq!(tables(), expected);

    unit.attach(DEVICE, pasid(5), TAG, &table()).unwrap();
    let entry = process + 5 * 16;
    let root = 8 << 60 | 0x87654;
    let expected = [(entry + 8, vec![root]), (entry, vec![0x2a001])];
    assert_eq!(tables(), expected);

    unit.block(DEVICE, pasid(5)).unwrap();
    assert_eq!(tables(), [(entry, vec![0])]);
    unit.detach(DEVICE, pasid(5)).unwrap();
    assert_eq!(tables(), [(entry + 8, vec![0])]);

    unit.disable_device(DEVICE).unwrap();
    let expected = [(context, vec![0]), (context + 8, vec![0; 7])];
    assert_eq!(tables(), expected);
}

#[test]
fn without_memory_a_device_or_pasid_stays_out() {
    for allocations in 0..3 {
        let bench = Bench::new(CAPABILITIES);
        let unit = bench.unit();
        let blocks = bench.memory.heap.live_blocks();
        bench.memory.heap.fail_after(allocations);
        let error = unit.enable_device(DEVICE, PLAIN);
        assert!(
            matches!(error, Err(AttachError::OutOfMemory(_))),
            "{error:?}"
        );
        assert_eq!(bench.memory.heap.live_blocks(), blocks);
        assert_eq!(bench.fake.device_context(0x1234), None);
        assert_eq!(bench.recorder.take(), []);
        bench.memory.heap.fail_after(usize::MAX);
        unit.enable_device(DEVICE, PLAIN).unwrap();
    }
    let bench = Bench::new(CAPABILITIES | PD20);
    let unit = bench.unit();
    let config = DeviceConfig {
        pasid_bits: 20,
        device_tlb: false,
        page_faults: PageFaults::Fatal,
    };
    unit.enable_device(DEVICE, config).unwrap();
    let blocks = bench.memory.heap.live_blocks();
    bench.memory.heap.fail_after(1);
    let error = unit.attach(DEVICE, pasid(0x54321), TAG, &table());
    assert!(
        matches!(error, Err(AttachError::OutOfMemory(_))),
        "{error:?}"
    );
    assert_eq!(bench.memory.heap.live_blocks(), blocks);
    bench.memory.heap.fail_after(usize::MAX);
    unit.attach(DEVICE, pasid(0x54321), TAG, &table()).unwrap();
}

#[test]
fn a_failing_queue_fails_the_change_and_leaves_no_valid_entry() {
    let failed = Err(AttachError::Queue(QueueError::MemoryFault));
    let bench = Bench::new(CAPABILITIES);
    let unit = bench.unit();
    bench.fake.state().fail = Some((0x003, 1 << 8));
    assert_eq!(unit.enable_device(DEVICE, PLAIN), failed);
    assert_eq!(bench.fake.device_context(0x1234).unwrap()[0], 0);
    assert_eq!(unit.device_config(DEVICE), None);

    let bench = Bench::new(CAPABILITIES);
    let unit = bench.unit();
    unit.enable_device(DEVICE, PLAIN).unwrap();
    bench.fake.state().fail = Some((0x083, 1 << 8));
    assert_eq!(unit.attach(DEVICE, pasid(5), TAG, &table()), failed);
    assert_eq!(bench.fake.process_context(0x1234, 5).unwrap()[0], 0);

    let bench = Bench::new(CAPABILITIES);
    let unit = attached(&bench, WITH_DEVICE_TLB, pasid(5));
    bench.fake.state().fail = Some((0x002, 1 << 9));
    let timeout = QueueError::DeviceTimeout { device: None };
    assert_eq!(unit.detach(DEVICE, pasid(5)), Err(timeout.into()));
    assert_eq!(bench.fake.process_context(0x1234, 5).unwrap()[0], 0);
    assert_eq!(
        unit.attach(DEVICE, pasid(5), TAG, &table()),
        Err(AttachError::PasidInUse(DEVICE, pasid(5)))
    );
}

#[test]
fn tags_are_pscids_and_begin_at_one() {
    let bench = Bench::new(CAPABILITIES);
    let unit = bench.unit();
    let first = unit.allocate_tag().unwrap();
    assert_eq!(first, Tag(1));
    assert_eq!(unit.allocate_tag().unwrap(), Tag(2));
    unit.free_tag(first);
    assert_eq!(unit.allocate_tag().unwrap(), Tag(1));
}
