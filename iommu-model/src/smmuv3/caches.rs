//! Everything that the SMMU remembers: translations, pointers to page tables, configuration.
//!
//! An entry stays until a command whose minimum scope covers it (4.3, 4.4), and no command takes
//! more than that scope. Only what was valid is kept of page tables; configuration is kept in
//! whatever state it was fetched (3.21.3).

use crate::bus::Permissions;
use crate::random::Random;
use std::collections::BTreeMap;

/// The translation regime, from the StreamWorld (3.17).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Regime {
    /// NS-EL1: with VMID and ASID.
    El1,
    /// NS-EL2: without either.
    El2,
    /// NS-EL2-E2H: with ASID.
    El2Host,
}

/// The ASID part of an entry's tag (3.17, 3.17.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Asid {
    /// The regime has none.
    None,
    /// Of this address space.
    Of(u16),
    /// Of every address space with this ASET.
    Global(bool),
}

/// What a stage 1 entry is found by, besides its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tag {
    pub regime: Regime,
    /// `None` where there is no stage 2 or the regime has none.
    pub vmid: Option<u16>,
    pub asid: Asid,
}

/// What a translation permits, at each privilege.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rights {
    pub unprivileged: Permissions,
    pub privileged: Permissions,
}

impl Rights {
    /// Everything.
    pub const ALL: Self = Self {
        unprivileged: ALL,
        privileged: ALL,
    };

    /// What is permitted to a request of that privilege.
    pub const fn of(self, privileged: bool) -> Permissions {
        if privileged {
            self.privileged
        } else {
            self.unprivileged
        }
    }

    /// What both permit.
    pub const fn and(self, other: Self) -> Self {
        Self {
            unprivileged: both(self.unprivileged, other.unprivileged),
            privileged: both(self.privileged, other.privileged),
        }
    }
}

const ALL: Permissions = Permissions {
    read: true,
    write: true,
    execute: true,
};

const fn both(one: Permissions, other: Permissions) -> Permissions {
    Permissions {
        read: one.read && other.read,
        write: one.write && other.write,
        execute: one.execute && other.execute,
    }
}

/// A translation of stage 1, or of both stages together.
#[derive(Clone, Copy, Debug)]
pub struct Leaf {
    /// log2 of what translates alike, in bytes.
    pub log2_size: u8,
    /// The physical address of its first byte.
    pub output: u64,
    /// The intermediate physical address of its first byte.
    pub ipa: u64,
    pub stage_1: Rights,
    pub stage_2: Rights,
    /// A stage would let a write through by changing its descriptor from clean to dirty.
    pub clean: bool,
    /// The level of the stage 1 descriptor.
    pub level: u8,
    /// log2 of what the stage 1 descriptor maps, in bytes.
    pub log2_block: u8,
}

/// A translation of stage 2.
#[derive(Clone, Copy, Debug)]
pub struct Leaf2 {
    pub log2_size: u8,
    pub output: u64,
    pub rights: Rights,
    pub clean: bool,
    pub level: u8,
}

/// What table descriptors above a table forbid (the hierarchical permissions).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hierarchical {
    pub no_write: bool,
    pub no_unprivileged: bool,
    pub no_privileged_execute: bool,
    pub no_unprivileged_execute: bool,
}

/// A pointer to a table of stage 1, physical even if stage 2 is between.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    pub address: u64,
    pub hierarchical: Hierarchical,
}

/// A fetched stream table entry, with what may be cached together with it.
#[derive(Clone, Copy, Debug)]
pub struct CachedStream {
    pub words: [u64; 8],
    /// CR0.ATSCHK when it was fetched (6.3.9.2).
    pub checks_translated: bool,
}

/// log2 of what a descriptor at `level` maps with a granule of 4 KiB.
pub const fn level_shift(level: u8) -> u8 {
    12 + 9 * (3 - level)
}

/// Which stage 1 entries of one regime a TLB invalidation is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage1 {
    /// Those of no address space.
    None,
    /// Those of every address space, global ones included.
    All,
    /// The non-global ones of one.
    NonGlobal(u16),
    /// Those of one, and global ones.
    Of(u16),
}

/// Addresses whose entries are invalidated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    pub first: u64,
    /// The last address, included.
    pub last: u64,
    /// Only last-level entries.
    pub leaf: bool,
    /// Last-level entries of this level only, and table entries above it (TTL).
    pub level: Option<u8>,
}

impl Addresses {
    fn meet(&self, first: u64, log2_size: u8) -> bool {
        let last = first | ((1 << log2_size) - 1);
        first <= self.last && self.first <= last
    }

    fn cover_leaf(&self, address: u64, log2_size: u8, level: u8) -> bool {
        self.level.is_none_or(|hinted| hinted == level) && self.meet(address, log2_size)
    }

    /// Whether a pointer to a table at `level`, from a descriptor one level above, is covered.
    fn cover_table(&self, address: u64, level: u8) -> bool {
        !self.leaf
            && self.level.is_none_or(|hinted| level <= hinted)
            && self.meet(address, level_shift(level - 1))
    }
}

/// One TLB invalidation (4.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TlbInvalidation {
    pub regime: Regime,
    /// Only entries with this VMID; `None` for every one.
    pub vmid: Option<u16>,
    pub stage_1: Stage1,
    /// Whether stage 2 entries go.
    pub stage_2: bool,
    /// Only entries for these addresses: virtual for stage 1, intermediate for stage 2.
    pub addresses: Option<Addresses>,
}

impl TlbInvalidation {
    fn has_vmid(&self, vmid: Option<u16>) -> bool {
        match (self.vmid, vmid) {
            (Some(wanted), Some(vmid)) => wanted == vmid,
            // Without stage 2 entries have none, and a command with another than 0 need not do
            // anything (4.4.2).
            (Some(wanted), None) => wanted == 0 || self.regime != Regime::El1,
            (None, _) => true,
        }
    }

    fn has_tag(&self, tag: &Tag) -> bool {
        let asid = match (self.stage_1, tag.asid) {
            (Stage1::None, _) => false,
            (Stage1::All, _) => true,
            (Stage1::NonGlobal(wanted) | Stage1::Of(wanted), Asid::Of(asid)) => wanted == asid,
            (Stage1::Of(_), Asid::Global(_) | Asid::None) => true,
            (Stage1::NonGlobal(_), Asid::Global(_) | Asid::None) => false,
        };
        asid && self.regime == tag.regime && self.has_vmid(tag.vmid)
    }
}

/// The caches.
#[derive(Debug, Default)]
pub struct Caches {
    /// By tag, log2 of the size, and address shifted by it.
    leaves: BTreeMap<(Tag, u8, u64), Leaf>,
    /// By tag, the table's level, and the address shifted by what the table maps.
    tables: BTreeMap<(Tag, u8, u64), Table>,
    /// As `leaves`, by VMID and intermediate address.
    leaves_2: BTreeMap<(u16, u8, u64), Leaf2>,
    /// As `tables`.
    tables_2: BTreeMap<(u16, u8, u64), u64>,
    pub streams: BTreeMap<u32, CachedStream>,
    /// Level 1 stream table descriptors, by index.
    pub stream_tables: BTreeMap<u32, u64>,
    /// Context descriptors, by StreamID and index.
    pub contexts: BTreeMap<(u32, u32), [u64; 8]>,
    /// Level 1 context descriptors, by StreamID and index.
    pub context_tables: BTreeMap<(u32, u32), u64>,
}

/// The sizes that entries can have: pages and blocks.
const SIZES: [u8; 3] = [12, 21, 30];

impl Caches {
    /// How many translations there are.
    pub fn translations(&self) -> usize {
        self.leaves.len() + self.leaves_2.len()
    }

    /// The translation of `address` under `tag`, or a global one under `aset`.
    pub fn leaf(&self, tag: Tag, aset: bool, address: u64) -> Option<&Leaf> {
        let global = Tag {
            asid: Asid::Global(aset),
            ..tag
        };
        let tags = [tag, global];
        SIZES.iter().find_map(|&size| {
            tags.iter()
                .find_map(|&tag| self.leaves.get(&(tag, size, address >> size)))
        })
    }

    /// Keeps a translation, unless one with its size is there and `replace` is not asked for.
    pub fn keep_leaf(&mut self, tag: Tag, address: u64, leaf: Leaf, replace: bool) {
        let key = (tag, leaf.log2_size, address >> leaf.log2_size);
        if replace {
            self.leaves.insert(key, leaf);
        } else {
            self.leaves.entry(key).or_insert(leaf);
        }
    }

    /// The deepest known table on the way to `address`, from level `start` down.
    pub fn table(&self, tag: Tag, address: u64, start: u8) -> Option<(u8, Table)> {
        (start + 1..=3).rev().find_map(|level| {
            let key = (tag, level, address >> level_shift(level - 1));
            self.tables.get(&key).map(|&table| (level, table))
        })
    }

    /// Keeps the pointer to the table at `level`.
    pub fn keep_table(&mut self, tag: Tag, address: u64, level: u8, table: Table) {
        let key = (tag, level, address >> level_shift(level - 1));
        self.tables.entry(key).or_insert(table);
    }

    /// The stage 2 translation of `ipa`.
    pub fn leaf_2(&self, vmid: u16, ipa: u64) -> Option<&Leaf2> {
        SIZES
            .iter()
            .find_map(|&size| self.leaves_2.get(&(vmid, size, ipa >> size)))
    }

    /// As [`keep_leaf`](Self::keep_leaf).
    pub fn keep_leaf_2(&mut self, vmid: u16, ipa: u64, leaf: Leaf2, replace: bool) {
        let key = (vmid, leaf.log2_size, ipa >> leaf.log2_size);
        if replace {
            self.leaves_2.insert(key, leaf);
        } else {
            self.leaves_2.entry(key).or_insert(leaf);
        }
    }

    /// As [`table`](Self::table).
    pub fn table_2(&self, vmid: u16, ipa: u64, start: u8) -> Option<(u8, u64)> {
        (start + 1..=3).rev().find_map(|level| {
            let key = (vmid, level, ipa >> level_shift(level - 1));
            self.tables_2.get(&key).map(|&table| (level, table))
        })
    }

    /// As [`keep_table`](Self::keep_table).
    pub fn keep_table_2(&mut self, vmid: u16, ipa: u64, level: u8, address: u64) {
        let key = (vmid, level, ipa >> level_shift(level - 1));
        self.tables_2.entry(key).or_insert(address);
    }

    /// Removes the translations and table pointers that `invalidation` covers.
    ///
    /// Entries that hold pieces of one stage 1 block go together, whichever address of the block
    /// is named (Arm ARM D8.17).
    pub fn invalidate_tlb(&mut self, invalidation: &TlbInvalidation) {
        let addresses = invalidation.addresses;
        self.leaves.retain(|&(tag, log2_size, number), leaf| {
            let first = number << log2_size & !((1 << leaf.log2_block) - 1);
            let covered =
                addresses.is_none_or(|range| range.cover_leaf(first, leaf.log2_block, leaf.level));
            !(covered && invalidation.has_tag(&tag))
        });
        self.tables.retain(|&(tag, level, number), _| {
            let first = number << level_shift(level - 1);
            let covered = addresses.is_none_or(|range| range.cover_table(first, level));
            !(covered && invalidation.has_tag(&tag))
        });
        if !invalidation.stage_2 {
            return;
        }
        self.leaves_2.retain(|&(vmid, log2_size, number), leaf| {
            let first = number << log2_size;
            let covered =
                addresses.is_none_or(|range| range.cover_leaf(first, log2_size, leaf.level));
            !(covered && invalidation.has_vmid(Some(vmid)))
        });
        self.tables_2.retain(|&(vmid, level, number), _| {
            let first = number << level_shift(level - 1);
            let covered = addresses.is_none_or(|range| range.cover_table(first, level));
            !(covered && invalidation.has_vmid(Some(vmid)))
        });
    }

    /// Removes everything fetched through the entries of StreamIDs `first` to `last`; with
    /// `split`, also the level 1 descriptors that lead to those (4.3.1, 4.3.2).
    pub fn invalidate_streams(&mut self, first: u32, last: u32, split: Option<u32>) {
        self.streams
            .retain(|stream, _| !(first..=last).contains(stream));
        self.contexts
            .retain(|(stream, _), _| !(first..=last).contains(stream));
        self.context_tables
            .retain(|(stream, _), _| !(first..=last).contains(stream));
        if let Some(split) = split {
            let indices = first >> split..=last >> split;
            self.stream_tables
                .retain(|index, _| !indices.contains(index));
        }
    }

    /// Forgets one entry of one cache, as a cache that is full does.
    pub fn forget(&mut self, random: &Random) {
        fn any<K: Ord + Clone, V>(map: &mut BTreeMap<K, V>, random: &Random) {
            let chosen = random.below(map.len() as u64) as usize;
            if let Some(key) = map.keys().nth(chosen).cloned() {
                map.remove(&key);
            }
        }
        match random.below(8) {
            0 => any(&mut self.leaves, random),
            1 => any(&mut self.tables, random),
            2 => any(&mut self.leaves_2, random),
            3 => any(&mut self.tables_2, random),
            4 => any(&mut self.streams, random),
            5 => any(&mut self.stream_tables, random),
            6 => any(&mut self.contexts, random),
            _ => any(&mut self.context_tables, random),
        }
    }
}
