//! A process whose address space devices share: every change of its page table, in the order in
//! which a kernel makes it, told to the notifiers and to the oracle.

use super::frames::{HUGE, PAGE};
use super::page_table::{self, PageTable, span};
use super::{Kernel, Rights, format, lock};
use crate::oracle::{Requester, Space};
use crate::outcome::{Outcome, failed};
use core_notifier::{AddressSpace, AddressSpaceLock, Event, Invalidation, Range};
use iommu_core::error::AttachError;
use iommu_core::ids::PhysicalAddress;
use iommu_core::page_request::PageRequestHandler;
use iommu_core::page_table::PageTable as Described;
use iommu_core::sva::{BindError, Requests, SvaSpace, UnbindError};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

/// How a change is announced; the promise is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Announce {
    /// `invalidate_range` under the page-table lock.
    Range,
    /// Between a start and an end, which invalidates.
    Section,
    /// Page by page into a batch, which is flushed.
    Batch,
}

#[derive(Clone, Copy, Debug)]
struct Mapping {
    frame: u64,
    level: u8,
    rights: Rights,
}

/// What the kernel's lock over an address space protects.
struct Memory {
    table: PageTable,
    mappings: BTreeMap<u64, Mapping>,
    /// The process has ended: nothing is mapped any more.
    ended: bool,
}

struct MemoryMapLock<'a>(&'a Mutex<Memory>);

impl AddressSpaceLock for MemoryMapLock<'_> {
    type Guard<'a>
        = MutexGuard<'a, Memory>
    where
        Self: 'a;
    fn lock(&self) -> MutexGuard<'_, Memory> {
        lock(self.0)
    }
}

/// What a process removed and may not be reused, as some hardware did not confirm to have forgotten it.
#[derive(Default)]
struct Held {
    pages: Vec<(u64, u8)>,
    mappings: Vec<Mapping>,
    tables: Vec<u64>,
}

/// One process.
pub struct Process {
    kernel: Arc<Kernel>,
    /// Its number with the oracle.
    pub space: Space,
    /// Who is told of changes.
    pub notifiers: Arc<AddressSpace>,
    memory: Mutex<Memory>,
    shared: Option<SvaSpace>,
    bound: Mutex<Vec<Requester>>,
    announce: Mutex<Announce>,
    held: Mutex<Held>,
}

impl Kernel {
    /// A process with an empty address space, joined to shared virtual addressing.
    pub fn process(self: &Arc<Self>) -> Outcome<Process> {
        let format = self.rig.format();
        let table = PageTable::new(self.rig.ram(), &mut self.frames(), format)?;
        let memory = Mutex::new(Memory {
            table,
            mappings: BTreeMap::new(),
            ended: false,
        });
        let notifiers = Arc::new(AddressSpace::new(self.srcu.clone()));
        let described = Described {
            root: PhysicalAddress(table.root),
            format,
            written_back: true,
        };
        let shared = self
            .sva
            .join(notifiers.clone(), &MemoryMapLock(&memory), described)?;
        Ok(Process {
            kernel: self.clone(),
            space: self.oracle.space(),
            notifiers,
            memory,
            shared: Some(shared),
            bound: Mutex::default(),
            announce: Mutex::new(Announce::Range),
            held: Mutex::default(),
        })
    }
}

impl Process {
    /// How its changes are announced from now on.
    pub fn announce_by(&self, announce: Announce) {
        *lock(&self.announce) = announce;
    }

    /// What devices see.
    pub fn shared(&self) -> &SvaSpace {
        self.shared.as_ref().expect("it is taken by destroy only")
    }

    /// Its PASID, as a device puts it on a request; none if devices send no PASIDs.
    pub fn pasid(&self) -> Option<u32> {
        let sent = self.kernel.rig.sends_pasids();
        sent.then(|| self.shared().pasid().get())
    }

    pub(super) fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    /// The root table's physical address.
    pub fn root(&self) -> u64 {
        lock(&self.memory).table.root
    }

    /// What devices are bound for where a case says `requests`, and who that is to the oracle.
    fn requester(&self, seat: usize, requests: Requests) -> (Requests, Requester) {
        let device = self.kernel.seat(seat).1.device.0;
        match (requests, self.pasid()) {
            (Requests::Tagged, Some(pasid)) => (Requests::Tagged, (device, Some(pasid))),
            _ => (Requests::Untagged, (device, None)),
        }
    }

    /// Binds the device on a seat.
    ///
    /// # Errors
    ///
    /// The framework's own.
    pub fn bind(&self, seat: usize, requests: Requests) -> Result<(), BindError> {
        let (iommu, place) = self.kernel.seat(seat);
        let (requests, requester) = self.requester(seat, requests);
        self.bind_by(requester, || {
            self.shared().bind(iommu, place.device, requests)
        })
    }

    /// Binds the device on a seat by PASID, and lets `handler` resolve its page faults.
    ///
    /// # Errors
    ///
    /// The framework's own.
    pub fn bind_paged(
        &self,
        seat: usize,
        handler: Arc<dyn PageRequestHandler>,
    ) -> Result<(), BindError> {
        let device = self.kernel.seat(seat).1.device;
        let page_requests = self.kernel.page_requests(seat);
        let shared = self.shared();
        let (requests, requester) = self.requester(seat, Requests::Tagged);
        let bind = || shared.bind_with_page_requests(page_requests, device, requests, handler);
        self.bind_by(requester, bind)
    }

    fn bind_by(
        &self,
        requester: Requester,
        bind: impl FnOnce() -> Result<(), BindError>,
    ) -> Result<(), BindError> {
        let kernel = &self.kernel;
        if lock(&self.bound).contains(&requester) {
            return bind();
        }
        kernel
            .oracle
            .binding(requester, self.space, kernel.rig.now());
        let result = bind();
        kernel
            .oracle
            .bound(requester, result.is_ok(), kernel.rig.now());
        if result.is_ok() {
            lock(&self.bound).push(requester);
        }
        result
    }

    /// Unbinds it; the device's driver stops it first.
    ///
    /// # Errors
    ///
    /// The framework's own.
    pub fn unbind(&self, seat: usize, requests: Requests) -> Result<(), UnbindError> {
        let (requests, requester) = self.requester(seat, requests);
        self.kernel.rig.stop(seat, requester.1);
        self.unbind_running(seat, requests)
    }

    /// Unbinds it while it works, which a broken driver may do: the device is cut off.
    ///
    /// # Errors
    ///
    /// The framework's own.
    pub fn unbind_running(&self, seat: usize, requests: Requests) -> Result<(), UnbindError> {
        let kernel = &self.kernel;
        let (requests, requester) = self.requester(seat, requests);
        let (iommu, place) = kernel.seat(seat);
        if !lock(&self.bound).contains(&requester) {
            return self.shared().unbind(iommu, place.device, requests);
        }
        kernel.oracle.unbinding(requester, kernel.rig.now());
        let result = self.shared().unbind(iommu, place.device, requests);
        if result.is_ok() {
            kernel.oracle.unbound(requester, kernel.rig.now());
            lock(&self.bound).retain(|other| *other != requester);
        }
        result
    }

    /// Maps a new zeroed frame; nothing was there before, so nobody is told.
    pub fn map(&self, page: u64, rights: Rights) -> Outcome<u64> {
        let frame = self.kernel.take_frame()?;
        self.map_at(&mut lock(&self.memory), page, frame, 0, rights)?;
        Ok(frame)
    }

    /// Maps a new zeroed huge frame.
    pub fn map_huge(&self, page: u64, rights: Rights) -> Outcome<u64> {
        let frame = self.kernel.frames().take_huge(self.kernel.rig.ram())?;
        self.map_at(&mut lock(&self.memory), page, frame, 1, rights)?;
        Ok(frame)
    }

    fn map_at(
        &self,
        memory: &mut Memory,
        page: u64,
        frame: u64,
        level: u8,
        rights: Rights,
    ) -> Outcome {
        let kernel = &self.kernel;
        let ram = kernel.rig.ram();
        let slot = memory
            .table
            .make_slot(ram, &mut kernel.frames(), page, level)?;
        let mapping = Mapping {
            frame,
            level,
            rights,
        };
        self.tell_mapping(page, mapping);
        page_table::write(
            ram,
            slot,
            format::leaf(kernel.rig.format(), frame, level, rights),
        );
        if kernel.caches_not_present() && !kernel.is_silent() {
            let range = Range::with_length(page, span(level))?;
            self.notifiers.invalidate_range(range);
        }
        if self.is_settled() {
            self.tell_mapped(page, level);
        }
        memory.mappings.insert(page, mapping);
        Ok(())
    }

    /// Removes what is mapped in `start..end` and frees the frames.
    pub fn unmap(&self, start: u64, end: u64) -> Outcome {
        self.unmap_and(start, end, false)
    }

    /// As [`unmap`](Self::unmap), and frees the page-table pages that have become empty.
    pub fn unmap_and_prune(&self, start: u64, end: u64) -> Outcome {
        self.unmap_and(start, end, true)
    }

    /// Removes the page at `page` and announces `range`, which holds at least a byte of it.
    pub fn unmap_telling(&self, page: u64, range: Range) -> Outcome {
        let memory = &mut *lock(&self.memory);
        let Some(mapping) = memory.mappings.remove(&page) else {
            return failed("there is no page to unmap");
        };
        let pages = [(page, mapping.level)];
        let clear = || self.clear(&memory.table, page, mapping.level);
        let confirmed = self.change_telling(range, &pages, clear)?;
        self.give_back(confirmed, [mapping], Vec::new());
        Ok(())
    }

    fn unmap_and(&self, start: u64, end: u64, prune: bool) -> Outcome {
        let kernel = &self.kernel;
        let ram = kernel.rig.ram();
        let memory = &mut *lock(&self.memory);
        let gone: Vec<(u64, Mapping)> = memory
            .mappings
            .range(start..end)
            .map(|(&page, &mapping)| (page, mapping))
            .collect();
        let mut tables = Vec::new();
        let pages: Vec<(u64, u8)> = gone.iter().map(|&(page, it)| (page, it.level)).collect();
        let confirmed = self.change(start, end, &pages, || {
            for &(page, mapping) in &gone {
                memory.mappings.remove(&page);
                self.clear(&memory.table, page, mapping.level)?;
                kernel.breathe();
                if prune {
                    tables.extend(memory.table.prune(ram, page));
                }
            }
            Ok(())
        })?;
        let gone = gone.into_iter().map(|(_, mapping)| mapping);
        self.give_back(confirmed, gone, tables);
        Ok(())
    }

    /// Forbids stores in `start..end`.
    pub fn protect(&self, start: u64, end: u64) -> Outcome {
        let kernel = &self.kernel;
        let memory = &mut *lock(&self.memory);
        let pages = pages_of(memory, start, end);
        self.change(start, end, &pages, || {
            for &(page, level) in &pages {
                let mapping = memory.mappings.get_mut(&page).expect("it was found");
                mapping.rights.write = false;
                let mapping = *mapping;
                self.tell_mapping(page, mapping);
                self.rewrite(&memory.table, page, mapping)?;
                self.tell_mapped(page, level);
                kernel.breathe();
            }
            Ok(())
        })?;
        Ok(())
    }

    /// Allows stores in `start..end`.
    pub fn raise(&self, start: u64, end: u64) -> Outcome {
        let kernel = &self.kernel;
        let memory = &mut *lock(&self.memory);
        let pages = pages_of(memory, start, end);
        for &(page, _) in &pages {
            let mapping = memory.mappings.get_mut(&page).expect("it was found");
            mapping.rights.write = true;
            let mapping = *mapping;
            self.tell_mapping(page, mapping);
            self.rewrite(&memory.table, page, mapping)?;
            kernel.breathe();
        }
        if !kernel.is_silent() {
            self.notifiers.raise_permissions(Range::new(start, end)?);
        }
        if self.is_settled() {
            for (page, level) in pages {
                self.tell_mapped(page, level);
            }
        }
        Ok(())
    }

    /// What the kernel does when a page is missing or must not be written: maps a new frame, or copies
    /// on write. `rights` are for a new frame. False if the process has ended.
    pub fn fault_in(&self, page: u64, write: bool, rights: Rights) -> Outcome<bool> {
        let memory = &mut *lock(&self.memory);
        if memory.ended {
            return Ok(false);
        }
        match memory.mappings.get(&page) {
            Some(mapping) if mapping.rights.write || !write => {}
            Some(_) => drop(self.replace_in(memory, page)?),
            None => {
                let frame = self.kernel.take_frame()?;
                self.map_at(memory, page, frame, 0, rights)?;
            }
        }
        Ok(true)
    }

    /// Copy on write: the page gets another frame with the same bytes, and the old one is freed. The
    /// new entry is written after the old translation is gone everywhere (N14).
    pub fn replace(&self, page: u64) -> Outcome<u64> {
        self.replace_in(&mut lock(&self.memory), page)
    }

    fn replace_in(&self, memory: &mut Memory, page: u64) -> Outcome<u64> {
        let kernel = &self.kernel;
        let Some(&old) = memory.mappings.get(&page).filter(|it| it.level == 0) else {
            return failed("there is no small page to replace");
        };
        let frame = kernel.take_frame()?;
        let confirmed = self.change(page, page + PAGE, &[(page, 0)], || {
            self.clear(&memory.table, page, 0)
        })?;
        kernel.breathe();
        for at in (0..PAGE).step_by(8) {
            kernel.store(frame + at, kernel.load(old.frame + at));
        }
        self.notifiers.change_pte(page, 0);
        self.map_at(memory, page, frame, 0, Rights::WRITABLE)?;
        self.give_back(confirmed, [old], Vec::new());
        Ok(frame)
    }

    /// Notes in a page's entry that it was used, or that it was not, which devices are to see.
    pub fn note_use(&self, page: u64, used: bool) -> Outcome {
        let (accessed, ram) = (self.accessed(), self.kernel.rig.ram());
        let entry = self.entry(page)?;
        let (slot, entry) = (entry.0, entry.1 & !accessed);
        page_table::write(ram, slot, if used { entry | accessed } else { entry });
        let range = Range::with_length(page, PAGE)?;
        let _ = self.notifiers.clear_flush_young(range);
        Ok(())
    }

    /// Whether a page's entry says that it was used.
    pub fn was_used(&self, page: u64) -> Outcome<bool> {
        Ok(self.entry(page)?.1 & self.accessed() != 0)
    }

    fn accessed(&self) -> u64 {
        format::accessed(self.kernel.rig.format())
    }

    /// Where a small page's entry lies, and what it is.
    fn entry(&self, page: u64) -> Outcome<(u64, u64)> {
        let kernel = &self.kernel;
        match lock(&self.memory).table.slot(kernel.rig.ram(), page, 0) {
            Some(slot) => Ok((slot, kernel.load(slot))),
            None => failed("the page table has lost a page"),
        }
    }

    /// Makes 512 small pages of a huge one, by way of an absent entry.
    pub fn split(&self, page: u64) -> Outcome {
        self.split_with(page, true)
    }

    /// As [`split`](Self::split), but the table takes the leaf's place in one store. The
    /// translations stay what they were, so nobody is told: x86-64 and RISC-V allow it.
    pub fn split_in_place(&self, page: u64) -> Outcome {
        self.split_with(page, false)
    }

    fn split_with(&self, page: u64, break_before_make: bool) -> Outcome {
        let kernel = &self.kernel;
        let (ram, format) = (kernel.rig.ram(), kernel.rig.format());
        let memory = &mut *lock(&self.memory);
        let Some(&huge) = memory.mappings.get(&page).filter(|it| it.level == 1) else {
            return failed("there is no huge page to split");
        };
        let Some(slot) = memory.table.slot(ram, page, 1) else {
            return failed("the page table has lost a huge page");
        };
        let table = kernel.take_frame()?;
        let small = |index: u64| Mapping {
            frame: huge.frame + index * PAGE,
            level: 0,
            rights: huge.rights,
        };
        for index in 0..512 {
            let entry = format::leaf(format, small(index).frame, 0, huge.rights);
            ram.store(table + 8 * index, entry);
        }
        ram.clean(table, PAGE);
        if break_before_make {
            self.change(page, page + HUGE, &[(page, 1)], || {
                self.clear(&memory.table, page, 1)
            })?;
            kernel.breathe();
            self.tell_mapping(page, huge);
        }
        page_table::write(ram, slot, format::table(format, table));
        self.tell_mapped(page, 1);
        memory.mappings.remove(&page);
        for index in 0..512 {
            memory.mappings.insert(page + index * PAGE, small(index));
        }
        Ok(())
    }

    /// The process ends: devices are cut off, its frames are freed, its page table lives on.
    pub fn exit(&self) -> Outcome {
        let kernel = &self.kernel;
        let bound = lock(&self.bound).clone();
        for &requester in &bound {
            kernel.oracle.unbinding(requester, kernel.rig.now());
        }
        kernel
            .oracle
            .whole_space(self.space, false, kernel.rig.now());
        let failures = self.failures();
        if !kernel.is_silent() {
            self.notifiers.release();
        }
        let memory = &mut *lock(&self.memory);
        memory.ended = true;
        let mappings = std::mem::take(&mut memory.mappings);
        for (&page, mapping) in &mappings {
            self.clear(&memory.table, page, mapping.level)?;
        }
        let confirmed = self.failures() == failures;
        if confirmed {
            for requester in bound {
                kernel.oracle.unbound(requester, kernel.rig.now());
            }
            kernel
                .oracle
                .whole_space(self.space, true, kernel.rig.now());
        }
        self.give_back(confirmed, mappings.into_values(), Vec::new());
        Ok(())
    }

    /// Frees what is left, the page table too. Whatever is bound is unbound first.
    pub fn destroy(mut self) -> Outcome {
        let kernel = self.kernel.clone();
        let bound = std::mem::take(&mut *lock(&self.bound));
        let failures = self.failures();
        for &requester in &bound {
            kernel.oracle.unbinding(requester, kernel.rig.now());
        }
        kernel
            .oracle
            .whole_space(self.space, false, kernel.rig.now());
        drop(self.shared.take());
        if self.failures() != failures {
            return Ok(());
        }
        for requester in bound {
            kernel.oracle.unbound(requester, kernel.rig.now());
        }
        kernel
            .oracle
            .whole_space(self.space, true, kernel.rig.now());
        let memory = lock(&self.memory);
        memory.table.destroy(kernel.rig.ram(), &mut kernel.frames());
        self.give_back(true, memory.mappings.values().copied(), Vec::new());
        self.give_back_held();
        Ok(())
    }

    /// Whether every invalidation of the address space is done.
    fn is_settled(&self) -> bool {
        self.shared.as_ref().is_none_or(SvaSpace::is_settled)
    }

    /// Cuts off devices that do not answer, makes up for what failed, and gives back what was held.
    ///
    /// # Errors
    ///
    /// The framework's own; everything stays held then.
    pub fn settle(&self) -> Result<(), AttachError> {
        let memory = lock(&self.memory);
        self.shared().settle()?;
        for (&page, mapping) in &memory.mappings {
            self.tell_mapped(page, mapping.level);
        }
        let pages = std::mem::take(&mut lock(&self.held).pages);
        self.each(&pages, |page, now| {
            self.kernel.oracle.removed(self.space, page, now);
        });
        self.give_back_held();
        Ok(())
    }

    fn give_back_held(&self) {
        let held = std::mem::take(&mut *lock(&self.held));
        self.give_back(true, held.mappings, held.tables);
    }

    /// Frees what was mapped, and tables that were pruned; holds them if that is not `confirmed`.
    fn give_back(
        &self,
        confirmed: bool,
        mappings: impl IntoIterator<Item = Mapping>,
        tables: Vec<u64>,
    ) {
        if !confirmed {
            let mut held = lock(&self.held);
            held.mappings.extend(mappings);
            held.tables.extend(tables);
            return;
        }
        for mapping in mappings {
            self.free(mapping);
        }
        for table in tables {
            self.kernel.give_back_frame(table);
        }
    }

    /// The physical address behind a virtual one, by the kernel's books.
    pub fn physical(&self, address: u64) -> Option<u64> {
        let memory = lock(&self.memory);
        let (&page, mapping) = memory.mappings.range(..=address).next_back()?;
        let offset = address - page;
        (offset < span(mapping.level)).then_some(mapping.frame + offset)
    }

    /// What is mapped: each page's address, whether it is huge, and whether it may be written.
    pub fn pages(&self) -> Vec<(u64, bool, bool)> {
        let memory = lock(&self.memory);
        let all = memory.mappings.iter();
        all.map(|(&page, it)| (page, it.level > 0, it.rights.write))
            .collect()
    }

    /// Stores a word at a virtual address, as the CPU does.
    pub fn store(&self, address: u64, value: u64) -> Outcome {
        match self.physical(address) {
            Some(physical) => {
                self.kernel.store(physical, value);
                Ok(())
            }
            None => failed("the CPU stores where nothing is mapped"),
        }
    }

    /// Loads a word at a virtual address.
    pub fn load(&self, address: u64) -> Outcome<u64> {
        match self.physical(address) {
            Some(physical) => Ok(self.kernel.load(physical)),
            None => failed("the CPU loads where nothing is mapped"),
        }
    }

    /// Runs `body` on the page table itself.
    pub fn with_table<R>(&self, body: impl FnOnce(&PageTable) -> R) -> R {
        body(&lock(&self.memory).table)
    }

    /// Tells the oracle that `pages` are going, changes the page table by `stores`, announces
    /// `start..end`, and tells the oracle that they are gone, if the hardware confirmed that.
    fn change(
        &self,
        start: u64,
        end: u64,
        pages: &[(u64, u8)],
        stores: impl FnOnce() -> Outcome,
    ) -> Outcome<bool> {
        self.change_telling(Range::new(start, end)?, pages, stores)
    }

    fn change_telling(
        &self,
        range: Range,
        pages: &[(u64, u8)],
        stores: impl FnOnce() -> Outcome,
    ) -> Outcome<bool> {
        let kernel = &self.kernel;
        let announce = *lock(&self.announce);
        let section = (announce == Announce::Section && !kernel.is_silent()).then(|| {
            self.notifiers
                .start_invalidation(Invalidation::new(range, Event::Clear))
        });
        self.each(pages, |page, now| {
            kernel.oracle.removing(self.space, page, now)
        });
        stores()?;
        kernel.breathe();
        if !kernel.is_silent() {
            match announce {
                Announce::Range => self.notifiers.invalidate_range(range),
                Announce::Section => {
                    self.notifiers.invalidate_range(range);
                    drop(section);
                }
                Announce::Batch => {
                    let mut batch = self.notifiers.begin_batch();
                    for &(page, level) in pages {
                        batch.add(Range::with_length(page, span(level))?);
                    }
                    batch.flush();
                }
            }
        }
        let confirmed = self.is_settled();
        if confirmed {
            self.each(pages, |page, now| {
                kernel.oracle.removed(self.space, page, now)
            });
        } else {
            lock(&self.held).pages.extend(pages);
        }
        Ok(confirmed)
    }

    /// Failures so far, of anybody: if one comes meanwhile, it may be ours.
    fn failures(&self) -> usize {
        lock(&self.kernel.failures.0).len()
    }

    fn clear(&self, table: &PageTable, page: u64, level: u8) -> Outcome {
        let ram = self.kernel.rig.ram();
        match table.slot(ram, page, level) {
            Some(slot) => {
                page_table::write(ram, slot, 0);
                Ok(())
            }
            None => failed("the page table has lost a page"),
        }
    }

    fn rewrite(&self, table: &PageTable, page: u64, mapping: Mapping) -> Outcome {
        let ram = self.kernel.rig.ram();
        let Mapping {
            frame,
            level,
            rights,
        } = mapping;
        match table.slot(ram, page, level) {
            Some(slot) => {
                let entry = format::leaf(self.kernel.rig.format(), frame, level, rights);
                page_table::write(ram, slot, entry);
                Ok(())
            }
            None => failed("the page table has lost a page"),
        }
    }

    fn free(&self, mapping: Mapping) {
        let ram = self.kernel.rig.ram();
        match mapping.level {
            0 => self.kernel.frames().give_back(ram, mapping.frame),
            _ => self.kernel.frames().give_back_huge(ram, mapping.frame),
        }
    }

    fn tell_mapping(&self, page: u64, mapping: Mapping) {
        let kernel = &self.kernel;
        let rights = (mapping.rights.write, mapping.rights.user);
        let now = kernel.rig.now();
        for offset in (0..span(mapping.level)).step_by(PAGE as usize) {
            let (page, frame) = (page + offset, mapping.frame + offset);
            kernel.oracle.mapping(self.space, page, frame, rights, now);
        }
    }

    fn tell_mapped(&self, page: u64, level: u8) {
        let now = self.kernel.rig.now();
        self.each_of(page, level, |page| {
            self.kernel.oracle.mapped(self.space, page, now);
        });
    }

    /// Every small page of `pages`, at one moment.
    fn each(&self, pages: &[(u64, u8)], tell: impl Fn(u64, u64)) {
        let now = self.kernel.rig.now();
        for &(page, level) in pages {
            self.each_of(page, level, |page| tell(page, now));
        }
    }

    fn each_of(&self, page: u64, level: u8, tell: impl Fn(u64)) {
        for offset in (0..span(level)).step_by(PAGE as usize) {
            tell(page + offset);
        }
    }
}

fn pages_of(memory: &Memory, start: u64, end: u64) -> Vec<(u64, u8)> {
    let inside = memory.mappings.range(start..end);
    inside.map(|(&page, it)| (page, it.level)).collect()
}
