//! A radix page table of 512-entry tables, as x86-64, AArch64 (4 KiB granule) and RISC-V share it.
//!
//! The architecture supplies the encoding of an entry ([`EntryFormat`]), the kernel the memory that
//! tables lie in ([`TableMemory`]). Levels count from the leaf: a level-0 entry maps 4 KiB, a
//! level-1 entry 2 MiB, a level-2 entry 1 GiB.
//!
//! User pages live in the root slots from [`FIRST_USER_SLOT`] to [`LAST_USER_SLOT`], far from the
//! kernel's identity mapping in the low slots.

use crate::region::Region;
use core::fmt;
use core::marker::PhantomData;

/// Bytes in a page, a frame and a table.
pub const PAGE_SIZE: u64 = 4096;

/// Entries in one table.
pub const TABLE_ENTRIES: usize = 512;

/// First slot of the root table that belongs to an address space alone. With Sv39 it starts at
/// 128 GiB, with four levels at 64 TiB.
pub const FIRST_USER_SLOT: usize = 128;

/// Last slot of the root table that belongs to an address space alone: the end of the lower half.
pub const LAST_USER_SLOT: usize = 255;

/// What a leaf entry allows, and to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// The kernel's own memory: privileged, cached, writable, executable.
    KernelMemory,
    /// Device registers: privileged, uncached, writable.
    DeviceRegisters,
    /// A page of the address space: unprivileged, cached, not executable where the format can say
    /// so without an enable bit elsewhere.
    User {
        /// Whether stores are allowed.
        writable: bool,
    },
}

/// How one architecture encodes an entry.
pub trait EntryFormat {
    /// An entry that points to the table at physical address `table`.
    fn table(table: u64) -> u64;
    /// A leaf at `level` that maps the block at physical address `address`.
    fn leaf(address: u64, level: u8, access: Access) -> u64;
    /// Whether the hardware would use the entry at all.
    fn is_present(entry: u64) -> bool;
    /// Whether a present entry at `level` points to a table.
    fn is_table(entry: u64, level: u8) -> bool;
    /// The physical address in a present entry.
    fn address(entry: u64) -> u64;
    /// Whether a leaf allows stores.
    fn is_writable(entry: u64) -> bool;
    /// The leaf with stores forbidden and all else alike.
    fn read_only(entry: u64) -> u64;
}

/// Where tables lie.
pub trait TableMemory {
    /// A zeroed table's physical address, or `None` if memory is exhausted.
    fn allocate_table(&mut self) -> Option<u64>;
    /// Takes a table back.
    fn free_table(&mut self, table: u64);
    /// Entry `index` of the table at `table`.
    fn read(&self, table: u64, index: usize) -> u64;
    /// Replaces entry `index` of the table at `table` by one store.
    fn write(&mut self, table: u64, index: usize, entry: u64);
}

/// Why a mapping was not changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MapError {
    /// No frame is left for a table.
    OutOfFrames,
    /// The virtual or physical address is not a multiple of the page size.
    Unaligned {
        /// The address.
        address: u64,
    },
    /// The virtual address lies outside the user slots.
    OutsideUserRegion {
        /// The virtual address.
        address: u64,
    },
    /// The page is mapped already.
    AlreadyMapped {
        /// The virtual address.
        address: u64,
    },
    /// The page is not mapped.
    NotMapped {
        /// The virtual address.
        address: u64,
    },
}

impl fmt::Display for MapError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfFrames => formatter.write_str("no frame left for a page table"),
            Self::Unaligned { address } => write!(formatter, "{address:#x} is not page aligned"),
            Self::OutsideUserRegion { address } => {
                write!(formatter, "{address:#x} lies outside the user region")
            }
            Self::AlreadyMapped { address } => write!(formatter, "{address:#x} is mapped already"),
            Self::NotMapped { address } => write!(formatter, "{address:#x} is not mapped"),
        }
    }
}

impl core::error::Error for MapError {}

/// One page table: a root and its depth. It owns the tables below its user slots.
#[derive(Debug)]
pub struct PageTable<F> {
    root: u64,
    levels: u8,
    format: PhantomData<F>,
}

impl<F: EntryFormat> PageTable<F> {
    /// An empty table of `levels` levels (3 or 4).
    pub fn new(memory: &mut impl TableMemory, levels: u8) -> Result<Self, MapError> {
        let root = memory.allocate_table().ok_or(MapError::OutOfFrames)?;
        Ok(Self {
            root,
            levels,
            format: PhantomData,
        })
    }

    /// A table that shares every kernel slot with `self` and has empty user slots.
    pub fn sibling(&self, memory: &mut impl TableMemory) -> Result<Self, MapError> {
        let sibling = Self::new(memory, self.levels)?;
        for slot in (0..FIRST_USER_SLOT).chain(LAST_USER_SLOT + 1..TABLE_ENTRIES) {
            let entry = memory.read(self.root, slot);
            memory.write(sibling.root, slot, entry);
        }
        Ok(sibling)
    }

    /// The root table's physical address.
    pub fn root(&self) -> u64 {
        self.root
    }

    /// The number of levels.
    pub fn levels(&self) -> u8 {
        self.levels
    }

    /// The virtual addresses that belong to the address space alone.
    pub fn user_region(&self) -> Region {
        let shift = shift(self.levels - 1);
        Region::between(
            (FIRST_USER_SLOT as u64) << shift,
            (LAST_USER_SLOT as u64 + 1) << shift,
        )
    }

    /// Maps `region` one to one with the largest blocks that fit. Kernel slots only.
    pub fn map_identity(
        &mut self,
        memory: &mut impl TableMemory,
        region: Region,
        access: Access,
    ) -> Result<(), MapError> {
        let mut address = region.base;
        while address < region.end() {
            let level = self.largest_block(address, region.end());
            self.insert(memory, address, address, level, access)?;
            address += 1 << shift(level);
        }
        Ok(())
    }

    /// Maps the user page at virtual address `page` to `frame`.
    pub fn map(
        &mut self,
        memory: &mut impl TableMemory,
        page: u64,
        frame: u64,
        writable: bool,
    ) -> Result<(), MapError> {
        self.check_user(page)?;
        if !frame.is_multiple_of(PAGE_SIZE) {
            return Err(MapError::Unaligned { address: frame });
        }
        self.insert(memory, page, frame, 0, Access::User { writable })
    }

    /// Forbids stores to the user page at virtual address `page`.
    pub fn protect(&mut self, memory: &mut impl TableMemory, page: u64) -> Result<(), MapError> {
        let (table, index, entry) = self.user_leaf(memory, page)?;
        memory.write(table, index, F::read_only(entry));
        Ok(())
    }

    /// Removes the user page at virtual address `page` and returns its frame.
    pub fn unmap(&mut self, memory: &mut impl TableMemory, page: u64) -> Result<u64, MapError> {
        let (table, index, entry) = self.user_leaf(memory, page)?;
        memory.write(table, index, 0);
        Ok(F::address(entry))
    }

    /// The physical address that virtual address `address` maps to, and whether stores are allowed.
    pub fn translate(&self, memory: &impl TableMemory, address: u64) -> Option<(u64, bool)> {
        let mut table = self.root;
        for level in (0..self.levels).rev() {
            let entry = memory.read(table, index(address, level));
            if !F::is_present(entry) {
                return None;
            }
            if !F::is_table(entry, level) {
                let offset = address & ((1 << shift(level)) - 1);
                return Some((F::address(entry) + offset, F::is_writable(entry)));
            }
            table = F::address(entry);
        }
        None
    }

    /// Frees the root and every table below the user slots. `visit` gets the virtual address and
    /// the frame of each page that was still mapped; the frames stay the caller's.
    pub fn destroy(self, memory: &mut impl TableMemory, mut visit: impl FnMut(u64, u64)) {
        for slot in FIRST_USER_SLOT..=LAST_USER_SLOT {
            let entry = memory.read(self.root, slot);
            if F::is_present(entry) {
                let top = self.levels - 1;
                let address = (slot as u64) << shift(top);
                self.destroy_below(memory, F::address(entry), top - 1, address, &mut visit);
            }
        }
        memory.free_table(self.root);
    }

    fn destroy_below<M: TableMemory>(
        &self,
        memory: &mut M,
        table: u64,
        level: u8,
        address: u64,
        visit: &mut impl FnMut(u64, u64),
    ) {
        for slot in 0..TABLE_ENTRIES {
            let entry = memory.read(table, slot);
            let address = address | (slot as u64) << shift(level);
            if !F::is_present(entry) {
            } else if F::is_table(entry, level) {
                self.destroy_below(memory, F::address(entry), level - 1, address, visit);
            } else {
                visit(address, F::address(entry));
            }
        }
        memory.free_table(table);
    }

    fn largest_block(&self, address: u64, end: u64) -> u8 {
        let fits = |level: &u8| {
            let size = 1u64 << shift(*level);
            address.is_multiple_of(size) && end - address >= size
        };
        [2, 1].into_iter().find(fits).unwrap_or(0)
    }

    fn insert(
        &mut self,
        memory: &mut impl TableMemory,
        virtual_address: u64,
        physical_address: u64,
        leaf_level: u8,
        access: Access,
    ) -> Result<(), MapError> {
        let occupied = MapError::AlreadyMapped {
            address: virtual_address,
        };
        let mut table = self.root;
        for level in (leaf_level + 1..self.levels).rev() {
            let slot = index(virtual_address, level);
            let entry = memory.read(table, slot);
            table = if !F::is_present(entry) {
                let child = memory.allocate_table().ok_or(MapError::OutOfFrames)?;
                memory.write(table, slot, F::table(child));
                child
            } else if F::is_table(entry, level) {
                F::address(entry)
            } else {
                return Err(occupied);
            };
        }
        let slot = index(virtual_address, leaf_level);
        if F::is_present(memory.read(table, slot)) {
            return Err(occupied);
        }
        memory.write(table, slot, F::leaf(physical_address, leaf_level, access));
        Ok(())
    }

    fn user_leaf(
        &self,
        memory: &impl TableMemory,
        page: u64,
    ) -> Result<(u64, usize, u64), MapError> {
        self.check_user(page)?;
        let mut table = self.root;
        for level in (0..self.levels).rev() {
            let slot = index(page, level);
            let entry = memory.read(table, slot);
            if !F::is_present(entry) {
                break;
            }
            if !F::is_table(entry, level) {
                return Ok((table, slot, entry));
            }
            table = F::address(entry);
        }
        Err(MapError::NotMapped { address: page })
    }

    fn check_user(&self, page: u64) -> Result<(), MapError> {
        if !page.is_multiple_of(PAGE_SIZE) {
            return Err(MapError::Unaligned { address: page });
        }
        if !self.user_region().contains(&Region {
            base: page,
            size: PAGE_SIZE,
        }) {
            return Err(MapError::OutsideUserRegion { address: page });
        }
        Ok(())
    }
}

const fn shift(level: u8) -> u32 {
    12 + 9 * level as u32
}

const fn index(address: u64, level: u8) -> usize {
    (address >> shift(level)) as usize % TABLE_ENTRIES
}

#[cfg(test)]
mod tests;
