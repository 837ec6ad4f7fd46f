//! A device whose device TLB never answers.

mod fake;

extern crate alloc;

use alloc::sync::Arc;
use core_notifier::Srcu;
use fake::{Identity, Machine, Platform, QEMU, Trouble};
use iommu_core::Range;
use iommu_core::error::{AttachError, QueueError};
use iommu_core::flush::flush;
use iommu_core::ids::{DeviceId, Pasid, PhysicalAddress, Tag};
use iommu_core::invalidation_set::{Attachment, InvalidationSet};
use iommu_core::iommu::{DeviceConfig, Iommu, PageFaults};
use iommu_core::operation::Levels;
use iommu_core::page_table::{Format, PageTable};
use iommu_smmuv3::Unit;

/// QEMU's, with ATS and 20-bit SubstreamIDs; no MSI, so that every CMD_SYNC looks the same.
const ATS: Identity = Identity {
    idr0: QEMU.idr0 | 1 << 10,
    idr1: QEMU.idr1 | 20 << 6,
    ..QEMU
};
const DEVICE: DeviceId = DeviceId(0x108);
const OTHER: DeviceId = DeviceId(0x110);
const NINE: Pasid = Pasid::new(9).unwrap();
const TAG: Tag = Tag(5);
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
const SILENT: QueueError = QueueError::DeviceTimeout {
    device: Some(DEVICE),
};

const SYNC: [u64; 2] = [0x46, 0];
const TLBI: [u64; 2] = [0x0005_0000_0000_0012, 0x1000];
const ATC: [u64; 2] = [0x0000_0108_0000_9840, 0x1000];
const OTHERS_ATC: [u64; 2] = [0x0000_0110_0000_9840, 0x1000];
/// CMD_CFGI_STE, CMD_TLBI_NSNH_ALL.
const CUT_OFF: [[u64; 2]; 4] = [[0x0000_0108_0000_0003, 1], SYNC, [0x30, 0], SYNC];

/// PASID 9 on two devices, the first of which never answers.
struct Scene {
    machine: Machine,
    unit: Arc<Unit<Platform>>,
    set: InvalidationSet,
}

impl Scene {
    fn new() -> Self {
        let machine = Machine::new(ATS);
        let unit = Arc::new(Unit::probe(machine.parts()).unwrap());
        let set = InvalidationSet::new(Arc::new(Srcu::new()));
        let iommu: Arc<dyn Iommu> = unit.clone();
        for device in [DEVICE, OTHER] {
            unit.enable_device(device, SHARED).unwrap();
            unit.attach(device, NINE, TAG, &TABLE).unwrap();
            let attachment = Attachment {
                device,
                pasid: NINE,
                tag: TAG,
                device_tlb: true,
            };
            drop(set.add(&iommu, attachment));
        }
        machine.smmu.state().silent_device = Some(DEVICE.0);
        machine.recorder.take();
        Self { machine, unit, set }
    }

    fn flush(&self) -> Result<(), QueueError> {
        let range = Range::new(0x1000, 0x2000).unwrap();
        flush(&self.set, range, Levels::All)
    }

    fn commands(&self) -> Vec<Vec<u64>> {
        self.machine.recorder.take_commands()
    }

    fn is_valid(&self) -> bool {
        self.machine.words(self.machine.ste(DEVICE.0).unwrap())[0] & 1 != 0
    }
}

#[test]
fn a_silent_device_is_named_and_the_others_are_done() {
    let scene = Scene::new();
    assert_eq!(scene.flush(), Err(SILENT));
    let whole = [TLBI, SYNC, ATC, OTHERS_ATC, SYNC];
    // The hardware does not say who it was, so each is asked alone.
    let alone = [TLBI, SYNC, ATC, SYNC, ATC, SYNC, OTHERS_ATC, SYNC];
    assert_eq!(scene.commands(), [&whole[..], &alone].concat());
    assert_eq!(scene.flush(), Err(SILENT), "at once, without asking it");
    assert_eq!(scene.commands(), [TLBI, SYNC, OTHERS_ATC, SYNC]);
}

#[test]
fn a_quarantine_withdraws_the_entry_and_asks_the_device_nothing() {
    let scene = Scene::new();
    assert_eq!(scene.flush(), Err(SILENT));
    scene.commands();
    scene.unit.quarantine(DEVICE).unwrap();
    assert_eq!(scene.commands(), CUT_OFF);
    assert!(scene.unit.is_quarantined(DEVICE) && !scene.unit.is_quarantined(OTHER));
    assert!(!scene.is_valid());
    scene.unit.quarantine(DEVICE).unwrap();
    assert!(scene.commands().is_empty());

    assert_eq!(scene.flush(), Ok(()));
    assert_eq!(scene.commands(), [TLBI, SYNC, OTHERS_ATC, SYNC]);
    scene.unit.detach(DEVICE, NINE).unwrap();
    let (cd, asid) = ([0x0000_0108_0000_9005, 1], [0x0005_0000_0000_0011, 0]);
    assert_eq!(scene.commands(), [cd, SYNC, asid, SYNC, cd, SYNC]);
    scene.unit.disable_device(DEVICE).unwrap();
    assert_eq!(scene.commands(), [CUT_OFF[0], SYNC]);
    assert!(!scene.unit.is_quarantined(DEVICE));
}

#[test]
fn a_device_that_is_restored_is_asked_again() {
    let scene = Scene::new();
    scene.unit.quarantine(DEVICE).unwrap();
    scene.machine.smmu.state().silent_device = None;
    scene.commands();
    scene.unit.restore(DEVICE).unwrap();
    let (untagged, tagged) = ([0x0000_0108_0000_0040, 52], [0x0000_0108_0000_9840, 52]);
    let expected = [&CUT_OFF[..], &[untagged, SYNC, tagged, SYNC]].concat();
    assert_eq!(scene.commands(), expected);
    assert!(scene.is_valid() && !scene.unit.is_quarantined(DEVICE));
    assert_eq!(scene.flush(), Ok(()));
    assert_eq!(scene.commands(), [TLBI, SYNC, ATC, OTHERS_ATC, SYNC]);
    assert!(scene.unit.suspect(DEVICE), "a new failure is news");
}

#[test]
fn a_device_that_is_still_silent_stays_in_quarantine() {
    let scene = Scene::new();
    scene.unit.quarantine(DEVICE).unwrap();
    let error = QueueError::DeviceTimeout { device: None };
    assert_eq!(scene.unit.restore(DEVICE), Err(AttachError::Queue(error)));
    assert!(scene.unit.is_quarantined(DEVICE) && !scene.is_valid());
    assert_eq!(scene.flush(), Ok(()));
}

#[test]
fn a_device_that_could_not_be_cut_off_is_not_left_out() {
    let scene = Scene::new();
    scene.machine.trouble(Trouble::CommandFails(0x30, 1));
    assert!(scene.unit.quarantine(DEVICE).is_err());
    assert!(!scene.unit.is_quarantined(DEVICE));
    scene.unit.quarantine(DEVICE).unwrap();
    assert!(scene.unit.is_quarantined(DEVICE));
}

#[test]
fn an_unknown_device_is_not_quarantined() {
    let scene = Scene::new();
    for device in [DeviceId(0x118), DeviceId(0x1_0000)] {
        let unknown = Err(AttachError::UnknownDevice(device));
        assert_eq!(scene.unit.quarantine(device), unknown);
        assert_eq!(scene.unit.restore(device), unknown);
        assert!(!scene.unit.is_quarantined(device));
    }
    assert!(scene.commands().is_empty());
}
