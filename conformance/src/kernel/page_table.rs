//! A page table of one address space: the stores to it, each cleaned as it is made.

use super::format;
use super::frames::{Frames, PAGE};
use crate::outcome::Outcome;
use crate::rig::Ram;
use iommu_core::page_table::Format;

/// One page table. Whoever changes it tells the notifiers.
#[derive(Clone, Copy, Debug)]
pub struct PageTable {
    /// The root table's physical address.
    pub root: u64,
    format: Format,
    levels: u8,
}

/// Bytes that an entry at `level` maps.
pub const fn span(level: u8) -> u64 {
    PAGE << (9 * level as u32)
}

impl PageTable {
    /// An empty table.
    pub fn new(ram: &dyn Ram, frames: &mut Frames, format: Format) -> Outcome<Self> {
        Ok(Self {
            root: frames.take(ram)?,
            format,
            levels: format::levels(format),
        })
    }

    /// How it is laid out.
    pub fn format(&self) -> Format {
        self.format
    }

    /// The physical address of the entry at `level` for a virtual address, if the tables above exist.
    pub fn slot(&self, ram: &dyn Ram, address: u64, level: u8) -> Option<u64> {
        let mut table = self.root;
        for above in (level + 1..self.levels).rev() {
            let entry = ram.load(entry_at(table, address, above));
            if !format::is_present(entry) || !format::is_table(self.format, entry, above) {
                return None;
            }
            table = format::address(self.format, entry);
        }
        Some(entry_at(table, address, level))
    }

    /// As [`slot`](Self::slot), with the tables above made where they are missing.
    pub fn make_slot(
        &self,
        ram: &dyn Ram,
        frames: &mut Frames,
        address: u64,
        level: u8,
    ) -> Outcome<u64> {
        let mut table = self.root;
        for above in (level + 1..self.levels).rev() {
            let slot = entry_at(table, address, above);
            let mut entry = ram.load(slot);
            if !format::is_present(entry) {
                entry = format::table(self.format, frames.take(ram)?);
                write(ram, slot, entry);
            }
            table = format::address(self.format, entry);
        }
        Ok(entry_at(table, address, level))
    }

    /// Takes out every table below the root that has become empty and lies on the way to `address`,
    /// from the leaf up, and hands them out: they are freed when no device can walk them any more.
    pub fn prune(&self, ram: &dyn Ram, address: u64) -> Vec<u64> {
        let mut taken = Vec::new();
        for level in 1..self.levels {
            let Some(slot) = self.slot(ram, address, level) else {
                continue;
            };
            let entry = ram.load(slot);
            if !format::is_present(entry) || !format::is_table(self.format, entry, level) {
                continue;
            }
            let table = format::address(self.format, entry);
            let empty = (0..PAGE).step_by(8).all(|at| ram.load(table + at) == 0);
            if !empty {
                break;
            }
            write(ram, slot, 0);
            taken.push(table);
        }
        taken
    }

    /// Frees every table. No device can walk it.
    pub fn destroy(self, ram: &dyn Ram, frames: &mut Frames) {
        self.destroy_below(ram, frames, self.root, self.levels - 1);
    }

    fn destroy_below(&self, ram: &dyn Ram, frames: &mut Frames, table: u64, level: u8) {
        for at in (0..PAGE).step_by(8) {
            let entry = ram.load(table + at);
            if format::is_present(entry) && format::is_table(self.format, entry, level) {
                let below = format::address(self.format, entry);
                self.destroy_below(ram, frames, below, level - 1);
            }
        }
        frames.give_back(ram, table);
    }
}

/// Stores one entry, and cleans it.
pub fn write(ram: &dyn Ram, slot: u64, entry: u64) {
    ram.store(slot, entry);
    ram.clean(slot, 8);
}

fn entry_at(table: u64, address: u64, level: u8) -> u64 {
    table + (address / span(level)) % 512 * 8
}
