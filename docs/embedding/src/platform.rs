//! What the framework needs of the kernel: registers, memory, time.

use alloc::alloc::{alloc_zeroed, dealloc};
use alloc::sync::Arc;
use core::alloc::Layout;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering, fence};
use iommu_core::error::{OutOfMemory, ProbeError};
use iommu_core::ids::PhysicalAddress;
use iommu_core::iommu::Iommu;
use iommu_core::platform::{Clock, DmaBlock, DmaMemory, Mmio, Parts, Platform};

// ANCHOR: platform
/// The kernel, as the framework sees it.
#[derive(Debug)]
pub struct Kernel;

impl Platform for Kernel {
    type Mmio = Registers;
    type Memory = Heap;
    type Clock = Counter;
    type Observer = ();
}
// ANCHOR_END: platform

// ANCHOR: mmio
/// A block of an IOMMU's registers, mapped as device memory.
#[derive(Debug)]
pub struct Registers(NonNull<u8>);

// SAFETY: a register is read and written from any CPU.
unsafe impl Send for Registers {}
// SAFETY: as above.
unsafe impl Sync for Registers {}

impl Registers {
    /// # Safety
    ///
    /// The registers of an IOMMU are mapped at `base` for as long as the value lives, aligned to 8
    /// bytes, and nobody else writes them.
    pub const unsafe fn new(base: NonNull<u8>) -> Self {
        Self(base)
    }

    fn at<T>(&self, offset: usize) -> *mut T {
        // SAFETY: the framework's offsets lie inside the block that was promised to `new`.
        unsafe { self.0.add(offset).cast::<T>().as_ptr() }
    }
}

// SAFETY: each call is one access of its width, after all stores before it and before all loads behind
// it. A kernel for AArch64 writes the accesses as single load and store instructions.
unsafe impl Mmio for Registers {
    fn read32(&self, offset: usize) -> u32 {
        // SAFETY: promised to `new`.
        let value = unsafe { self.at::<u32>(offset).read_volatile() };
        fence(Ordering::SeqCst);
        value
    }
    fn write32(&self, offset: usize, value: u32) {
        fence(Ordering::SeqCst);
        // SAFETY: promised to `new`.
        unsafe { self.at::<u32>(offset).write_volatile(value) };
    }
    fn read64(&self, offset: usize) -> u64 {
        // SAFETY: promised to `new`.
        let value = unsafe { self.at::<u64>(offset).read_volatile() };
        fence(Ordering::SeqCst);
        value
    }
    fn write64(&self, offset: usize, value: u64) {
        fence(Ordering::SeqCst);
        // SAFETY: promised to `new`.
        unsafe { self.at::<u64>(offset).write_volatile(value) };
    }
}
// ANCHOR_END: mmio

// ANCHOR: memory
/// The kernel's heap, which is contiguous and mapped one to one.
#[derive(Debug)]
pub struct Heap;

fn layout(size: usize, align: usize) -> Result<Layout, OutOfMemory> {
    Layout::from_size_align(size.max(1), align).map_err(|_| OutOfMemory { bytes: size })
}

// SAFETY: the heap's blocks are zeroed, aligned and nobody else's; the mapping is one to one; every
// IOMMU of this kernel snoops.
unsafe impl DmaMemory for Heap {
    fn allocate(&self, size: usize, align: usize) -> Result<DmaBlock, OutOfMemory> {
        // `free` is not told the alignment, so it is the size's.
        let size = size.next_power_of_two().max(align);
        // SAFETY: the size is not 0.
        let pointer = unsafe { alloc_zeroed(layout(size, size)?) };
        let pointer = NonNull::new(pointer).ok_or(OutOfMemory { bytes: size })?;
        Ok(DmaBlock {
            pointer,
            physical: PhysicalAddress(pointer.as_ptr().addr() as u64),
            size,
        })
    }

    unsafe fn free(&self, block: DmaBlock) {
        if let Ok(layout) = layout(block.size, block.size) {
            // SAFETY: the block came from `allocate`, with this layout.
            unsafe { dealloc(block.pointer.as_ptr(), layout) };
        }
    }

    fn clean(&self, _: &DmaBlock, _: usize, _: usize) {}
}
// ANCHOR_END: memory

// ANCHOR: clock
/// Nanoseconds since boot, which the timer interrupt counts.
pub static NANOSECONDS: AtomicU64 = AtomicU64::new(0);

/// The kernel's clock.
#[derive(Debug)]
pub struct Counter;

impl Clock for Counter {
    fn now(&self) -> u64 {
        NANOSECONDS.load(Ordering::Relaxed)
    }
    fn relax(&self) {
        core::hint::spin_loop();
    }
}
// ANCHOR_END: clock

// ANCHOR: parts
/// What the driver of one IOMMU is given.
///
/// # Safety
///
/// As [`Registers::new`].
pub unsafe fn parts(registers: NonNull<u8>) -> Parts<Kernel> {
    Parts {
        // SAFETY: the caller promises it.
        mmio: unsafe { Registers::new(registers) },
        memory: Heap,
        clock: Counter,
        observer: (),
    }
}
// ANCHOR_END: parts

// ANCHOR: probe
/// The kind of an IOMMU, as firmware names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// DMAR's hardware unit.
    Vtd,
    /// IORT's SMMUv3 node, or `arm,smmu-v3`.
    Smmuv3,
    /// RIMT's IOMMU node, or `riscv,iommu`.
    Riscv,
}

/// Brings an IOMMU up. Whatever firmware left on is taken over, and every device is blocked.
///
/// # Errors
///
/// The hardware does not answer in time, or lacks what the driver needs.
pub fn probe<P: Platform>(kind: Kind, parts: Parts<P>) -> Result<Arc<dyn Iommu>, ProbeError> {
    Ok(match kind {
        Kind::Vtd => Arc::new(iommu_vtd::Unit::probe(parts)?),
        Kind::Smmuv3 => Arc::new(iommu_smmuv3::Unit::probe(parts)?),
        Kind::Riscv => Arc::new(iommu_riscv::Unit::probe(parts)?),
    })
}
// ANCHOR_END: probe
