//! A process's address space as this kernel has it: one page table that the processor runs on and
//! that a device may walk at the same time.
//!
//! Each change to it flushes the processor's own TLB. Devices are not told: that is what the
//! framework's notifiers are for, and calling them is the scenario's part.

use crate::arch::native::{cpu, paging};
use crate::memory::{self, Tables};
use crate::page_table::{MapError, PageTable};
use crate::region::Region;
use core::ptr;

/// One address space. It shares the kernel's half with all others.
#[derive(Debug)]
pub struct AddressSpace {
    table: PageTable<paging::Format>,
}

impl AddressSpace {
    /// An address space without user pages.
    pub fn new() -> Result<Self, MapError> {
        let table = memory::kernel_table().sibling(&mut Tables)?;
        Ok(Self { table })
    }

    /// The root table's physical address.
    pub fn root(&self) -> u64 {
        self.table.root()
    }

    /// What a device must know of the format besides the root.
    pub fn translation_control(&self) -> paging::TranslationControl {
        cpu::translation_control(self.table.levels())
    }

    /// The virtual addresses that pages can be mapped at.
    pub fn user_region(&self) -> Region {
        self.table.user_region()
    }

    /// Maps the page at virtual address `page` to `frame`, both multiples of 4096.
    pub fn map(&mut self, page: u64, frame: u64, writable: bool) -> Result<(), MapError> {
        let result = self.table.map(&mut Tables, page, frame, writable);
        cpu::flush_page(page);
        result
    }

    /// Forbids stores to the page at virtual address `page`.
    pub fn protect(&mut self, page: u64) -> Result<(), MapError> {
        let result = self.table.protect(&mut Tables, page);
        cpu::flush_page(page);
        result
    }

    /// Removes the page at virtual address `page`. Its frame is the caller's again, who frees it
    /// when no device can reach it any more.
    pub fn unmap(&mut self, page: u64) -> Result<u64, MapError> {
        let result = self.table.unmap(&mut Tables, page);
        cpu::flush_page(page);
        result
    }

    /// The physical address behind a virtual one, and whether stores are allowed.
    pub fn translate(&self, address: u64) -> Option<(u64, bool)> {
        self.table.translate(&Tables, address)
    }

    /// Makes the processor run on this address space until another is activated.
    pub fn activate(&self) {
        // SAFETY: every address space contains the kernel's identity mapping.
        unsafe { cpu::activate(self.root()) };
    }

    /// Loads the word at virtual address `address` (a multiple of 8) as the processor sees it.
    ///
    /// # Panics
    ///
    /// If the address space is not active or the page is not mapped: the load would fault.
    pub fn load(&self, address: u64) -> u64 {
        self.check(address, false);
        // SAFETY: the active table maps the aligned word to a frame of the pool, whose memory is
        // only accessed by volatile words.
        unsafe { ptr::read_volatile(address as *const u64) }
    }

    /// Stores `word` at virtual address `address` (a multiple of 8) as the processor does.
    ///
    /// # Panics
    ///
    /// If the address space is not active or the page is not mapped writable: the store would
    /// fault.
    pub fn store(&self, address: u64, word: u64) {
        self.check(address, true);
        // SAFETY: as for `load`, and the page is writable.
        unsafe { ptr::write_volatile(address as *mut u64, word) };
    }

    /// Frees the page table. `visit` gets virtual address and frame of each page that was still
    /// mapped; the frames are the caller's. The processor goes back to the kernel's own table if
    /// it was on this one.
    ///
    /// No device may walk the table any more.
    pub fn destroy(self, visit: impl FnMut(u64, u64)) {
        if cpu::active_root() == self.root() {
            activate_kernel();
        }
        self.table.destroy(&mut Tables, visit);
        cpu::flush_all();
    }

    fn check(&self, address: u64, store: bool) {
        assert!(address.is_multiple_of(8), "{address:#x} is not aligned");
        assert!(
            cpu::active_root() == self.root(),
            "the address space is not active"
        );
        let frame = self
            .translate(address)
            .filter(|(_, writable)| *writable || !store);
        let word = frame.map(|(physical, _)| Region {
            base: physical,
            size: 8,
        });
        assert!(
            word.is_some_and(|word| memory::pool().contains(&word)),
            "{address:#x} is not mapped for this access"
        );
    }
}

/// Makes the processor run on the kernel's own table.
pub fn activate_kernel() {
    // SAFETY: it is the table that the start code turned translation on with.
    unsafe { cpu::activate(memory::kernel_table().root()) };
}
