//! The modelled machine as a driver's platform.

use crate::hardware::Hardware;
use crate::machine::Machine;
use crate::memory::Memory;
use iommu_core::platform::{Clock, Mmio, Parts, Platform};
use iommu_core::testing::Recorder;
use std::sync::Arc;

/// The platform of a driver whose hardware is a model.
#[derive(Debug)]
pub struct ModelPlatform;

impl Platform for ModelPlatform {
    type Mmio = Registers;
    type Memory = Arc<Memory>;
    type Clock = MachineClock;
    type Observer = Arc<Recorder>;
}

impl ModelPlatform {
    /// What the driver of `iommu` is given.
    pub fn parts(
        machine: &Arc<Machine>,
        iommu: &Arc<dyn Hardware>,
        recorder: &Arc<Recorder>,
    ) -> Parts<Self> {
        Parts {
            mmio: Registers(iommu.clone()),
            memory: machine.memory.clone(),
            clock: MachineClock(machine.clone()),
            observer: recorder.clone(),
        }
    }
}

/// The registers of a modelled IOMMU.
pub struct Registers(pub Arc<dyn Hardware>);

// SAFETY: no hardware is behind it; each call is one access of the model, in program order.
unsafe impl Mmio for Registers {
    fn read32(&self, offset: usize) -> u32 {
        self.0.read(offset, 4) as u32
    }
    fn write32(&self, offset: usize, value: u32) {
        self.0.write(offset, 4, value.into());
    }
    fn read64(&self, offset: usize) -> u64 {
        self.0.read(offset, 8)
    }
    fn write64(&self, offset: usize, value: u64) {
        self.0.write(offset, 8, value);
    }
}

/// The machine's time. While a driver waits, the machine works; where it has nothing to do, time
/// flies.
pub struct MachineClock(Arc<Machine>);

impl Clock for MachineClock {
    fn now(&self) -> u64 {
        self.0.now()
    }
    fn relax(&self) {
        self.0.relax();
    }
}
