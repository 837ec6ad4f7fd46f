//! Memory that the IOMMU reads and writes: the framework's only owner of raw pointers.

use super::{Parts, Platform};
use crate::error::OutOfMemory;
use crate::ids::PhysicalAddress;
use crate::planted::{self, Fault};
use alloc::sync::Arc;
use core::fmt;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// Whether the IOMMU's accesses to memory snoop the CPU's caches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalkerCoherency {
    /// A store is visible to the IOMMU once it is performed.
    Coherent,
    /// A store is visible to the IOMMU only after its cache line was cleaned.
    NonCoherent,
}

/// One allocation of [`DmaMemory`].
#[derive(Debug)]
pub struct DmaBlock {
    /// The first byte in the driver's address space.
    pub pointer: NonNull<u8>,
    /// The first byte as the IOMMU addresses it, in bytes.
    pub physical: PhysicalAddress,
    /// Length in bytes.
    pub size: usize,
}

/// Memory that the IOMMU can read and write.
///
/// # Safety
///
/// The implementer promises:
/// - [`allocate`](DmaMemory::allocate) returns memory that is zeroed, aligned as asked for both in
///   `pointer` and in `physical`, physically contiguous, mapped as normal memory, valid for reads
///   and writes of `size` bytes from any thread until it is given to [`free`](DmaMemory::free), and
///   reachable through no other Rust reference or allocation;
/// - `physical` addresses the same bytes from the IOMMU's side;
/// - when [`clean`](DmaMemory::clean) returns, every store that the calling CPU made to those bytes
///   is visible to an IOMMU that does not snoop, and what such an IOMMU wrote there before is
///   visible to later loads.
///
/// The caller promises to free each block once, and only when neither it nor the IOMMU uses it.
pub unsafe trait DmaMemory: Send + Sync + 'static {
    /// Allocates `size` bytes aligned to `align` bytes, a power of two.
    fn allocate(&self, size: usize, align: usize) -> Result<DmaBlock, OutOfMemory>;

    /// Takes back a block.
    ///
    /// # Safety
    ///
    /// `block` came from [`allocate`](DmaMemory::allocate) of the same instance, is freed for the
    /// first time, and is used by nobody, the IOMMU included.
    unsafe fn free(&self, block: DmaBlock);

    /// Makes the CPU's caches and memory agree on `length` bytes from `offset` of `block`.
    ///
    /// Called only for IOMMUs that do not snoop.
    fn clean(&self, block: &DmaBlock, offset: usize, length: usize);
}

// SAFETY: every duty is passed on to the value behind the pointer.
unsafe impl<T: DmaMemory> DmaMemory for Arc<T> {
    fn allocate(&self, size: usize, align: usize) -> Result<DmaBlock, OutOfMemory> {
        (**self).allocate(size, align)
    }
    unsafe fn free(&self, block: DmaBlock) {
        // SAFETY: the caller's promise is this method's own.
        unsafe { (**self).free(block) }
    }
    fn clean(&self, block: &DmaBlock, offset: usize, length: usize) {
        (**self).clean(block, offset, length);
    }
}

/// A buffer shared with the IOMMU, read and written in whole aligned words.
///
/// Every access is one atomic load or store of a little-endian word, so neither side sees a torn
/// word, and a safe reference to device-writable bytes never exists.
///
/// Word indices come from the driver, never from a device; one outside the buffer is a driver bug
/// and panics.
pub struct DmaBuffer<P: Platform> {
    parts: Arc<Parts<P>>,
    block: Option<DmaBlock>,
    coherency: WalkerCoherency,
}

// SAFETY: `DmaMemory` promises that the block is valid from any thread; all access goes through
// atomics.
unsafe impl<P: Platform> Send for DmaBuffer<P> {}
// SAFETY: as for `Send`.
unsafe impl<P: Platform> Sync for DmaBuffer<P> {}

impl<P: Platform> DmaBuffer<P> {
    /// Allocates `size` zeroed bytes (a multiple of 8) aligned to `align` bytes (at least 8).
    pub fn new(
        parts: &Arc<Parts<P>>,
        size: usize,
        align: usize,
        coherency: WalkerCoherency,
    ) -> Result<Self, OutOfMemory> {
        let align = align.max(8);
        let block = parts.memory.allocate(size, align)?;
        let buffer = Self {
            parts: parts.clone(),
            block: Some(block),
            coherency,
        };
        assert!(
            size.is_multiple_of(8)
                && buffer.size() >= size
                && buffer.block().pointer.addr().get().is_multiple_of(8),
            "DmaMemory::allocate broke its contract"
        );
        buffer.publish(0, size / 8);
        Ok(buffer)
    }

    /// Where the IOMMU finds the buffer.
    pub fn physical(&self) -> PhysicalAddress {
        self.block().physical
    }

    /// Length in bytes.
    pub fn size(&self) -> usize {
        self.block().size
    }

    /// The 64-bit word number `index`.
    pub fn load(&self, index: usize) -> u64 {
        if self.coherency == WalkerCoherency::NonCoherent {
            self.parts.memory.clean(self.block(), index * 8, 8);
        }
        u64::from_le(self.word(index).load(Ordering::Acquire))
    }

    /// The 64-bit word number `index` as this CPU stored it; no cache is cleaned.
    pub(crate) fn stored(&self, index: usize) -> u64 {
        u64::from_le(self.word(index).load(Ordering::Relaxed))
    }

    /// Stores the 64-bit word number `index`, after every earlier store of this CPU.
    ///
    /// An IOMMU that does not snoop sees it only after [`publish`](Self::publish).
    pub fn store(&self, index: usize, value: u64) {
        self.word(index).store(value.to_le(), Ordering::Release);
    }

    /// The 32-bit word number `index`: completion words that the IOMMU writes.
    pub fn load32(&self, index: usize) -> u32 {
        assert!(
            index < self.size() / 4,
            "word {index} lies outside the buffer"
        );
        if self.coherency == WalkerCoherency::NonCoherent {
            self.parts.memory.clean(self.block(), index * 4, 4);
        }
        // SAFETY: the index was checked, `DmaMemory` promises a valid block aligned to 8 bytes, and
        // all access is atomic.
        let word = unsafe { self.block().pointer.cast::<AtomicU32>().add(index).as_ref() };
        u32::from_le(word.load(Ordering::Acquire))
    }

    /// Makes `count` 64-bit words from `index` visible to the IOMMU, and orders them before every
    /// later store. Tables call it after each step that the IOMMU may observe.
    pub fn publish(&self, index: usize, count: usize) {
        if self.coherency == WalkerCoherency::NonCoherent && !planted::is(Fault::StoresNotCleaned) {
            self.parts.memory.clean(self.block(), index * 8, count * 8);
        }
        fence(Ordering::SeqCst);
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        assert!(
            index < self.size() / 8,
            "word {index} lies outside the buffer"
        );
        // SAFETY: the index was checked, `DmaMemory` promises a valid block aligned to 8 bytes, and
        // all access is atomic.
        unsafe { self.block().pointer.cast::<AtomicU64>().add(index).as_ref() }
    }

    fn block(&self) -> &DmaBlock {
        self.block
            .as_ref()
            .expect("the block is taken only by drop")
    }
}

impl<P: Platform> Drop for DmaBuffer<P> {
    fn drop(&mut self) {
        if let Some(block) = self.block.take() {
            // SAFETY: the block came from this instance and is taken once. Who drops a buffer has
            // taken it out of the IOMMU's sight first; that is the duty of `tables` and `queue`.
            unsafe { self.parts.memory.free(block) };
        }
    }
}

impl<P: Platform> fmt::Debug for DmaBuffer<P> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("DmaBuffer")
            .field("physical", &self.physical())
            .field("size", &self.size())
            .finish()
    }
}
