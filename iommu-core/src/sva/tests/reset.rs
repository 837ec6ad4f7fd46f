//! Resets of a device that is bound.

use super::*;
use crate::pcie::tests::{EVERYTHING, Fake as Function, no_ports};
use crate::pcie::{self, PcieError, Services};

/// A bound device and its configuration space.
struct Scene<'a> {
    system: System,
    fake: Arc<FakeIommu>,
    space: SvaSpace,
    function: &'a Function,
    handshake: ResetHandshake<&'a Function>,
}

impl<'a> Scene<'a> {
    fn new(function: &'a Function) -> Self {
        let system = System::new();
        let fake = system.iommu(0, true, false);
        let (_, space) = system.join();
        space.bind(&dynamic(&fake), GPU, Requests::Tagged).unwrap();
        let read = pcie::Function::read(function).unwrap();
        let services = Services::enable(read, &no_ports(), EVERYTHING).unwrap();
        system.take();
        Self {
            handshake: ResetHandshake::new(dynamic(&fake), GPU, services),
            system,
            fake,
            space,
            function,
        }
    }

    fn calls(&self) -> Vec<Call> {
        self.system
            .take()
            .into_iter()
            .map(|(_, call)| call)
            .collect()
    }
}

#[test]
fn a_reset_goes_between_cutting_off_and_bringing_back() {
    let function = Function::endpoint();
    let mut scene = Scene::new(&function);
    scene.handshake.park().unwrap();
    assert_eq!(scene.calls(), [Quarantine(GPU)]);
    assert!(scene.handshake.is_parked() && !function.is_enabled());
    function.reset();
    scene.handshake.restore().unwrap();
    assert_eq!(scene.calls(), [Restore(GPU)]);
    assert!(!scene.handshake.is_parked() && function.is_enabled());
    assert_eq!(scene.handshake.restore(), Err(RestoreError::NotParked));
}

#[test]
fn resets_nest() {
    let function = Function::endpoint();
    let mut scene = Scene::new(&function);
    scene.handshake.park().unwrap();
    scene.handshake.park().unwrap();
    assert_eq!(scene.calls(), [Quarantine(GPU)]);
    scene.handshake.restore().unwrap();
    assert!(scene.calls().is_empty() && !function.is_enabled());
    function.reset();
    scene.handshake.restore().unwrap();
    assert_eq!(scene.calls(), [Restore(GPU)]);
}

#[test]
fn nobody_binds_a_device_in_reset() {
    let function = Function::endpoint();
    let mut scene = Scene::new(&function);
    let (_, other) = scene.system.join();
    scene.handshake.park().unwrap();
    let bind = || other.bind(&dynamic(&scene.fake), GPU, Requests::Tagged);
    assert_eq!(bind(), Err(BindError::Quarantined(GPU)));
    function.reset();
    scene.handshake.restore().unwrap();
    assert_eq!(bind(), Ok(()));
    // Unbinding is possible meanwhile.
    scene.handshake.park().unwrap();
    let unbind = scene
        .space
        .unbind(&dynamic(&scene.fake), GPU, Requests::Tagged);
    assert_eq!(unbind, Ok(()));
}

#[test]
fn a_device_that_does_not_come_back_stays_parked() {
    let function = Function::endpoint();
    let mut scene = Scene::new(&function);
    scene.handshake.park().unwrap();
    *scene.fake.silent.lock() = Some((GPU, true));
    let silent = QueueError::DeviceTimeout { device: Some(GPU) };
    assert_eq!(
        scene.handshake.restore(),
        Err(RestoreError::Attach(AttachError::Queue(silent)))
    );
    assert!(scene.handshake.is_parked() && !function.is_enabled());
    assert!(scene.fake.is_quarantined(GPU));
    scene.function.remove();
    assert_eq!(
        scene.handshake.restore(),
        Err(RestoreError::Pcie(PcieError::NotPresent))
    );
    scene.calls();
    let services = scene.handshake.release();
    assert!(!services.function().is_present());
}
