//! A device whose TLB does not answer, in address spaces that others use too.

use super::*;

/// An address space on two devices with TLBs, of which the first does not answer.
struct Scene {
    system: System,
    fake: Arc<FakeIommu>,
    notifiers: Arc<AddressSpace>,
    space: SvaSpace,
}

impl Scene {
    fn new(named: bool, chained: bool) -> Self {
        let system = System::new();
        let fake = system.iommu(0, chained, false);
        let (notifiers, space) = system.join();
        for device in [GPU, FPGA] {
            space
                .bind(&dynamic(&fake), device, Requests::Tagged)
                .unwrap();
        }
        system.take();
        *fake.silent.lock() = Some((GPU, named));
        Self {
            system,
            fake,
            notifiers,
            space,
        }
    }

    /// The targets of each list since the last call.
    fn lists(&self) -> Vec<Vec<Target>> {
        let lists = self.system.take().into_iter().filter_map(|(_, call)| {
            let Submit(targets, of, _) = call else {
                return None;
            };
            assert_eq!(of, range());
            Some(targets)
        });
        lists.collect()
    }

    fn told(&self) -> Vec<Failure> {
        core::mem::take(&mut *self.system.failures.0.lock())
    }
}

const SILENT: QueueError = QueueError::DeviceTimeout { device: Some(GPU) };

#[test]
fn a_silent_device_costs_the_others_nothing() {
    for (named, tries) in [(true, 0), (false, 2)] {
        for chained in [true, false] {
            let scene = Scene::new(named, chained);
            scene.notifiers.invalidate_range(range());
            let (gpu, fpga) = (device_tlb(GPU, 1), device_tlb(FPGA, 1));
            let mut expected = if chained {
                Vec::from([[iotlb(7, 0), gpu, fpga].into(), [iotlb(7, 0)].into()])
            } else {
                Vec::from([[iotlb(7, 0)].into(), Vec::from([gpu, fpga])])
            };
            expected.extend(core::iter::repeat_n(Vec::from([gpu]), tries));
            expected.push([fpga].into());
            assert_eq!(scene.lists(), expected, "named {named}, chained {chained}");
        }
    }
}

#[test]
fn a_silent_device_is_asked_once_and_the_others_each_time() {
    let scene = Scene::new(false, true);
    scene.notifiers.invalidate_range(range());
    scene.lists();
    scene.notifiers.invalidate_range(range());
    let expected: [Vec<_>; 2] = [[iotlb(7, 0)].into(), [device_tlb(FPGA, 1)].into()];
    assert_eq!(scene.lists(), expected);
}

#[test]
fn a_silent_device_is_told_once_and_nothing_is_settled_before_it_was_cut_off() {
    let scene = Scene::new(true, true);
    assert!(scene.space.is_settled());
    for _ in 0..3 {
        scene.notifiers.invalidate_range(range());
        assert!(!scene.space.is_settled());
    }
    let failure = Failure {
        pasid: scene.space.pasid(),
        range: range(),
        error: SILENT,
    };
    assert_eq!(scene.told(), [failure]);

    scene.system.take();
    scene.space.settle().unwrap();
    let calls = scene.system.take();
    let cut_off = calls.iter().position(|(_, call)| *call == Quarantine(GPU));
    let everything = Submit(
        [iotlb(7, 0), device_tlb(GPU, 1), device_tlb(FPGA, 1)].into(),
        Range::ALL,
        Levels::All,
    );
    assert_eq!(calls[cut_off.unwrap() + 1..], [(0, everything), (0, Wait)]);
    assert!(scene.space.is_settled());
    scene.space.settle().unwrap();
    assert_eq!(scene.system.take(), [], "there is nothing left to settle");

    scene.notifiers.invalidate_range(range());
    assert!(scene.space.is_settled());
    assert_eq!(scene.told(), []);
    scene.fake.standing.end(GPU);
    scene.notifiers.invalidate_range(range());
    assert_eq!(scene.told(), [failure], "restored, and silent again");
}

#[test]
fn what_could_not_be_cut_off_is_not_settled() {
    let scene = Scene::new(true, true);
    scene.notifiers.invalidate_range(range());
    *scene.fake.failure.lock() = Some(QueueError::MemoryFault);
    assert!(scene.space.settle().is_err());
    assert!(!scene.space.is_settled());
    *scene.fake.failure.lock() = None;
    scene.space.settle().unwrap();
    assert!(scene.space.is_settled());
}

#[test]
fn unbinding_a_silent_device_cuts_it_off_first() {
    for named in [true, false] {
        let scene = Scene::new(named, true);
        let iommu = dynamic(&scene.fake);
        let pasid = scene.space.pasid();
        scene.space.unbind(&iommu, GPU, Requests::Tagged).unwrap();
        let detach = (0, Detach(GPU, pasid));
        let expected = [detach.clone(), (0, Quarantine(GPU)), detach];
        assert_eq!(scene.system.take(), expected);
        assert_eq!(scene.told()[..].len(), 1);
    }
}

#[test]
fn exit_cuts_a_silent_device_off() {
    let scene = Scene::new(false, true);
    let pasid = scene.space.pasid();
    scene.notifiers.release();
    let block = |device| (0, Block(device, pasid));
    let expected = [block(GPU), (0, Quarantine(GPU)), block(GPU), block(FPGA)];
    assert_eq!(scene.system.take(), expected);
    assert_eq!(scene.told().len(), 1);
}
