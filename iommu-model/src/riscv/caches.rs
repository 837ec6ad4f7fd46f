//! What the IOMMU keeps of the tables in memory (section "Caching in-memory data structures").
//!
//! Entries are tagged with as little as the specification allows, so that one may serve whoever it
//! can: page-table entries by GSCID, PSCID and address, not by device. First and second stage are
//! kept apart. Nothing invalid is kept.

use super::tables::{DeviceContext, ProcessContext};
use crate::random::Random;
use std::collections::BTreeMap;

/// Whose page table an entry is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Space {
    /// GSCID; none while the second stage is Bare.
    pub guest: Option<u16>,
    pub table: Table,
}

/// Which page table of the host or of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Table {
    /// The first-stage table of a PSCID.
    Process(u32),
    /// Every first-stage table: the entry has the G bit, or lies below one that has.
    Global,
    /// The second stage.
    Second,
    /// The MSI page table.
    Msi,
}

/// A block: the binary logarithm of its size in bytes, and its first byte.
type Block = (u32, u64);

/// A valid entry that leads to the next table.
#[derive(Clone, Copy, Debug)]
pub(super) struct NonLeaf {
    /// The next table; a guest physical address if there is a second stage below.
    pub table: u64,
    /// It, or one above, has the G bit.
    pub global: bool,
}

/// A valid entry that ends a walk.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leaf {
    /// The binary logarithm of the size of what it maps.
    pub order: u32,
    /// The entry.
    pub entry: u64,
}

/// Addresses from the first byte to the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub first: u64,
    pub last: u64,
}

impl Span {
    fn meets(self, (order, base): Block) -> bool {
        base <= self.last && base | mask(order) >= self.first
    }
}

/// The directory caches and the address-translation cache.
#[derive(Debug, Default)]
pub(super) struct Caches {
    leaves: BTreeMap<(Space, Block), u64>,
    non_leaves: BTreeMap<(Space, Block), NonLeaf>,
    devices: BTreeMap<u32, DeviceContext>,
    /// By level and what of the device id selects the entry.
    device_tables: BTreeMap<(u32, u32), u64>,
    processes: BTreeMap<(u32, u32), ProcessContext>,
    /// By device, level and what of the process id selects the entry.
    process_tables: BTreeMap<(u32, u32, u32), u64>,
}

/// The bits of an address inside a block.
pub(super) const fn mask(order: u32) -> u64 {
    if order >= 64 {
        u64::MAX
    } else {
        (1 << order) - 1
    }
}

/// The sizes of what a leaf entry maps: pages, contiguous pages (Svnapot), superpages.
const LEAF_ORDERS: [u32; 6] = [12, 16, 21, 30, 39, 48];

/// The sizes of what a non-leaf entry covers.
const NON_LEAF_ORDERS: [u32; 4] = [21, 30, 39, 48];

impl Caches {
    /// The leaf entry for `address`. Of several, the smallest.
    pub fn leaf(&self, space: Space, address: u64) -> Option<Leaf> {
        spaces(space).find_map(|space| {
            LEAF_ORDERS.into_iter().find_map(|order| {
                let entry = *self.leaves.get(&(space, (order, address & !mask(order))))?;
                Some(Leaf { order, entry })
            })
        })
    }

    /// How many leaf entries there are.
    pub fn leaves(&self) -> usize {
        self.leaves.len()
    }

    /// Keeps a leaf entry.
    pub fn keep_leaf(&mut self, space: Space, address: u64, leaf: Leaf) {
        let block = (leaf.order, address & !mask(leaf.order));
        self.leaves.insert((space, block), leaf.entry);
    }

    /// The lowest non-leaf entry on the way to `address`, and the size of what it covers.
    pub fn non_leaf(&self, space: Space, address: u64) -> Option<(u32, NonLeaf)> {
        NON_LEAF_ORDERS.into_iter().find_map(|order| {
            spaces(space).find_map(|space| {
                let block = (order, address & !mask(order));
                Some((order, *self.non_leaves.get(&(space, block))?))
            })
        })
    }

    /// Keeps a non-leaf entry that covers blocks of 2^`order` bytes.
    pub fn keep_non_leaf(&mut self, space: Space, address: u64, order: u32, entry: NonLeaf) {
        let block = (order, address & !mask(order));
        self.non_leaves.insert((space, block), entry);
    }

    /// A device's context.
    pub fn device(&self, device: u32) -> Option<DeviceContext> {
        self.devices.get(&device).copied()
    }

    /// Keeps a device's context.
    pub fn keep_device(&mut self, device: u32, context: DeviceContext) {
        self.devices.insert(device, context);
    }

    /// The table that a non-leaf entry of the device directory leads to.
    pub fn device_table(&self, level: u32, prefix: u32) -> Option<u64> {
        self.device_tables.get(&(level, prefix)).copied()
    }

    /// Keeps a non-leaf entry of the device directory.
    pub fn keep_device_table(&mut self, level: u32, prefix: u32, table: u64) {
        self.device_tables.insert((level, prefix), table);
    }

    /// A process context.
    pub fn process(&self, device: u32, process: u32) -> Option<ProcessContext> {
        self.processes.get(&(device, process)).copied()
    }

    /// Keeps a process context.
    pub fn keep_process(&mut self, device: u32, process: u32, context: ProcessContext) {
        self.processes.insert((device, process), context);
    }

    /// The table that a non-leaf entry of a device's process directory leads to.
    pub fn process_table(&self, device: u32, level: u32, prefix: u32) -> Option<u64> {
        self.process_tables.get(&(device, level, prefix)).copied()
    }

    /// Keeps a non-leaf entry of a process directory.
    pub fn keep_process_table(&mut self, device: u32, level: u32, prefix: u32, table: u64) {
        self.process_tables.insert((device, level, prefix), table);
    }

    /// `IOTINVAL`: what was kept of the page tables that `concerned` names; with a span, of what
    /// maps some of it, and then non-leaf entries only if `non_leaf`.
    pub fn invalidate_translations(
        &mut self,
        concerned: impl Fn(Space) -> bool,
        span: Option<Span>,
        non_leaf: bool,
    ) {
        let meets = |block| span.is_none_or(|span| span.meets(block));
        self.leaves
            .retain(|&(space, block), _| !(concerned(space) && meets(block)));
        if span.is_none() || non_leaf {
            self.non_leaves
                .retain(|&(space, block), _| !(concerned(space) && meets(block)));
        }
    }

    /// `IODIR.INVAL_DDT` without a device id: both directory caches.
    pub fn invalidate_directories(&mut self) {
        self.devices.clear();
        self.device_tables.clear();
        self.processes.clear();
        self.process_tables.clear();
    }

    /// `IODIR.INVAL_DDT` of a device: its context and its whole process directory. Non-leaf entries
    /// of the device directory stay.
    pub fn invalidate_device(&mut self, device: u32) {
        self.devices.remove(&device);
        self.processes.retain(|key, _| key.0 != device);
        self.process_tables.retain(|key, _| key.0 != device);
    }

    /// `IODIR.INVAL_PDT`: one process context. Non-leaf entries of the process directory stay.
    pub fn invalidate_process(&mut self, device: u32, process: u32) {
        self.processes.remove(&(device, process));
    }

    /// Loses one entry, as a cache may.
    pub fn forget_one(&mut self, random: &Random) {
        match random.below(6) {
            0 => forget(&mut self.devices, random),
            1 => forget(&mut self.device_tables, random),
            2 => forget(&mut self.processes, random),
            3 => forget(&mut self.process_tables, random),
            4 => forget(&mut self.non_leaves, random),
            _ => forget(&mut self.leaves, random),
        }
    }
}

/// Where an entry for `space` may be found: global mappings are part of every first-stage table.
fn spaces(space: Space) -> impl Iterator<Item = Space> {
    let global = matches!(space.table, Table::Process(_)).then_some(Space {
        table: Table::Global,
        ..space
    });
    core::iter::once(space).chain(global)
}

fn forget<K: Copy + Ord, V>(map: &mut BTreeMap<K, V>, random: &Random) {
    let any = random.below(map.len() as u64) as usize;
    if let Some(&key) = map.keys().nth(any) {
        map.remove(&key);
    }
}
