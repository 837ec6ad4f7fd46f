//! Walks through page tables: first stage, second stage, and the one nested in the other (chapter 3).

use super::State;
use super::caches::{Stage, Structure, Tag};
use super::requests::{Fault, Space};
use super::tables::{PasidEntry, Translates};
use crate::bus::{Access, Permissions, Refusal, Request};

/// Bits 63:12 of an address.
pub(super) const PAGE: u64 = !0xfff;

/// The address in a paging entry.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// The end of a walk, as the IOTLB keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Leaf {
    /// The first byte of the page.
    pub page: u64,
    /// Its size, as a power of two.
    pub order: u32,
    /// First stage: U/S and R/W of every entry, XD of any.
    pub user: bool,
    pub write: bool,
    pub no_execute: bool,
    /// Second stage: R and W of every entry.
    pub second_read: bool,
    pub second_write: bool,
    /// Whether every dirty bit that a write must set is set.
    pub dirty: bool,
}

impl Leaf {
    /// What it permits to a requester (3.6.1).
    pub fn permissions(&self, entry: &PasidEntry, privileged: bool) -> Permissions {
        let read = (self.user || privileged) && self.second_read;
        let write = self.write || privileged && !entry.write_protect;
        let fetch_from_user = privileged && entry.supervisor_fetch_protect && self.user;
        Permissions {
            read,
            write: (self.user || privileged) && write && self.second_write,
            execute: read && entry.execute && !self.no_execute && !fetch_from_user,
        }
    }
}

/// A table of a walk in progress.
#[derive(Clone, Copy)]
struct At {
    table: u64,
    level: u32,
    read: bool,
    write: bool,
    user: bool,
    no_execute: bool,
}

impl At {
    const fn root(table: u64, level: u32) -> Self {
        Self {
            table,
            level,
            read: true,
            write: true,
            user: true,
            no_execute: false,
        }
    }

    const fn cached(structure: Structure) -> Self {
        Self {
            table: structure.table,
            level: structure.level,
            read: structure.read,
            write: structure.write,
            user: structure.user,
            no_execute: structure.no_execute,
        }
    }

    const fn structure(self) -> Structure {
        Structure {
            table: self.table,
            level: self.level,
            read: self.read,
            write: self.write,
            user: self.user,
            no_execute: self.no_execute,
        }
    }

    const fn slot(self, address: u64) -> u64 {
        self.table + 8 * (address >> (12 + 9 * (self.level - 1)) & 0x1ff)
    }
}

/// Why a walk stopped: with a fault, or because an entry changed under it.
pub(super) enum Stopped {
    Fault(Fault),
    Changed,
}

impl From<Fault> for Stopped {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl State {
    /// The first stage (3.6), nested in the second if the entry says so (3.8).
    pub(super) fn walk_first(&mut self, request: &Request, space: &Space) -> Result<Leaf, Stopped> {
        let (entry, address) = (&space.entry, request.address);
        if !is_canonical(address, 12 + 9 * entry.first_levels) {
            let refusal = Refusal::UnsupportedRequest;
            return Err(Fault::unless(entry.faults_masked, 0x80, refusal).into());
        }
        let mut at = match self.caches.structure(space.tag, address) {
            Some(structure) => At::cached(structure),
            None => At::root(entry.first_root, entry.first_levels),
        };
        let mut used = Vec::new();
        loop {
            let is_root = at.level == entry.first_levels;
            let slot = self.table_slot(entry, at.slot(address), is_root)?;
            let unreadable = if is_root { 0x73 } else { 0x70 };
            let word = self
                .load(slot.physical, entry.snoops)
                .ok_or(Fault::of_table(entry, unreadable))?;
            if word & 1 == 0 {
                return Err(Fault::of_page(entry, 0x71).into());
            }
            let is_leaf = at.level == 1 || at.level <= 3 && word >> 7 & 1 != 0;
            if word & self.first_reserved(at.level, is_leaf) != 0 {
                return Err(Fault::of_table(entry, 0x72).into());
            }
            at.write &= word >> 1 & 1 != 0;
            at.user &= word >> 2 & 1 != 0;
            at.no_execute |= entry.no_execute && word >> 63 != 0;
            used.push((slot, word));
            if !is_leaf {
                at.level -= 1;
                at.table = word & ADDRESS;
                self.caches
                    .keep_structure(space.tag, address, at.structure());
                continue;
            }
            let order = 12 + 9 * (at.level - 1);
            let page = word & (ADDRESS >> order << order);
            let first = Leaf {
                page,
                order,
                user: at.user,
                write: at.write,
                no_execute: at.no_execute,
                second_read: true,
                second_write: true,
                dirty: false,
            };
            return self.finish_first(request, space, first, &used);
        }
    }

    /// Checks what the leaf permits, sets accessed and dirty bits, and puts the second stage behind.
    fn finish_first(
        &mut self,
        request: &Request,
        space: &Space,
        mut leaf: Leaf,
        used: &[(Slot, u64)],
    ) -> Result<Leaf, Stopped> {
        let entry = &space.entry;
        let permissions = leaf.permissions(entry, space.privileged);
        let write = request.access == Access::Write;
        if !permissions.permit(request.access) {
            let code = match request.access {
                _ if !permissions.read => 0x81,
                Access::Write => 0x85,
                Access::Execute => 0x82,
                Access::Read => 0x86,
            };
            return Err(Fault::of_page(entry, code).into());
        }
        let last = used.len() - 1;
        for (index, &(slot, word)) in used.iter().enumerate() {
            let dirty = if index == last && write { 1 << 6 } else { 0 };
            self.mark(entry, slot, word, 1 << 5 | dirty)?;
        }
        leaf.dirty = write || used[last].1 >> 6 & 1 != 0;
        if entry.translates == Translates::Nested {
            let inside = leaf.page + (request.address & ((1 << leaf.order) - 1));
            let second = self.walk_second(entry, inside, write)?;
            let order = leaf.order.min(second.order);
            let physical = second.page + (inside & ((1 << second.order) - 1));
            leaf = Leaf {
                page: physical >> order << order,
                order,
                second_read: second.second_read,
                second_write: second.second_write,
                dirty: leaf.dirty && second.dirty,
                ..leaf
            };
        }
        Ok(leaf)
    }

    /// Sets bits in an entry of the first stage that are not set yet (3.6.2).
    fn mark(&self, entry: &PasidEntry, slot: Slot, word: u64, bits: u64) -> Result<(), Stopped> {
        if word & bits == bits {
            return Ok(());
        }
        if !entry.snoops && !self.configuration.updates_without_snoop {
            return Err(Fault::of_table(entry, 0x90).into());
        }
        if !slot.writable {
            return Err(Fault::of_table(entry, 0x77).into());
        }
        self.exchange(slot.physical, word, word | bits, entry.snoops)
    }

    /// Where an entry of the first stage lies: its address is translated by the second stage if
    /// there is one.
    fn table_slot(&mut self, entry: &PasidEntry, at: u64, is_root: bool) -> Result<Slot, Stopped> {
        if entry.translates != Translates::Nested {
            return Ok(Slot {
                physical: at,
                writable: true,
            });
        }
        let leaf = self.walk_second(entry, at, false).map_err(|stopped| {
            match stopped {
                // No permission to read a table.
                Stopped::Fault(fault) if fault.code == 0x86 => {
                    Stopped::Fault(Fault::of_page(entry, if is_root { 0x75 } else { 0x76 }))
                }
                other => other,
            }
        })?;
        Ok(Slot {
            physical: leaf.page + (at & ((1 << leaf.order) - 1)),
            writable: leaf.second_write,
        })
    }

    /// The second stage (3.7).
    pub(super) fn walk_second(
        &mut self,
        entry: &PasidEntry,
        address: u64,
        write: bool,
    ) -> Result<Leaf, Stopped> {
        if address >> (12 + 9 * entry.second_levels) != 0 {
            let nested = entry.translates == Translates::Nested;
            let code = if nested { 0x74 } else { 0x83 };
            let refusal = Refusal::UnsupportedRequest;
            return Err(Fault::unless(entry.faults_masked, code, refusal).into());
        }
        let tag = Tag {
            domain: entry.domain,
            pasid: 0,
            stage: Stage::Second,
        };
        let mut at = match self.caches.structure(tag, address) {
            Some(structure) => At::cached(structure),
            None => At::root(entry.second_root, entry.second_levels),
        };
        let mut used = Vec::new();
        loop {
            let slot = at.slot(address);
            let unreadable = if at.level == entry.second_levels {
                0x7b
            } else {
                0x78
            };
            let word = self
                .load(slot, entry.snoops)
                .ok_or(Fault::of_table(entry, unreadable))?;
            if word & 0b11 == 0 {
                return Err(Fault::of_page(entry, 0x79).into());
            }
            let is_leaf = at.level == 1 || at.level <= 3 && word >> 7 & 1 != 0;
            if word & self.second_reserved(at.level, is_leaf) != 0 {
                return Err(Fault::of_table(entry, 0x7a).into());
            }
            at.read &= word & 1 != 0;
            at.write &= word >> 1 & 1 != 0;
            used.push((slot, word));
            if !is_leaf {
                at.level -= 1;
                at.table = word & ADDRESS;
                self.caches.keep_structure(tag, address, at.structure());
                continue;
            }
            if !(if write { at.write } else { at.read }) {
                let code = if write { 0x85 } else { 0x86 };
                return Err(Fault::of_page(entry, code).into());
            }
            self.mark_second(entry, write, &used)?;
            let order = 12 + 9 * (at.level - 1);
            return Ok(Leaf {
                page: word & (ADDRESS >> order << order),
                order,
                user: true,
                write: true,
                no_execute: false,
                second_read: at.read,
                second_write: at.write,
                dirty: !entry.second_dirty || write || word >> 9 & 1 != 0,
            });
        }
    }

    fn mark_second(
        &self,
        entry: &PasidEntry,
        write: bool,
        used: &[(u64, u64)],
    ) -> Result<(), Stopped> {
        if !entry.second_dirty {
            return Ok(());
        }
        let last = used.len() - 1;
        for (index, &(slot, word)) in used.iter().enumerate() {
            let dirty = if index == last && write { 1 << 9 } else { 0 };
            let bits = 1 << 8 | dirty;
            if word & bits == bits {
                continue;
            }
            if !entry.snoops && !self.configuration.updates_without_snoop {
                return Err(Fault::of_table(entry, 0x7c).into());
            }
            self.exchange(slot, word, word | bits, entry.snoops)?;
        }
        Ok(())
    }

    fn exchange(&self, at: u64, old: u64, new: u64, snoops: bool) -> Result<(), Stopped> {
        match self.compare_exchange(at, old, new, snoops) {
            Some(true) => Ok(()),
            _ => Err(Stopped::Changed),
        }
    }

    /// Reserved bits of a first-stage entry (9.7). Bits 62:52 are ignored, and so is bit 63 unless
    /// NXE makes it XD.
    fn first_reserved(&self, level: u32, is_leaf: bool) -> u64 {
        let address = self.beyond_width() & 0x000f_ffff_ffff_ffff;
        address | self.page_size_reserved(level, is_leaf, 0x1000)
    }

    /// Reserved bits of a second-stage entry (9.8).
    fn second_reserved(&self, level: u32, is_leaf: bool) -> u64 {
        let snoop_control = if is_leaf { 1 << 11 } else { 0 };
        self.beyond_width() & 0x000f_ffff_ffff_ffff
            | snoop_control
            | self.page_size_reserved(level, is_leaf, 0)
    }

    /// PS where no page is possible, and the address bits below a large page; bit 12 is PAT in the
    /// first stage.
    fn page_size_reserved(&self, level: u32, is_leaf: bool, memory_type: u64) -> u64 {
        let giant = level == 3 && !self.configuration.giant_pages;
        match (level, is_leaf) {
            (1, _) => 0,
            (2 | 3, true) if !giant => ((1u64 << (12 + 9 * (level - 1))) - 0x1000) & !memory_type,
            (2, false) => 0,
            _ => 1 << 7,
        }
    }
}

/// Where an entry lies, and whether the second stage lets the hardware write there.
#[derive(Clone, Copy)]
struct Slot {
    physical: u64,
    writable: bool,
}

/// Whether all bits from `width - 1` upwards are alike.
const fn is_canonical(address: u64, width: u32) -> bool {
    let unused = u64::BITS - width;
    ((address << unused) as i64 >> unused) as u64 == address
}
