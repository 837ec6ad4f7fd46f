//! The machine as a driver sees it.

use crate::error::Error;
use crate::machine::Machine;
use crate::ram::Ram;
use iommu_core::error::OutOfMemory;
use iommu_core::ids::PhysicalAddress;
use iommu_core::platform::{Clock, DmaBlock, DmaMemory, Mmio, Observer};
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
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

/// Who shares a machine with a driver.
#[derive(Clone)]
struct Turns {
    before: Arc<dyn Fn() + Send + Sync>,
    turn: Arc<Mutex<()>>,
}

/// A block of registers. When QEMU has failed, reads give ones, as those of a device that was pulled
/// out, and writes are lost; [`Machine::failed`] tells.
#[derive(Clone)]
pub struct Registers {
    machine: Arc<Machine>,
    base: u64,
    turns: Option<Turns>,
    steps: Option<Steps>,
}

/// What is written before a value at an offset.
pub type Steps = Arc<dyn Fn(usize, u64) -> Vec<u64> + Send + Sync>;

impl Registers {
    /// The registers from physical address `base` on.
    pub fn new(machine: &Arc<Machine>, base: u64) -> Self {
        Self {
            machine: machine.clone(),
            base,
            turns: None,
            steps: None,
        }
    }

    /// Calls `before` before each access, on the thread that makes it, and holds `turn` during the
    /// access: what somebody else does under it and an access are one after the other.
    #[must_use]
    pub fn taking_turns(self, before: Arc<dyn Fn() + Send + Sync>, turn: Arc<Mutex<()>>) -> Self {
        Self {
            turns: Some(Turns { before, turn }),
            ..self
        }
    }

    /// Before each write, writes what `steps` says for its offset and value, each of it done before the
    /// next.
    #[must_use]
    pub fn stepping(self, steps: Steps) -> Self {
        Self {
            steps: Some(steps),
            ..self
        }
    }

    fn write<T: Into<u64>>(
        &self,
        offset: usize,
        value: T,
        write: impl Fn(&Machine, u64, u64) -> Result<(), Error>,
    ) {
        let value = value.into();
        let steps = self.steps.as_ref().map(|steps| steps(offset, value));
        for step in steps.into_iter().flatten() {
            let _ = self.access(offset, |machine, at| write(machine, at, step));
            let _ = self.machine.synchronize();
        }
        let _ = self.access(offset, |machine, at| write(machine, at, value));
    }

    fn access<T>(
        &self,
        offset: usize,
        access: impl FnOnce(&Machine, u64) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let address = self.base + offset as u64;
        let Some(Turns { before, turn }) = &self.turns else {
            return access(&self.machine, address);
        };
        before();
        let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
        access(&self.machine, address)
    }
}

// SAFETY: each call is one line of the protocol, which QEMU turns into one access of that width; the
// line is sent after every earlier store of the caller, and QEMU reads the same memory when it acts on
// it; the answer to a read is received before the call returns. Nobody else knows the block.
unsafe impl Mmio for Registers {
    fn read32(&self, offset: usize) -> u32 {
        self.access(offset, Machine::read32).unwrap_or(u32::MAX)
    }
    fn write32(&self, offset: usize, value: u32) {
        self.write(offset, value, |machine, at, value| {
            machine.write32(at, value as u32)
        });
    }
    fn read64(&self, offset: usize) -> u64 {
        self.access(offset, Machine::read64).unwrap_or(u64::MAX)
    }
    fn write64(&self, offset: usize, value: u64) {
        self.write(offset, value, Machine::write64);
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
