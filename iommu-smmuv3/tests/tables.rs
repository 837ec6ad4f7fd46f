//! In which order table words become visible, and which page tables are accepted.
//!
//! With an SMMU that does not snoop, memory is what was cleaned: the observer sees the entry at each
//! step as the hardware could.

extern crate alloc;

mod fake;

use alloc::sync::Arc;
use fake::memory::{ObservedMemory, ObservedPlatform};
use fake::{FULL, Identity, Machine, QEMU};
use iommu_core::error::Incompatible;
use iommu_core::ids::{DeviceId, Pasid, PhysicalAddress, Tag};
use iommu_core::iommu::{DeviceConfig, Iommu, PageFaults};
use iommu_core::page_table::{Format, PageTable};
use iommu_smmuv3::Unit;

const PAST_CACHES: Identity = Identity {
    idr0: FULL.idr0 & !(1 << 4),
    ..FULL
};
const DEVICE: DeviceId = DeviceId(0x108);
const NINE: Pasid = Pasid::new(9).unwrap();
const CONFIG: DeviceConfig = DeviceConfig {
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
    written_back: true,
};

fn observed() -> (Machine, Arc<ObservedMemory>, Unit<ObservedPlatform>) {
    let machine = Machine::new(PAST_CACHES);
    let (memory, parts) = machine.observed_parts();
    let unit = Unit::probe(parts).unwrap();
    (machine, memory, unit)
}

/// For each step: whether the valid bit `valid` is set, and whether words 1 to 7 are filled.
fn steps(published: &[[u64; 8]], valid: u64) -> Vec<(bool, bool)> {
    let step = |words: &[u64; 8]| {
        (
            words[0] & valid != 0,
            words[1..].iter().any(|&word| word != 0),
        )
    };
    published.iter().map(step).collect()
}

#[test]
fn a_stream_table_entry_becomes_valid_last_and_invalid_first() {
    let (machine, memory, unit) = observed();
    unit.enable_device(DEVICE, CONFIG).unwrap();
    let entry = machine.ste(DEVICE.0).unwrap();
    assert_eq!(steps(&memory.take(entry), 1), [(false, true), (true, true)]);
    unit.disable_device(DEVICE).unwrap();
    assert_eq!(
        steps(&memory.take(entry), 1),
        [(false, true), (false, false)]
    );
}

#[test]
fn a_leaf_is_zeroed_before_its_descriptor_leads_to_it() {
    let (machine, _memory, unit) = observed();
    unit.enable_device(DEVICE, CONFIG).unwrap();
    // The walk is the fake's own: the neighbour is reachable and invalid, another bus is not.
    let neighbour = machine.ste(DEVICE.0 + 1).unwrap();
    assert_eq!(machine.words(neighbour), [0; 8]);
    assert!(machine.memory.was_cleaned(PhysicalAddress(neighbour)));
    let level_1 = (machine.smmu.state().strtab_base & 0x00ff_ffff_ffff_ffc0) + 8;
    machine.memory.forget_cleaned();
    unit.enable_device(DeviceId(0x109), CONFIG).unwrap();
    assert!(!machine.memory.was_cleaned(PhysicalAddress(level_1)));
    unit.enable_device(DeviceId(0x208), CONFIG).unwrap();
    assert!(machine.memory.was_cleaned(PhysicalAddress(level_1 + 8)));
    assert_eq!(machine.ste(0x308), None);
}

#[test]
fn a_context_descriptor_becomes_valid_last_is_blocked_by_one_word_and_invalid_first() {
    let (machine, memory, unit) = observed();
    unit.enable_device(DEVICE, CONFIG).unwrap();
    let descriptor = machine.cd(DEVICE.0, 9);
    memory.take(descriptor);
    let valid = 1 << 31;

    unit.attach(DEVICE, NINE, Tag(5), &TABLE).unwrap();
    let attach = memory.take(descriptor);
    assert_eq!(steps(&attach, valid), [(false, true), (true, true)]);

    unit.block(DEVICE, NINE).unwrap();
    let block = memory.take(descriptor);
    assert_eq!(block.len(), 1);
    assert_eq!(block[0][1..], attach[1][1..], "only the first word changed");
    assert_eq!(
        block[0][0] ^ attach[1][0],
        5 << 48 | 1 << 14 | 1 << 45,
        "ASID, EPD0 and R"
    );

    unit.detach(DEVICE, NINE).unwrap();
    assert_eq!(
        steps(&memory.take(descriptor), valid),
        [(false, true), (false, false)]
    );
}

#[test]
fn tables_are_walked_past_the_caches_if_the_smmu_does_not_snoop() {
    let (machine, _memory, unit) = observed();
    unit.enable_device(DEVICE, CONFIG).unwrap();
    unit.attach(DEVICE, NINE, Tag(5), &TABLE).unwrap();
    let entry = machine.words(machine.ste(DEVICE.0).unwrap());
    assert_eq!(entry[1] >> 2 & 0x3f, 0b10_0000, "S1CIR, S1COR, S1CSH");
    let descriptor = machine.words(machine.cd(DEVICE.0, 9));
    assert_eq!(descriptor[0] >> 8 & 0x3f, 0b10_0000, "IR0, OR0, SH0");
}

fn check(identity: Identity, table: PageTable) -> Result<(), Incompatible> {
    let machine = Machine::new(identity);
    Unit::probe(machine.parts()).unwrap().check(&table)
}

fn with(virtual_bits: u8, physical_bits: u8, root: u64) -> PageTable {
    let format = Format::Aarch64 {
        virtual_bits,
        physical_bits,
        memory_attributes: 0xff,
    };
    PageTable {
        root: PhysicalAddress(root),
        format,
        written_back: false,
    }
}

#[test]
fn page_tables_that_cannot_be_walked() {
    assert_eq!(check(QEMU, with(48, 44, 0x1000)), Ok(()));
    assert_eq!(check(QEMU, with(25, 32, 0x1000)), Ok(()));
    let levels = PageTable {
        format: Format::X86_64 { levels: 4 },
        ..TABLE
    };
    assert_eq!(check(QEMU, levels), Err(Incompatible::Architecture));
    for cpu in [0, 24, 49, 52, 64, 255] {
        let expected = Incompatible::VirtualAddressBits { cpu, iommu: 48 };
        assert_eq!(check(QEMU, with(cpu, 44, 0x1000)), Err(expected));
    }
    for cpu in [0, 33, 48, 52, 255] {
        let expected = Incompatible::PhysicalAddressBits { cpu, iommu: 44 };
        assert_eq!(check(QEMU, with(48, cpu, 0x1000)), Err(expected));
    }
}

#[test]
fn a_root_that_the_smmu_would_round_or_cannot_reach() {
    assert_eq!(
        check(QEMU, with(48, 44, 0x1800)),
        Err(Incompatible::Root),
        "aligned to 4 KiB"
    );
    assert_eq!(
        check(QEMU, with(48, 40, 1 << 40)),
        Err(Incompatible::Root),
        "beyond IPS"
    );
    // 40 bits: two entries in the first table.
    assert_eq!(check(QEMU, with(40, 44, 0x1010)), Ok(()));
    assert_eq!(check(QEMU, with(40, 44, 0x1008)), Err(Incompatible::Root));
}

#[test]
fn walks_that_do_not_snoop_need_a_kernel_that_writes_back() {
    let hidden = PageTable {
        written_back: false,
        ..TABLE
    };
    assert_eq!(
        check(PAST_CACHES, hidden),
        Err(Incompatible::NonCoherentWalk)
    );
    assert_eq!(check(PAST_CACHES, TABLE), Ok(()));
    assert_eq!(check(FULL, hidden), Ok(()));
}
