//! A kernel's x86-64 page table in the machine's memory.

use iommu_model::Memory;
use std::sync::Arc;

pub const PRESENT: u64 = 1 << 0;
pub const WRITABLE: u64 = 1 << 1;
pub const USER: u64 = 1 << 2;
pub const ACCESSED: u64 = 1 << 5;
pub const DIRTY: u64 = 1 << 6;
pub const LARGE: u64 = 1 << 7;
pub const EXECUTE_DISABLE: u64 = 1 << 63;

/// What a kernel gives a process: readable and writable data.
pub const DATA: u64 = PRESENT | WRITABLE | USER;

/// Bits 51:12 of an entry.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

pub struct PageTable {
    pub memory: Arc<Memory>,
    pub root: u64,
    levels: u32,
}

impl PageTable {
    pub fn new(memory: &Arc<Memory>, levels: u32) -> Self {
        Self {
            memory: memory.clone(),
            root: memory.take(4096, 4096).unwrap(),
            levels,
        }
    }

    /// The entry for `address` in the table of `level`; tables above it are made.
    pub fn slot(&self, address: u64, level: u32) -> u64 {
        let mut table = self.root;
        for above in (level + 1..=self.levels).rev() {
            let slot = table + 8 * index(address, above);
            if self.memory.cpu_load(slot) & PRESENT == 0 {
                let next = self.memory.take(4096, 4096).unwrap();
                self.store(slot, next | DATA | ACCESSED);
            }
            table = self.memory.cpu_load(slot) & ADDRESS;
        }
        table + 8 * index(address, level)
    }

    /// Maps a page of `level` (1: 4 KiB, 2: 2 MiB, 3: 1 GiB).
    pub fn map_page(&self, address: u64, frame: u64, flags: u64, level: u32) {
        let large = if level > 1 { LARGE } else { 0 };
        self.store(self.slot(address, level), frame | flags | large);
    }

    pub fn map(&self, address: u64, frame: u64) {
        self.map_page(address, frame, DATA | EXECUTE_DISABLE, 1);
    }

    pub fn unmap(&self, address: u64) {
        self.store(self.slot(address, 1), 0);
    }

    pub fn entry(&self, address: u64, level: u32) -> u64 {
        self.memory.cpu_load(self.slot(address, level))
    }

    /// Stores an entry and writes it back to memory.
    pub fn store(&self, slot: u64, value: u64) {
        self.memory.cpu_store(slot, value);
        self.memory.clean_range(slot, 8);
    }
}

fn index(address: u64, level: u32) -> u64 {
    address >> (12 + 9 * (level - 1)) & 0x1ff
}
