//! A device whose device TLB never answers.

use crate::devices::{pasid, table};
use crate::fake::{Bench, CAPABILITIES, Rig};
use alloc::sync::Arc;
use core_notifier::Srcu;
use iommu_core::Range;
use iommu_core::error::{AttachError, QueueError};
use iommu_core::flush::flush;
use iommu_core::ids::{DeviceId, Tag};
use iommu_core::invalidation_set::{Attachment, InvalidationSet};
use iommu_core::iommu::{DeviceConfig, Iommu, PageFaults};
use iommu_core::operation::Levels;
use iommu_riscv::Unit;

const DEVICE: DeviceId = DeviceId(0x1234);
const OTHER: DeviceId = DeviceId(0x1235);
const TAG: Tag = Tag(0x2a);
const WITH_TLB: DeviceConfig = DeviceConfig {
    pasid_bits: 8,
    device_tlb: true,
    page_faults: PageFaults::Fatal,
};
const SILENT: QueueError = QueueError::DeviceTimeout {
    device: Some(DEVICE),
};

const IOTINVAL: [u64; 2] = [1 << 32 | 0x2a << 12 | 1, 0];
const ATS: [u64; 2] = [0x1234 << 40 | 1 << 32 | 9 << 12 | 4, 0x1000];
const OTHERS_ATS: [u64; 2] = [0x1235 << 40 | 1 << 32 | 9 << 12 | 4, 0x1000];
/// IODIR.INVAL_DDT of the device, IOTINVAL.VMA of everything.
const CUT_OFF: [[u64; 2]; 2] = [[0x1234 << 40 | 1 << 33 | 3, 0], [1, 0]];

/// PASID 9 on two devices, the first of which never answers.
struct Scene {
    bench: Bench,
    unit: Arc<Unit<Rig>>,
    set: InvalidationSet,
}

impl Scene {
    fn new() -> Self {
        let bench = Bench::new(CAPABILITIES);
        let unit = Arc::new(bench.unit());
        let set = InvalidationSet::new(Arc::new(Srcu::new()));
        let iommu: Arc<dyn Iommu> = unit.clone();
        for device in [DEVICE, OTHER] {
            unit.enable_device(device, WITH_TLB).unwrap();
            unit.attach(device, pasid(9), TAG, &table()).unwrap();
            let attachment = Attachment {
                device,
                pasid: pasid(9),
                tag: TAG,
                device_tlb: true,
            };
            drop(set.add(&iommu, attachment));
        }
        bench.fake.state().silent_device = Some(DEVICE.0);
        bench.forget();
        Self { bench, unit, set }
    }

    fn flush(&self) -> Result<(), QueueError> {
        let range = Range::new(0x1000, 0x2000).unwrap();
        flush(&self.set, range, Levels::All)
    }

    /// The commands since the last call, without the IOFENCE.C that end the lists.
    fn commands(&self) -> Vec<Vec<u64>> {
        let mut commands = self.bench.recorder.take_commands();
        commands.retain(|words| words[0] & 0x7f != 2);
        commands
    }

    fn is_valid(&self) -> bool {
        let context = self.bench.fake.device_context(DEVICE.0);
        context.is_some_and(|words| words[0] & 1 != 0)
    }
}

#[test]
fn a_silent_device_is_named_and_the_others_are_done() {
    let scene = Scene::new();
    assert_eq!(scene.flush(), Err(SILENT));
    // The hardware does not say who it was, so each is asked alone.
    let expected = [IOTINVAL, ATS, OTHERS_ATS, ATS, ATS, OTHERS_ATS];
    assert_eq!(scene.commands(), expected);
    assert_eq!(scene.flush(), Err(SILENT), "at once, without asking it");
    assert_eq!(scene.commands(), [IOTINVAL, OTHERS_ATS]);
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
    assert_eq!(scene.commands(), [IOTINVAL, OTHERS_ATS]);
    scene.unit.detach(DEVICE, pasid(9)).unwrap();
    let context = [0x1234 << 40 | 1 << 33 | 9 << 12 | 0x83, 0];
    assert_eq!(scene.commands(), [context, IOTINVAL]);
    scene.unit.disable_device(DEVICE).unwrap();
    assert_eq!(scene.commands(), CUT_OFF);
    assert!(!scene.unit.is_quarantined(DEVICE));
}

#[test]
fn a_device_that_is_restored_is_asked_again() {
    let scene = Scene::new();
    scene.unit.quarantine(DEVICE).unwrap();
    scene.bench.fake.state().silent_device = None;
    scene.commands();
    scene.unit.restore(DEVICE).unwrap();
    let whole = [ATS[0], 0x7fff_ffff_ffff_f000 | 1 << 11];
    assert_eq!(scene.commands(), [CUT_OFF[0], CUT_OFF[1], whole]);
    assert!(scene.is_valid() && !scene.unit.is_quarantined(DEVICE));
    assert_eq!(scene.flush(), Ok(()));
    assert_eq!(scene.commands(), [IOTINVAL, ATS, OTHERS_ATS]);
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
    scene.bench.fake.state().fail = Some((3, 1 << 10));
    scene.unit.quarantine(DEVICE).unwrap_err();
    assert!(!scene.unit.is_quarantined(DEVICE));
}

#[test]
fn an_unknown_device_is_not_quarantined() {
    let scene = Scene::new();
    for device in [DeviceId(0x1236), DeviceId(0x100_0000)] {
        let unknown = Err(AttachError::UnknownDevice(device));
        assert_eq!(scene.unit.quarantine(device), unknown);
        assert_eq!(scene.unit.restore(device), unknown);
        assert!(!scene.unit.is_quarantined(device));
    }
    assert!(scene.commands().is_empty());
}
