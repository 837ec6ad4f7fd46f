//! Requests to translations: which tables a request uses, and the walks through them (chapter 3).

use super::State;
use super::caches::{Stage, Structure, Tag};
use super::tables::{ContextEntry, PasidEntry, Translates};
use crate::bus::{Access, Permissions, Refusal, Request, Translation};

/// Bits 63:12 of an address.
pub(super) const PAGE: u64 = !0xfff;

/// The address in a paging entry.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// How often a walk begins anew because software changed an entry under it.
const ATTEMPTS: usize = 8;

/// Why a request is refused (table of fault reasons in 7.1.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub code: u8,
    /// What the device is told.
    pub refusal: Refusal,
    /// Whether a fault record is written.
    pub recorded: bool,
}

impl Fault {
    /// A fault that is recorded whatever FPD says.
    pub const fn always(code: u8, refusal: Refusal) -> Self {
        Self {
            code,
            refusal,
            recorded: true,
        }
    }

    /// A fault that is recorded unless FPD says no.
    pub const fn unless(masked: bool, code: u8, refusal: Refusal) -> Self {
        Self {
            code,
            refusal,
            recorded: !masked,
        }
    }

    /// A fault that a page request may make good.
    const fn of_page(entry: &PasidEntry, code: u8) -> Self {
        Self::unless(entry.faults_masked, code, Refusal::NotPresent)
    }

    /// A paging entry that the hardware cannot use.
    const fn of_table(entry: &PasidEntry, code: u8) -> Self {
        Self::unless(entry.faults_masked, code, Refusal::CompleterAbort)
    }
}

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
    fn permissions(&self, entry: &PasidEntry, privileged: bool) -> Permissions {
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

/// Whose address space a request is in.
struct Space {
    entry: PasidEntry,
    tag: Tag,
    privileged: bool,
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
enum Stopped {
    Fault(Fault),
    Changed,
}

impl From<Fault> for Stopped {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl State {
    /// Translates a request, or an ATS translation request if `for_device`.
    pub(super) fn translation(
        &mut self,
        request: &Request,
        for_device: bool,
    ) -> Result<Translation, Fault> {
        let space = self.space(request, for_device)?;
        let PasidEntry { translates, .. } = space.entry;
        if translates == Translates::PassThrough {
            return self.pass_through(request, &space);
        }
        let leaf = self.leaf(request, &space)?;
        let mut permissions = leaf.permissions(&space.entry, space.privileged);
        if for_device {
            // A translation without the dirty bit is given out for reading only.
            permissions.write &= leaf.dirty;
            permissions.execute &= request.access == Access::Execute;
        }
        let translation = Translation {
            address: leaf.page + (request.address & ((1 << leaf.order) - 1)),
            size: 1 << leaf.order,
            permissions,
        };
        self.outside_interrupts(&space, translation)
    }

    /// The entries that say how the request is translated, and whether it may be made at all.
    fn space(&mut self, request: &Request, for_device: bool) -> Result<Space, Fault> {
        let unsupported = Refusal::UnsupportedRequest;
        let Ok(source_id) = u16::try_from(request.device) else {
            return Err(Fault::unless(true, 0, unsupported));
        };
        let context: ContextEntry = self.context(source_id)?;
        let blocked = |code| Err(context.fault(code));
        if for_device && !context.device_tlb {
            return blocked(0x44);
        }
        if request.pasid.is_some() && !context.pasids {
            return blocked(0x45);
        }
        let privileged = match request.pasid {
            Some(_) => request.privileged,
            None => context.rid_privileged,
        };
        let pasid = request.pasid.unwrap_or(context.rid_pasid);
        let entry = self.pasid(source_id, &context, pasid)?;
        if request.access == Access::Execute && !entry.execute {
            return Err(Fault::unless(entry.faults_masked, 0x5c, unsupported));
        }
        if privileged && !entry.supervisor {
            return Err(Fault::unless(entry.faults_masked, 0x5d, unsupported));
        }
        let (stage, pasid) = match entry.translates {
            Translates::First => (Stage::First, pasid),
            Translates::Nested => (Stage::Nested, pasid),
            Translates::Second | Translates::PassThrough => (Stage::Second, 0),
        };
        let domain = entry.domain;
        Ok(Space {
            entry,
            tag: Tag {
                domain,
                pasid,
                stage,
            },
            privileged,
        })
    }

    fn pass_through(&self, request: &Request, space: &Space) -> Result<Translation, Fault> {
        if request.address & self.beyond_width() != 0 {
            let masked = space.entry.faults_masked;
            return Err(Fault::unless(masked, 0x83, Refusal::UnsupportedRequest));
        }
        let translation = Translation {
            address: request.address,
            size: 0x1000,
            permissions: Permissions {
                read: true,
                write: true,
                execute: space.entry.execute,
            },
        };
        self.outside_interrupts(space, translation)
    }

    /// No translation leads into the interrupt range (3.14).
    fn outside_interrupts(
        &self,
        space: &Space,
        translation: Translation,
    ) -> Result<Translation, Fault> {
        if super::is_interrupt(translation.address) {
            let masked = space.entry.faults_masked;
            return Err(Fault::unless(masked, 0x87, Refusal::UnsupportedRequest));
        }
        Ok(translation)
    }

    /// The page of a request: out of the IOTLB if what is there is enough, else by a walk.
    fn leaf(&mut self, request: &Request, space: &Space) -> Result<Leaf, Fault> {
        let enough = |leaf: &Leaf| {
            let permissions = leaf.permissions(&space.entry, space.privileged);
            permissions.permit(request.access) && (leaf.dirty || request.access != Access::Write)
        };
        let cached = self.caches.translations(space.tag, request.address);
        for translated in cached {
            match translated {
                Ok(leaf) if enough(&leaf) => return Ok(leaf),
                Ok(_) => {}
                Err(fault) => return Err(fault),
            }
        }
        let walked = self.walk(request, space);
        match walked {
            Ok(leaf) => {
                let (tag, address) = (space.tag, request.address);
                self.caches
                    .keep_translation(tag, address, leaf.order, walked);
            }
            // Caching mode is about all structures but the first stage's (6.1).
            Err(fault) if self.configuration.caching_mode && is_of_second_stage(fault) => {
                let (tag, address) = (space.tag, request.address);
                self.caches.keep_translation(tag, address, 12, walked);
            }
            Err(_) => {}
        }
        walked
    }

    fn walk(&mut self, request: &Request, space: &Space) -> Result<Leaf, Fault> {
        for _ in 0..ATTEMPTS {
            let walked = match space.entry.translates {
                Translates::First | Translates::Nested => self.walk_first(request, space),
                _ => {
                    let write = request.access == Access::Write;
                    self.walk_second(&space.entry, request.address, write)
                }
            };
            match walked {
                Ok(leaf) => return Ok(leaf),
                Err(Stopped::Fault(fault)) => return Err(fault),
                Err(Stopped::Changed) => {}
            }
        }
        Err(Fault::of_table(&space.entry, 0x70))
    }

    /// The first stage (3.6), nested in the second if the entry says so (3.8).
    fn walk_first(&mut self, request: &Request, space: &Space) -> Result<Leaf, Stopped> {
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
    fn walk_second(
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

/// Whether the fault came from an entry of the second stage.
const fn is_of_second_stage(fault: Fault) -> bool {
    matches!(fault.code, 0x78..=0x7c)
}
