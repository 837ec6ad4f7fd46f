//! Register access.

use alloc::sync::Arc;

/// Access to one block of device registers, by byte offset from its start.
///
/// # Safety
///
/// The implementer promises, for every offset within the block it was made for:
/// - each call is exactly one access of the named width, never split, merged, repeated or left out;
///   on aarch64 by a single plain load or store instruction, because a hypervisor cannot emulate
///   the writeback and pair forms that a compiler may choose for a volatile access;
/// - a write is performed after every store to [`DmaMemory`](super::DmaMemory) that the same CPU
///   made before it (a device that sees the write sees those stores), and a read is performed
///   before every later load (Linux's `writel` and `readl` have the same order);
/// - the block is a register block of the IOMMU that the driver was told of, and nobody else
///   writes it while the driver owns it.
///
/// The caller (a backend) promises nothing beyond the type system: it uses only offsets that its
/// specification defines, so the implementer may panic on an offset outside the block.
pub unsafe trait Mmio: Send + Sync + 'static {
    /// Reads 32 bits at `offset` bytes, which is a multiple of 4.
    fn read32(&self, offset: usize) -> u32;
    /// Writes 32 bits at `offset` bytes, which is a multiple of 4.
    fn write32(&self, offset: usize, value: u32);
    /// Reads 64 bits at `offset` bytes, which is a multiple of 8.
    fn read64(&self, offset: usize) -> u64;
    /// Writes 64 bits at `offset` bytes, which is a multiple of 8.
    fn write64(&self, offset: usize, value: u64);
}

// SAFETY: every duty is passed on to the value behind the pointer.
unsafe impl<T: Mmio> Mmio for Arc<T> {
    fn read32(&self, offset: usize) -> u32 {
        (**self).read32(offset)
    }
    fn write32(&self, offset: usize, value: u32) {
        (**self).write32(offset, value);
    }
    fn read64(&self, offset: usize) -> u64 {
        (**self).read64(offset)
    }
    fn write64(&self, offset: usize, value: u64) {
        (**self).write64(offset, value);
    }
}
