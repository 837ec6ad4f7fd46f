//! The machine as a driver sees it.

use crate::machine::Machine;
use crate::ram::Ram;
use iommu_core::error::OutOfMemory;
use iommu_core::ids::PhysicalAddress;
use iommu_core::platform::{Clock, DmaBlock, DmaMemory, Mmio, Observer};
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// What a driver of an IOMMU of QEMU's is given, with an observer `O`.
#[derive(Debug)]
pub struct Platform<O>(PhantomData<O>);

impl<O: Observer> iommu_core::platform::Platform for Platform<O> {
    type Mmio = Registers;
    type Memory = Arc<Ram>;
    type Clock = HostClock;
    type Observer = O;
}

/// The parts of a [`Platform`].
pub type Parts<O> = iommu_core::platform::Parts<Platform<O>>;

impl<O: Observer> Platform<O> {
    /// What the driver of the IOMMU whose registers begin at physical address `base` is given.
    pub fn parts(machine: &Arc<Machine>, base: u64, observer: O) -> Parts<O> {
        Parts {
            mmio: Registers::new(machine, base),
            memory: machine.ram().clone(),
            clock: HostClock::new(machine),
            observer,
        }
    }
}

/// Told before each access of a register.
pub type BeforeAccess = Arc<dyn Fn() + Send + Sync>;

/// A block of registers. When QEMU has failed, reads give ones, as those of a device that was pulled
/// out, and writes are lost; [`Machine::failed`] tells.
#[derive(Clone)]
pub struct Registers {
    machine: Arc<Machine>,
    base: u64,
    before: Option<BeforeAccess>,
}

impl Registers {
    /// The registers from physical address `base` on.
    pub fn new(machine: &Arc<Machine>, base: u64) -> Self {
        Self {
            machine: machine.clone(),
            base,
            before: None,
        }
    }

    /// Calls `before` before each access, on the thread that makes it.
    #[must_use]
    pub fn telling(self, before: BeforeAccess) -> Self {
        Self {
            before: Some(before),
            ..self
        }
    }

    fn at(&self, offset: usize) -> u64 {
        if let Some(before) = &self.before {
            before();
        }
        self.base + offset as u64
    }
}

// SAFETY: each call is one line of the protocol, which QEMU turns into one access of that width; the
// line is sent after every earlier store of the caller, and QEMU reads the same memory when it acts on
// it; the answer to a read is received before the call returns. Nobody else knows the block.
unsafe impl Mmio for Registers {
    fn read32(&self, offset: usize) -> u32 {
        self.machine.read32(self.at(offset)).unwrap_or(u32::MAX)
    }
    fn write32(&self, offset: usize, value: u32) {
        let _ = self.machine.write32(self.at(offset), value);
    }
    fn read64(&self, offset: usize) -> u64 {
        self.machine.read64(self.at(offset)).unwrap_or(u64::MAX)
    }
    fn write64(&self, offset: usize, value: u64) {
        let _ = self.machine.write64(self.at(offset), value);
    }
}

// SAFETY: `take` gives each page to one owner at a time, zeroed and aligned; the mapping is shared
// with QEMU, which finds the same bytes at the physical address, and it lives as long as the value. One
// processor's caches hold both sides' accesses, so nothing is left to clean.
unsafe impl DmaMemory for Ram {
    fn allocate(&self, size: usize, align: usize) -> Result<DmaBlock, OutOfMemory> {
        let physical = self
            .take(size as u64, align as u64)
            .ok_or(OutOfMemory { bytes: size })?;
        Ok(DmaBlock {
            pointer: self.pointer(physical, size as u64),
            physical: PhysicalAddress(physical),
            size,
        })
    }

    unsafe fn free(&self, block: DmaBlock) {
        self.give_back(block.physical.0, block.size as u64);
    }

    fn clean(&self, _: &DmaBlock, _: usize, _: usize) {}
}

/// The time of this computer. Who waits lets QEMU do what it was sent.
#[derive(Clone)]
pub struct HostClock {
    machine: Arc<Machine>,
    start: Instant,
    /// Nanoseconds by which the clock is ahead, because nothing that QEMU could do is left to wait for.
    ahead: Arc<AtomicU64>,
}

impl HostClock {
    /// A clock that begins with 0.
    pub fn new(machine: &Arc<Machine>) -> Self {
        Self {
            machine: machine.clone(),
            start: Instant::now(),
            ahead: Arc::default(),
        }
    }
}

impl Clock for HostClock {
    fn now(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64 + self.ahead.load(Ordering::Relaxed)
    }

    /// QEMU's IOMMUs do a command within the write of the tail register. So once every write is done,
    /// or QEMU has failed, what is waited for does not come any more, and time flies.
    fn relax(&self) {
        match self.machine.synchronize() {
            Ok(true) => {}
            Ok(false) | Err(_) => {
                self.ahead.fetch_add(1_000_000, Ordering::Relaxed);
                std::thread::yield_now();
            }
        }
    }
}
