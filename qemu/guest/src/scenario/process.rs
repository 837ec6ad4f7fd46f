//! A process: its page table, its notifiers, and what devices see of it.
//!
//! This is what a kernel writes to embed the framework: after each change of a translation, one
//! call of [`Notifiers::invalidate_range`], and only then is the frame given back.

use super::ScenarioError;
use crate::address_space::AddressSpace;
use crate::memory;
use crate::page_table::PAGE_SIZE;
use alloc::sync::Arc;
use core_notifier::{AddressSpace as Notifiers, AddressSpaceLock, Range, Srcu};
use iommu_core::ids::PhysicalAddress;
use iommu_core::page_table::{Format, PageTable};
use iommu_core::sva::{Sva, SvaSpace};

/// This kernel has one processor, never switches threads and changes a page table only through
/// `&mut Process`, so whoever registers already excludes every change.
struct Alone;

impl AddressSpaceLock for Alone {
    type Guard<'a> = ();
    fn lock(&self) {}
}

/// A process whose address space devices share.
pub struct Process {
    memory: AddressSpace,
    notifiers: Arc<Notifiers>,
    shared: SvaSpace,
}

impl Process {
    /// An empty address space, active on the processor, joined to `sva`.
    pub fn new(sva: &Arc<Sva>, srcu: &Arc<Srcu>) -> Result<Self, ScenarioError> {
        let memory = AddressSpace::new()?;
        let notifiers = Arc::new(Notifiers::new(srcu.clone()));
        let shared = sva.join(notifiers.clone(), &Alone, describe(&memory))?;
        memory.activate();
        Ok(Self {
            memory,
            notifiers,
            shared,
        })
    }

    /// What devices see.
    pub fn shared(&self) -> &SvaSpace {
        &self.shared
    }

    /// Who is told of changes.
    pub fn notifiers(&self) -> &Arc<Notifiers> {
        &self.notifiers
    }

    /// The virtual address of the page with this number.
    pub fn page(&self, number: u64) -> u64 {
        self.memory.user_region().base + number * PAGE_SIZE
    }

    /// Maps a new zeroed frame, writable, and returns it. Nothing was there before, so nobody is
    /// told.
    pub fn map(&mut self, page: u64) -> Result<u64, ScenarioError> {
        let frame = memory::allocate_frames(1, PAGE_SIZE).ok_or(ScenarioError::OutOfFrames)?;
        self.memory.map(page, frame, true)?;
        Ok(frame)
    }

    /// Forbids stores to the page, everywhere.
    pub fn protect(&mut self, page: u64) -> Result<(), ScenarioError> {
        self.memory.protect(page)?;
        self.notify(page)
    }

    /// Removes the page, everywhere, and gives its frame back to the allocator, which poisons it.
    pub fn unmap(&mut self, page: u64) -> Result<u64, ScenarioError> {
        let frame = self.memory.unmap(page)?;
        self.notify(page)?;
        memory::free_frames(frame, 1);
        Ok(frame)
    }

    /// The process ends: devices are stopped, then its frames are freed. The page table lives on
    /// until the process is dropped by [`destroy`](Self::destroy).
    pub fn exit(&mut self, pages: &[u64]) -> Result<(), ScenarioError> {
        self.notifiers.release();
        for page in pages {
            let frame = self.memory.unmap(*page)?;
            memory::free_frames(frame, 1);
        }
        Ok(())
    }

    /// Frees the page table. Every device was unbound.
    pub fn destroy(self) {
        let Self { memory, shared, .. } = self;
        drop(shared);
        memory.destroy(|_, frame| memory::free_frames(frame, 1));
    }

    /// The word at a virtual address, as the processor sees it.
    pub fn load(&self, address: u64) -> u64 {
        self.memory.load(address)
    }

    /// Stores a word at a virtual address, as the processor does.
    pub fn store(&self, address: u64, word: u64) {
        self.memory.store(address, word);
    }

    fn notify(&self, page: u64) -> Result<(), ScenarioError> {
        let range = Range::new(page, page + PAGE_SIZE).map_err(ScenarioError::Range)?;
        self.notifiers.invalidate_range(range);
        Ok(())
    }
}

/// The page table as the framework describes one. Its entries are written back to memory as they
/// change ([`memory::Tables`]).
fn describe(memory: &AddressSpace) -> PageTable {
    let control = memory.translation_control();
    #[cfg(target_arch = "x86_64")]
    let format = Format::X86_64 {
        levels: control.levels,
    };
    #[cfg(target_arch = "aarch64")]
    let format = Format::Aarch64 {
        virtual_bits: control.virtual_bits,
        physical_bits: control.physical_bits,
        memory_attributes: control.memory_attributes,
    };
    #[cfg(target_arch = "riscv64")]
    let format = Format::Riscv64 {
        levels: control.levels,
    };
    PageTable {
        root: PhysicalAddress(memory.root()),
        format,
        written_back: true,
    }
}
