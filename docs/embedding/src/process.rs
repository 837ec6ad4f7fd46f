//! What the kernel's memory management calls.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core_notifier::{AddressSpace, AddressSpaceLock, Range, Srcu};
use iommu_core::error::AttachError;
use iommu_core::ids::{DeviceId, Pasid};
use iommu_core::iommu::Iommu;
use iommu_core::page_table::PageTable;
use iommu_core::sva::{BindError, JoinError, Requests, Sva, SvaSpace, UnbindError};
use spin::{Mutex, MutexGuard};

/// The kernel's own operations on one page table, whose calls change it and invalidate the CPUs' TLBs.
pub trait Memory: Send {
    /// A page frame.
    type Frame: Send;
    /// Removes the pages of the range; their frames.
    fn clear(&mut self, range: Range) -> Vec<Self::Frame>;
    /// Forbids stores in the range.
    fn write_protect(&mut self, range: Range);
    /// Unlinks tables that map nothing in the range; they are frames too.
    fn unlink_tables(&mut self, range: Range) -> Vec<Self::Frame>;
    /// Maps a frame.
    fn map(&mut self, address: u64, frame: Self::Frame);
}

// ANCHOR: lock
/// The lock that excludes every change of one address space.
#[derive(Debug)]
pub struct MemoryLock<M>(pub Mutex<M>);

impl<M: Memory> AddressSpaceLock for MemoryLock<M> {
    type Guard<'a>
        = MutexGuard<'a, M>
    where
        M: 'a;
    fn lock(&self) -> MutexGuard<'_, M> {
        self.0.lock()
    }
}
// ANCHOR_END: lock

// ANCHOR: process
/// A process whose memory devices may share.
pub struct Process<M: Memory> {
    /// Who is told of changes, beside the page table from the process's beginning.
    pub notifiers: Arc<AddressSpace>,
    /// The page table.
    pub memory: MemoryLock<M>,
    /// From the first device to the process's end.
    shared: Mutex<Option<Arc<SvaSpace>>>,
    /// Frames that hardware did not confirm to have forgotten.
    held: Mutex<Vec<M::Frame>>,
}

impl<M: Memory> Process<M> {
    /// A process. The kernel has one `Srcu` for all.
    pub fn new(srcu: &Arc<Srcu>, memory: M) -> Self {
        Self {
            notifiers: Arc::new(AddressSpace::new(srcu.clone())),
            memory: MemoryLock(Mutex::new(memory)),
            shared: Mutex::new(None),
            held: Mutex::new(Vec::new()),
        }
    }
    // ANCHOR_END: process

    // ANCHOR: bind
    /// What devices see of the process; it joins shared virtual addressing when it is first asked.
    ///
    /// # Errors
    ///
    /// No PASID is free, or the process has ended.
    pub fn share(&self, sva: &Arc<Sva>, table: PageTable) -> Result<Arc<SvaSpace>, JoinError> {
        let mut shared = self.shared.lock();
        if let Some(shared) = &*shared {
            return Ok(shared.clone());
        }
        let joined = Arc::new(sva.join(self.notifiers.clone(), &self.memory, table)?);
        Ok(shared.insert(joined).clone())
    }

    /// Lets a device work in the process; the PASID that its driver programs it with.
    ///
    /// # Errors
    ///
    /// Those of [`SvaSpace::bind`]; nothing has changed then.
    pub fn bind(
        shared: &SvaSpace,
        iommu: &Arc<dyn Iommu>,
        device: DeviceId,
    ) -> Result<Pasid, BindError> {
        shared.bind(iommu, device, Requests::Tagged)?;
        Ok(shared.pasid())
    }

    /// The device's driver has stopped it from using the PASID.
    ///
    /// # Errors
    ///
    /// Those of [`SvaSpace::unbind`].
    pub fn unbind(
        shared: &SvaSpace,
        iommu: &Arc<dyn Iommu>,
        device: DeviceId,
    ) -> Result<(), UnbindError> {
        shared.unbind(iommu, device, Requests::Tagged)
    }
    // ANCHOR_END: bind

    // ANCHOR: unmap
    /// Removes the pages of a range, and frees them when no device uses them any more.
    pub fn unmap(&self, range: Range, free: impl FnMut(M::Frame)) {
        let frames = {
            let mut memory = self.memory.lock();
            let frames = memory.clear(range); // 1. The page table, and the CPUs' TLBs.
            self.notifiers.invalidate_range(range); // 2. The devices: done when it returns.
            frames
        };
        self.reuse(frames, free); // 3. Only now.
    }

    /// Frees what was unmapped, or holds it if hardware did not confirm.
    fn reuse(&self, frames: Vec<M::Frame>, free: impl FnMut(M::Frame)) {
        if self.is_settled() {
            frames.into_iter().for_each(free);
        } else {
            self.held.lock().extend(frames); // A thread that may sleep calls `settle`.
        }
    }

    fn is_settled(&self) -> bool {
        let shared = self.shared.lock();
        shared.as_ref().is_none_or(|shared| shared.is_settled())
    }

    /// In a thread that may sleep: cuts off devices that do not answer, and frees what was held.
    ///
    /// # Errors
    ///
    /// The IOMMU itself does not answer; everything stays held.
    pub fn settle(&self, free: impl FnMut(M::Frame)) -> Result<(), AttachError> {
        let shared = self.shared.lock().clone();
        // Taken before, as what is held meanwhile may be of a later failure.
        let held = core::mem::take(&mut *self.held.lock());
        match shared.map_or(Ok(()), |shared| shared.settle()) {
            Ok(()) => held.into_iter().for_each(free),
            Err(error) => {
                self.held.lock().extend(held);
                return Err(error);
            }
        }
        Ok(())
    }
    // ANCHOR_END: unmap

    // ANCHOR: protect
    /// Makes a range read-only: `mprotect`, a page that is about to be written back, and `fork` for
    /// what parent and child will copy on write.
    pub fn protect(&self, range: Range) {
        let mut memory = self.memory.lock();
        memory.write_protect(range);
        self.notifiers.invalidate_range(range);
    }

    /// The child has notifiers of its own, and no device: bindings and PASID stay with the parent.
    pub fn fork(&self, srcu: &Arc<Srcu>, writable: Range, copy: impl FnOnce(&mut M) -> M) -> Self {
        let mut memory = self.memory.lock();
        memory.write_protect(writable);
        let child = copy(&mut memory);
        self.notifiers.invalidate_range(writable);
        Self::new(srcu, child)
    }

    /// Copy on write: the old translation is gone everywhere before the new one is there.
    pub fn replace(&self, page: Range, frame: M::Frame, free: impl FnMut(M::Frame)) {
        let old = {
            let mut memory = self.memory.lock();
            let old = memory.clear(page);
            self.notifiers.invalidate_range(page);
            memory.map(page.start(), frame);
            old
        };
        self.reuse(old, free);
    }
    // ANCHOR_END: protect

    // ANCHOR: tables
    /// Frees tables that have become empty: IOMMUs keep what they read of them.
    pub fn free_tables(&self, range: Range, free: impl FnMut(M::Frame)) {
        let tables = {
            let mut memory = self.memory.lock();
            let tables = memory.unlink_tables(range);
            self.notifiers.invalidate_range(range);
            tables
        };
        self.reuse(tables, free);
    }
    // ANCHOR_END: tables

    // ANCHOR: exit
    /// The process ends. Devices may still be at work, and their drivers unbind them later.
    pub fn exit(&self, everything: Range, free: impl FnMut(M::Frame)) {
        self.notifiers.release(); // Every device is blocked; its page requests are refused.
        let frames = self.memory.lock().clear(everything);
        self.reuse(frames, free);
    }
}

impl<M: Memory> Drop for Process<M> {
    /// What is still bound is unbound, and the PASID is free again, before the page table is freed
    /// with `memory`. Who kept a handle of `share` has dropped it.
    fn drop(&mut self) {
        drop(self.shared.lock().take());
    }
}
// ANCHOR_END: exit

// ANCHOR: kernel-half
/// A page-table page of the kernel's half is freed, where every process's root table leads to it
/// (x86-64, RISC-V): every address space that devices share may have it in an IOMMU's caches.
pub fn free_kernel_table<'a>(
    range: Range,
    all: impl Iterator<Item = &'a Arc<AddressSpace>>,
    free: impl FnOnce(),
) {
    all.for_each(|notifiers| notifiers.invalidate_range(range));
    free();
}
// ANCHOR_END: kernel-half
