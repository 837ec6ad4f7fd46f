//! A device whose device TLB never answers.

use crate::rig::*;
use alloc::sync::Arc;
use core_notifier::Srcu;
use iommu_core::Range;
use iommu_core::error::{AttachError, QueueError};
use iommu_core::flush::flush;
use iommu_core::ids::{DeviceId, Pasid};
use iommu_core::invalidation_set::{Attachment, InvalidationSet};
use iommu_core::iommu::Iommu;
use iommu_core::operation::Levels;
use iommu_vtd::Unit;

const OTHER: DeviceId = DeviceId(0x28);
const SILENT: QueueError = QueueError::DeviceTimeout {
    device: Some(DEVICE),
};

/// Context cache of the device, PASID cache and IOTLB, both global.
const CUT_OFF: [(u64, u64); 3] = [(0x20_0000_0031, 0), (0x37, 0), (0xd2, 0)];
/// One page of the IOTLB; of the device TLB of each device.
const IOTLB: (u64, u64) = (0x9_0001_0036, 0x1000);
const DEVICE_TLB: (u64, u64) = (0x9_0020_0008, 0x1000);
const OTHERS_TLB: (u64, u64) = (0x9_0028_0008, 0x1000);

/// PASID 9 on two devices, the first of which never answers.
struct Scene {
    bench: Bench,
    unit: Arc<Unit<TestPlatform>>,
    set: InvalidationSet,
}

impl Scene {
    fn new(named: bool) -> Self {
        let Rig { bench, unit } = Rig::plain().attached(WITH_TLB, pasid(9));
        let unit = Arc::new(unit);
        let set = InvalidationSet::new(Arc::new(Srcu::new()));
        let iommu: Arc<dyn Iommu> = unit.clone();
        unit.enable_device(OTHER, WITH_TLB).unwrap();
        unit.attach(OTHER, pasid(9), TAG, &TABLE).unwrap();
        for device in [DEVICE, OTHER] {
            let attachment = Attachment {
                device,
                pasid: pasid(9),
                tag: TAG,
                device_tlb: true,
            };
            drop(set.add(&iommu, attachment));
        }
        bench
            .hardware
            .with(|state| state.silent_device = Some((DEVICE.0.into(), named)));
        bench.journal.take();
        Self { bench, unit, set }
    }

    fn flush(&self) -> Result<(), QueueError> {
        let range = Range::new(0x1000, 0x2000).unwrap();
        flush(&self.set, range, Levels::All)
    }

    /// The commands since the last call, without completing waits.
    fn commands(&self) -> Vec<(u64, u64)> {
        let steps = self.bench.journal.take().into_iter();
        let command = |step| match step {
            Step::Command(low, high) => Some((low, high)),
            _ => None,
        };
        steps.filter_map(command).collect()
    }

    fn is_present(&self) -> bool {
        let root = self.bench.hardware.with(|state| state.root);
        let context = self.bench.load(root) & !0xfff;
        self.bench.load(context + 0x20 * 32) & 1 != 0
    }

    fn answer(&self) {
        self.bench.hardware.with(|state| state.silent_device = None);
    }
}

#[test]
fn a_silent_device_is_named_and_the_others_are_done() {
    let whole = [IOTLB, FENCE, DEVICE_TLB, OTHERS_TLB];
    let alone = [IOTLB, DEVICE_TLB, DEVICE_TLB, OTHERS_TLB];
    for (named, then) in [(true, &[IOTLB, OTHERS_TLB][..]), (false, &alone)] {
        let scene = Scene::new(named);
        assert_eq!(scene.flush(), Err(SILENT));
        assert_eq!(scene.commands(), [&whole, then].concat());
        assert_eq!(scene.flush(), Err(SILENT), "at once, without asking it");
        assert_eq!(scene.commands(), [IOTLB, OTHERS_TLB]);
    }
}

#[test]
fn a_quarantine_withdraws_the_entry_and_asks_the_device_nothing() {
    let scene = Scene::new(true);
    assert_eq!(scene.flush(), Err(SILENT));
    scene.commands();
    scene.unit.quarantine(DEVICE).unwrap();
    assert_eq!(scene.bench.journal.take(), list(&CUT_OFF));
    assert!(scene.unit.is_quarantined(DEVICE) && !scene.unit.is_quarantined(OTHER));
    assert!(!scene.is_present());
    scene.unit.quarantine(DEVICE).unwrap();
    assert_eq!(scene.commands(), []);

    assert_eq!(scene.flush(), Ok(()));
    assert_eq!(scene.commands(), [IOTLB, FENCE, OTHERS_TLB]);
    scene.unit.detach(DEVICE, pasid(9)).unwrap();
    assert_eq!(scene.commands(), [(0x9_0001_0017, 0), (0x9_0001_0026, 0)]);
    scene.unit.disable_device(DEVICE).unwrap();
    assert_eq!(scene.commands(), CUT_OFF);
    assert!(!scene.unit.is_quarantined(DEVICE));
}

#[test]
fn a_device_that_is_restored_is_asked_again() {
    let scene = Scene::new(true);
    scene.unit.quarantine(DEVICE).unwrap();
    scene.answer();
    scene.commands();
    scene.unit.restore(DEVICE).unwrap();
    let whole = 0x7fff_ffff_ffff_f000;
    let untagged = [FENCE, (0x20_0000_0003, whole | 1)];
    let tagged = [FENCE, (0x9_0020_0008, whole | 0x800)];
    assert_eq!(
        scene.commands(),
        [&CUT_OFF[..], &untagged, &tagged].concat()
    );
    assert!(scene.is_present() && !scene.unit.is_quarantined(DEVICE));
    assert_eq!(scene.flush(), Ok(()));
    assert_eq!(scene.commands(), [IOTLB, FENCE, DEVICE_TLB, OTHERS_TLB]);
    assert!(scene.unit.suspect(DEVICE), "a new failure is news");
}

#[test]
fn a_device_that_is_still_silent_stays_in_quarantine() {
    let scene = Scene::new(true);
    scene.unit.quarantine(DEVICE).unwrap();
    assert_eq!(scene.unit.restore(DEVICE), Err(AttachError::Queue(SILENT)));
    assert!(scene.unit.is_quarantined(DEVICE) && !scene.is_present());
    assert_eq!(scene.flush(), Ok(()));
}

#[test]
fn a_device_that_could_not_be_cut_off_is_not_left_out() {
    let scene = Scene::new(true);
    scene.bench.hardware.with(|state| state.reject_next = true);
    assert!(scene.unit.quarantine(DEVICE).is_err());
    assert!(!scene.unit.is_quarantined(DEVICE));
    scene.unit.quarantine(DEVICE).unwrap();
    assert!(scene.unit.is_quarantined(DEVICE));
}

#[test]
fn an_unknown_device_is_not_quarantined() {
    let scene = Scene::new(true);
    let unknown = DeviceId(0x1_0000);
    for device in [DeviceId(0x30), unknown] {
        assert!(scene.unit.quarantine(device).is_err());
        assert!(scene.unit.restore(device).is_err());
        assert!(!scene.unit.is_quarantined(device));
    }
    assert_eq!(scene.commands(), []);
    scene.unit.detach(OTHER, Pasid::UNTAGGED).unwrap_err();
}
