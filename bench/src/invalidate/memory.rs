//! Memory whose physical addresses are its virtual ones and that is never freed, so that modelled
//! hardware reaches it at the cost of a load.

use std::alloc::{Layout, alloc_zeroed};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use iommu_core::error::OutOfMemory;
use iommu_core::ids::PhysicalAddress;
use iommu_core::platform::{DmaBlock, DmaMemory};

/// All memory there is.
pub struct Memory;

// SAFETY: blocks come zeroed and aligned from the heap and are leaked; the physical address is the
// pointer's; nothing needs cleaning, as the modelled hardware is this program.
unsafe impl DmaMemory for Memory {
    fn allocate(&self, size: usize, align: usize) -> Result<DmaBlock, OutOfMemory> {
        let refused = OutOfMemory { bytes: size };
        let layout = Layout::from_size_align(size.max(8), align).map_err(|_| refused)?;
        // SAFETY: the size is not zero.
        let pointer = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or(refused)?;
        let physical = PhysicalAddress(pointer.as_ptr().expose_provenance() as u64);
        Ok(DmaBlock {
            pointer,
            physical,
            size,
        })
    }

    unsafe fn free(&self, _: DmaBlock) {}

    fn clean(&self, _: &DmaBlock, _: usize, _: usize) {}
}

/// The 64-bit word of a queue at `address`.
pub fn load(address: u64) -> u64 {
    assert!(
        address.is_multiple_of(8) && address != 0,
        "no word at {address:#x}"
    );
    // SAFETY: the modelled hardware reads queues only, whose base a driver took from `Memory`:
    // blocks that live for ever and are accessed atomically.
    let word = unsafe { &*std::ptr::with_exposed_provenance::<AtomicU64>(address as usize) };
    u64::from_le(word.load(Ordering::Acquire))
}

/// The completion word at `address`.
pub fn word(address: u64) -> &'static AtomicU32 {
    assert!(
        address.is_multiple_of(4) && address != 0,
        "no word at {address:#x}"
    );
    // SAFETY: a driver named it in a sync, so it lies in a block from `Memory`: it lives for ever
    // and is accessed atomically.
    unsafe { &*std::ptr::with_exposed_provenance::<AtomicU32>(address as usize) }
}
