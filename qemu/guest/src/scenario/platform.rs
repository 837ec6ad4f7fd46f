//! What this kernel supplies to the framework: registers, memory, time, and a tally of what the
//! driver sends.

use crate::arch::native::{clock, cpu};
use crate::console::Console;
use crate::memory;
use crate::mmio::Registers;
use crate::page_table::PAGE_SIZE;
use crate::report::{self, Cost};
use alloc::sync::Arc;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};
use iommu_core::error::OutOfMemory;
use iommu_core::ids::PhysicalAddress;
use iommu_core::platform::{Clock, DmaBlock, DmaMemory, Mmio, Observer, Parts, Platform};

/// This kernel, as the framework sees it.
#[derive(Debug)]
pub struct Guest;

impl Platform for Guest {
    type Mmio = IommuRegisters;
    type Memory = Frames;
    type Clock = Counter;
    type Observer = Arc<Tally>;
}

/// The parts of one IOMMU.
pub fn parts(registers: Registers, tally: &Arc<Tally>) -> Parts<Guest> {
    Parts {
        mmio: IommuRegisters(registers),
        memory: Frames,
        clock: Counter,
        observer: tally.clone(),
    }
}

/// The IOMMU's registers.
#[derive(Debug)]
pub struct IommuRegisters(Registers);

// SAFETY: `Registers` makes one access of the named width a call, on AArch64 by one plain load or
// store; the fences order it after earlier stores and before later loads; firmware says that the
// block is an IOMMU, and only this value writes it.
unsafe impl Mmio for IommuRegisters {
    fn read32(&self, offset: usize) -> u32 {
        let value = self.0.read32(offset);
        cpu::after_device_read();
        value
    }
    fn write32(&self, offset: usize, value: u32) {
        cpu::before_device_write();
        self.0.write32(offset, value);
    }
    fn read64(&self, offset: usize) -> u64 {
        let value = self.0.read64(offset);
        cpu::after_device_read();
        value
    }
    fn write64(&self, offset: usize, value: u64) {
        cpu::before_device_write();
        self.0.write64(offset, value);
    }
}

/// Frames of the kernel's pool, which is mapped one to one.
#[derive(Debug)]
pub struct Frames;

fn frame_count(size: usize) -> usize {
    size.div_ceil(PAGE_SIZE as usize)
}

// SAFETY: the allocator hands out zeroed, contiguous, aligned frames that nobody else uses until
// they are freed; the identity mapping makes pointer and physical address the same number.
unsafe impl DmaMemory for Frames {
    fn allocate(&self, size: usize, align: usize) -> Result<DmaBlock, OutOfMemory> {
        let refused = OutOfMemory { bytes: size };
        let frames = memory::allocate_frames(frame_count(size), align as u64).ok_or(refused)?;
        let pointer = core::ptr::with_exposed_provenance_mut(frames as usize);
        Ok(DmaBlock {
            pointer: NonNull::new(pointer).ok_or(refused)?,
            physical: PhysicalAddress(frames),
            size,
        })
    }

    unsafe fn free(&self, block: DmaBlock) {
        memory::free_frames(block.physical.0, frame_count(block.size));
    }

    fn clean(&self, block: &DmaBlock, offset: usize, length: usize) {
        cpu::clean(block.physical.0 + offset as u64, length as u64);
    }
}

/// The processor's counter.
#[derive(Debug)]
pub struct Counter;

impl Clock for Counter {
    fn now(&self) -> u64 {
        clock::nanoseconds()
    }
}

/// Tells every command on the console, where QEMU's own trace is compared with it, and counts.
#[derive(Debug, Default)]
pub struct Tally {
    commands: AtomicU64,
    doorbells: AtomicU64,
    waits: AtomicU64,
}

impl Tally {
    /// What was sent since the last call.
    pub fn take(&self) -> Cost {
        let take = |count: &AtomicU64| count.swap(0, Ordering::Relaxed);
        Cost {
            commands: take(&self.commands),
            doorbells: take(&self.doorbells),
            waits: take(&self.waits),
        }
    }
}

impl Observer for Tally {
    fn command(&self, words: &[u64]) {
        self.commands.fetch_add(1, Ordering::Relaxed);
        report::sent(&mut Console, words);
    }
    fn doorbell(&self) {
        self.doorbells.fetch_add(1, Ordering::Relaxed);
    }
    fn wait(&self) {
        self.waits.fetch_add(1, Ordering::Relaxed);
    }
}
