//! The way from a request to a physical address (sections "Process to translate an IOVA" of the
//! IOMMU specification, "Virtual Address Translation Process" and "Two-Stage Address Translation"
//! of the privileged specification).

use super::State;
use super::caches::{Leaf, NonLeaf, Space, Table, mask};
use super::faults::{Cause, Fault};
use super::msi::Page;
use super::tables::{DeviceContext, FirstStage, SecondStage, table_in_entry};
use crate::bus::{Access, Permissions, Request};

/// Bits of a page-table entry.
pub(super) const V: u64 = 1 << 0;
pub(super) const R: u64 = 1 << 1;
pub(super) const W: u64 = 1 << 2;
const X: u64 = 1 << 3;
pub(super) const U: u64 = 1 << 4;
const G: u64 = 1 << 5;
pub(super) const A: u64 = 1 << 6;
pub(super) const D: u64 = 1 << 7;
/// Contiguous pages (Svnapot).
const N: u64 = 1 << 63;
/// Bits 62:61, the memory type (Svpbmt).
const PBMT_SHIFT: u32 = 61;

/// The size that is reported where nothing is translated: 1 GiB.
const BARE_ORDER: u32 = 30;

/// How often a walk begins again because the entry changed under it.
const ATTEMPTS: u32 = 16;

/// Why a translation is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// An untranslated request.
    Access,
    /// An ATS translation request.
    TranslationRequest,
    /// Nobody asked. Nothing but caches may change.
    Speculation,
}

/// What a request is translated by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stages {
    pub device: DeviceContext,
    first: Option<FirstStage>,
    pub second: Option<SecondStage>,
    supervisor: bool,
    /// SUM.
    supervisor_reaches_user_pages: bool,
    pub purpose: Purpose,
}

/// What a request is translated to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub address: u64,
    /// The binary logarithm of the size of the block that translates alike.
    pub order: u32,
    pub permissions: Permissions,
    /// The memory type.
    pub pbmt: u64,
}

/// One stage's page table.
#[derive(Clone, Copy)]
struct PageTable {
    space: Space,
    levels: u32,
    root: u64,
    /// The IOMMU sets A and D.
    updates: bool,
}

impl PageTable {
    fn is_second(&self) -> bool {
        self.space.table == Table::Second
    }

    /// Second-stage roots have four times the entries.
    fn index(&self, address: u64, level: u32) -> u64 {
        let bits = if self.is_second() && level + 1 == self.levels {
            11
        } else {
            9
        };
        address >> (12 + 9 * level) & mask(bits)
    }
}

/// Whether an entry lets an access through.
enum Check {
    Permitted,
    /// After A or D is set.
    NeedsUpdate,
    Forbidden,
}

/// Why a walk ended.
enum Stop {
    PageFault,
    AccessFault,
    /// The other stage's.
    Other(Fault),
    /// The entry changed while A or D was set.
    Changed,
}

impl State {
    /// Translates an untranslated address.
    pub(super) fn translate(
        &mut self,
        request: &Request,
        purpose: Purpose,
    ) -> Result<Found, Fault> {
        match self.directory_mode() {
            0 => return Err(Cause::ALL_INBOUND_TRANSACTIONS_DISALLOWED.into()),
            1 if purpose == Purpose::TranslationRequest => {
                return Err(Cause::TRANSACTION_TYPE_DISALLOWED.into());
            }
            1 => return Ok(Found::untranslated(request.address)),
            _ => {}
        }
        self.check_device_id(request.device)?;
        let device = self.locate_device(request.device)?;
        self.translate_for(&device, request, purpose)
            .map_err(|fault| fault.of_device(device.disables_faults()))
    }

    /// Whether the directory's mode has room for a device id.
    pub(super) fn check_device_id(&self, device: u32) -> Result<(), Fault> {
        let bits = self.configuration.device_id_bits(self.directory_levels());
        if device >> bits != 0 {
            return Err(Cause::TRANSACTION_TYPE_DISALLOWED.into());
        }
        Ok(())
    }

    fn translate_for(
        &mut self,
        device: &DeviceContext,
        request: &Request,
        purpose: Purpose,
    ) -> Result<Found, Fault> {
        if purpose == Purpose::TranslationRequest && !device.enables_ats() {
            return Err(Cause::TRANSACTION_TYPE_DISALLOWED.into());
        }
        let stages = self.stages(device, request, purpose)?;
        let access = request.access;
        let first = match stages.first {
            Some(first) => self.first_stage(&stages, &first, request.address, access)?,
            None => Found::untranslated(request.address),
        };
        let largest = match self.msi_page(&stages, first.address, access)? {
            Page::InterruptFile(second) => return Ok(first.then(second)),
            Page::Other { order } => order,
        };
        let second = match stages.second {
            Some(second) => {
                self.second_stage(&stages, &second, first.address, access, access, 0)?
            }
            None => Found::untranslated(first.address),
        };
        let found = first.then(second);
        Ok(Found {
            order: found.order.min(largest),
            ..found
        })
    }

    /// Finds the context of the request's process id, if one is used.
    fn stages(
        &mut self,
        device: &DeviceContext,
        request: &Request,
        purpose: Purpose,
    ) -> Result<Stages, Fault> {
        let disallowed = Err(Cause::TRANSACTION_TYPE_DISALLOWED.into());
        let mut stages = Stages {
            device: *device,
            first: None,
            second: device.second_stage(&self.configuration),
            supervisor: request.privileged && request.pasid.is_some(),
            supervisor_reaches_user_pages: false,
            purpose,
        };
        if !device.has_process_directory() {
            if request.pasid.is_some() {
                return disallowed;
            }
            stages.first = device.first_stage(&self.configuration);
            return Ok(stages);
        }
        let mode = device.process_directory_mode();
        let bits = [20, 8, 17, 20].get(mode as usize).copied().unwrap_or(0);
        if request.pasid.is_some_and(|pasid| pasid >> bits != 0) {
            return disallowed;
        }
        let default = device.has_default_process().then_some(0);
        let Some(process) = request.pasid.or(default).filter(|_| mode != 0) else {
            return Ok(stages);
        };
        let process = self.locate_process(request.device, &stages, process, request.access)?;
        if stages.supervisor && !process.allows_supervisor() {
            return disallowed;
        }
        stages.first = process.first_stage(&self.configuration);
        stages.supervisor_reaches_user_pages = process.supervisor_reaches_user_pages();
        Ok(stages)
    }

    fn first_stage(
        &mut self,
        stages: &Stages,
        first: &FirstStage,
        address: u64,
        access: Access,
    ) -> Result<Found, Fault> {
        let unused = 64 - (12 + 9 * first.levels);
        if (address << unused) as i64 >> unused != address as i64 {
            return Err(Cause::page_fault(access).into());
        }
        let table = PageTable {
            space: Space {
                guest: stages.second.map(|second| second.gscid),
                table: Table::Process(first.pscid),
            },
            levels: first.levels,
            root: first.root,
            updates: stages.device.updates_first_stage(),
        };
        self.walk(stages, &table, address, access, access)
            .map_err(|stop| match stop {
                Stop::PageFault | Stop::Changed => Cause::page_fault(access).into(),
                Stop::AccessFault => Cause::access_fault(access).into(),
                Stop::Other(fault) => fault,
            })
    }

    /// Translates a guest physical address for `access`; faults are those of the `original` one.
    /// `implicit` is what `iotval2` says in bits 1:0.
    fn second_stage(
        &mut self,
        stages: &Stages,
        second: &SecondStage,
        address: u64,
        access: Access,
        original: Access,
        implicit: u64,
    ) -> Result<Found, Fault> {
        let page_fault = Fault {
            iotval2: address & !3 | implicit,
            ..Cause::guest_page_fault(original).into()
        };
        if address & !mask(14 + 9 * second.levels) != 0 {
            return Err(page_fault);
        }
        let table = PageTable {
            space: Space {
                guest: Some(second.gscid),
                table: Table::Second,
            },
            levels: second.levels,
            root: second.root,
            updates: stages.device.updates_second_stage(),
        };
        self.walk(stages, &table, address, access, original)
            .map_err(|stop| match stop {
                Stop::PageFault | Stop::Changed => page_fault,
                Stop::AccessFault => Cause::access_fault(original).into(),
                Stop::Other(fault) => fault,
            })
    }

    /// Where an entry of a first-stage table or of a process directory lies in memory; `write` if
    /// its A or D bit is to be set.
    pub(super) fn second_stage_of_table(
        &mut self,
        stages: &Stages,
        address: u64,
        original: Access,
        write: bool,
    ) -> Result<u64, Fault> {
        let Some(second) = stages.second else {
            return Ok(address);
        };
        let access = if write { Access::Write } else { Access::Read };
        let implicit = 1 | u64::from(write) << 1;
        self.second_stage(stages, &second, address, access, original, implicit)
            .map(|found| found.address)
    }

    fn walk(
        &mut self,
        stages: &Stages,
        table: &PageTable,
        address: u64,
        access: Access,
        original: Access,
    ) -> Result<Found, Stop> {
        if let Some(leaf) = self.caches.leaf(table.space, address) {
            match check(stages, table, leaf.entry, access) {
                Check::Permitted => return Ok(leaf.found(address)),
                Check::Forbidden if !self.configuration.walks_again_before_fault => {
                    return Err(Stop::PageFault);
                }
                Check::Forbidden | Check::NeedsUpdate => {}
            }
        }
        for _ in 0..ATTEMPTS {
            match self.walk_memory(stages, table, address, access, original) {
                Err(Stop::Changed) => {}
                other => return other,
            }
        }
        Err(Stop::Changed)
    }

    fn walk_memory(
        &mut self,
        stages: &Stages,
        table: &PageTable,
        address: u64,
        access: Access,
        original: Access,
    ) -> Result<Found, Stop> {
        let mut level = table.levels - 1;
        let mut below = NonLeaf {
            table: table.root,
            global: false,
        };
        if let Some((order, kept)) = self.caches.non_leaf(table.space, address)
            && (order - 12) / 9 <= level
        {
            level = (order - 12) / 9 - 1;
            below = kept;
        }
        loop {
            let place = below.table + table.index(address, level) * 8;
            let entry = self.read_entry(stages, table, place, original)?;
            self.check_entry(entry, level)?;
            below.global |= !table.is_second() && entry & G != 0;
            let space = Space {
                table: if below.global {
                    Table::Global
                } else {
                    table.space.table
                },
                ..table.space
            };
            if entry & (R | W | X) != 0 {
                let leaf = Leaf::new(entry, level);
                return self.use_leaf(
                    stages,
                    table,
                    space,
                    &Wanted {
                        address,
                        access,
                        original,
                    },
                    place,
                    leaf,
                );
            }
            below.table = table_in_entry(entry);
            self.caches
                .keep_non_leaf(space, address, 12 + 9 * level, below);
            level -= 1;
        }
    }

    fn read_entry(
        &mut self,
        stages: &Stages,
        table: &PageTable,
        place: u64,
        original: Access,
    ) -> Result<u64, Stop> {
        let place = if table.is_second() {
            place
        } else {
            self.second_stage_of_table(stages, place, original, false)
                .map_err(Stop::Other)?
        };
        self.memory.load(place).map_err(|_| Stop::AccessFault)
    }

    /// Whether an entry is valid and nothing reserved is set in it.
    fn check_entry(&self, entry: u64, level: u32) -> Result<(), Stop> {
        let leaf = entry & (R | W | X) != 0;
        let software = if self.configuration.svrsw60t59b {
            0x3 << 59
        } else {
            0
        };
        let memory_type = entry >> PBMT_SHIFT & 3;
        let page = table_in_entry(entry);
        let good = if leaf {
            let contiguous = level == 0 && page >> 12 & 0xf == 8;
            (entry & W == 0 || entry & R != 0)
                && (memory_type == 0 || self.configuration.svpbmt && memory_type != 3)
                && (entry & N == 0 || contiguous)
                && page & mask(12 + 9 * level) == 0
        } else {
            level > 0 && entry & (U | A | D | N) == 0 && memory_type == 0
        };
        if entry & V == 0 || entry & (0x7f << 54) & !software != 0 || !good {
            return Err(Stop::PageFault);
        }
        Ok(())
    }

    /// Lets an access through a leaf entry that was read at `place`, and keeps the entry.
    fn use_leaf(
        &mut self,
        stages: &Stages,
        table: &PageTable,
        space: Space,
        wanted: &Wanted,
        place: u64,
        mut leaf: Leaf,
    ) -> Result<Found, Stop> {
        let verdict = check(stages, table, leaf.entry, wanted.access);
        if let Check::NeedsUpdate = verdict {
            if stages.purpose == Purpose::Speculation {
                return Err(Stop::PageFault);
            }
            let place = if table.is_second() {
                place
            } else {
                self.second_stage_of_table(stages, place, wanted.original, true)
                    .map_err(Stop::Other)?
            };
            let dirty = if wanted.access == Access::Write { D } else { 0 };
            let updated = leaf.entry | A | dirty;
            match self.memory.exchange(place, leaf.entry, updated) {
                Ok(true) => leaf.entry = updated,
                Ok(false) => return Err(Stop::Changed),
                Err(_) => return Err(Stop::AccessFault),
            }
        }
        if leaf.entry & A != 0 {
            self.caches.keep_leaf(space, wanted.address, leaf);
        }
        match verdict {
            Check::Forbidden => Err(Stop::PageFault),
            _ => Ok(leaf.found(wanted.address)),
        }
    }
}

/// What a walk is for.
struct Wanted {
    address: u64,
    access: Access,
    original: Access,
}

impl Leaf {
    /// Of a valid entry at a level.
    fn new(entry: u64, level: u32) -> Self {
        let order = if entry & N != 0 { 16 } else { 12 + 9 * level };
        Self { order, entry }
    }

    /// Where it leads.
    pub(super) fn found(self, address: u64) -> Found {
        let Self { order, entry } = self;
        Found {
            address: table_in_entry(entry) & !mask(order) | address & mask(order),
            order,
            permissions: Permissions {
                read: entry & R != 0,
                write: entry & W != 0 && entry & D != 0,
                execute: entry & X != 0,
            },
            pbmt: entry >> PBMT_SHIFT & 3,
        }
    }
}

impl Found {
    /// An address that no stage changes.
    fn untranslated(address: u64) -> Self {
        Self {
            address,
            order: BARE_ORDER,
            permissions: Permissions {
                read: true,
                write: true,
                execute: true,
            },
            pbmt: 0,
        }
    }

    /// The first stage, then the second: both must permit, and the smaller block counts. The first
    /// stage's memory type wins if it has one.
    fn then(self, second: Self) -> Self {
        Self {
            address: second.address,
            order: self.order.min(second.order),
            permissions: Permissions {
                read: self.permissions.read && second.permissions.read,
                write: self.permissions.write && second.permissions.write,
                execute: self.permissions.execute && second.permissions.execute,
            },
            pbmt: if self.pbmt == 0 {
                second.pbmt
            } else {
                self.pbmt
            },
        }
    }
}

/// Whether a leaf entry permits an access. The second stage takes every access for a user's.
fn check(stages: &Stages, table: &PageTable, entry: u64, access: Access) -> Check {
    let user_page = entry & U != 0;
    let privilege = if table.is_second() || !stages.supervisor {
        user_page
    } else {
        !user_page || stages.supervisor_reaches_user_pages && access != Access::Execute
    };
    let bit = match access {
        Access::Read => R,
        Access::Write => W,
        Access::Execute => X,
    };
    if !privilege || entry & bit == 0 {
        return Check::Forbidden;
    }
    if entry & A != 0 && (entry & D != 0 || access != Access::Write) {
        return Check::Permitted;
    }
    if table.updates {
        Check::NeedsUpdate
    } else {
        Check::Forbidden
    }
}
