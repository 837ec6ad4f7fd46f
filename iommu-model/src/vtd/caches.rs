//! The translation caches (chapter 6.2). An entry stays until a command removes it that the
//! specification says removes it.

use super::requests::Fault;
use super::tables::{ContextEntry, PasidEntry};
use super::walk::Leaf;
use crate::random::Random;
use std::collections::BTreeMap;

/// Sizes of pages, as powers of two.
const ORDERS: [u32; 3] = [30, 21, 12];

/// Which tables a translation came from. It decides which commands name it. What is passed through
/// is not cached: an entry could never differ from the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    First,
    Second,
    Nested,
}

/// What a translation is tagged with (6.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Tag {
    pub domain: u16,
    /// 0 for [`Stage::Second`], whose translations are the domain's.
    pub pasid: u32,
    pub stage: Stage,
}

/// An entry of the paging-structure caches: where the table of `level` for an address is, and what
/// the entries above it permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Structure {
    pub table: u64,
    pub level: u32,
    pub write: bool,
    pub user: bool,
    pub no_execute: bool,
    pub read: bool,
}

/// A naturally aligned block of input addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Block {
    pub address: u64,
    /// Its size in bytes, as a power of two; 64 for everything.
    pub order: u32,
}

impl Block {
    pub fn meets(self, address: u64, order: u32) -> bool {
        let order = self.order.max(order);
        order >= 64 || self.address >> order == address >> order
    }
}

/// What an IOTLB entry says of its page.
type Translated = Result<Leaf, Fault>;

#[derive(Default)]
pub(super) struct Caches {
    contexts: BTreeMap<u16, Result<ContextEntry, Fault>>,
    /// By source-id and PASID. An entry that is not present has domain 0 (6.1).
    pasids: BTreeMap<(u16, u32), (u16, Result<PasidEntry, Fault>)>,
    /// By tag, size and page.
    iotlb: BTreeMap<(Tag, u32, u64), Translated>,
    /// By tag, level and the address bits above the table's reach.
    structures: BTreeMap<(Tag, u32, u64), Structure>,
}

impl Caches {
    pub fn context(&self, source_id: u16) -> Option<Result<ContextEntry, Fault>> {
        self.contexts.get(&source_id).copied()
    }

    pub fn keep_context(&mut self, source_id: u16, entry: Result<ContextEntry, Fault>) {
        self.contexts.insert(source_id, entry);
    }

    pub fn pasid(&self, source_id: u16, pasid: u32) -> Option<Result<PasidEntry, Fault>> {
        self.pasids.get(&(source_id, pasid)).map(|entry| entry.1)
    }

    pub fn keep_pasid(&mut self, source_id: u16, pasid: u32, entry: Result<PasidEntry, Fault>) {
        let domain = entry.map_or(0, |entry| entry.domain);
        self.pasids.insert((source_id, pasid), (domain, entry));
    }

    /// The cached translations of an address, the largest page first.
    pub fn translations(&self, tag: Tag, address: u64) -> impl Iterator<Item = Translated> {
        ORDERS
            .into_iter()
            .filter_map(move |order| self.iotlb.get(&(tag, order, address >> order)).copied())
    }

    pub fn keep_translation(&mut self, tag: Tag, address: u64, order: u32, translated: Translated) {
        self.iotlb
            .insert((tag, order, address >> order), translated);
    }

    /// The lowest table that is known for an address.
    pub fn structure(&self, tag: Tag, address: u64) -> Option<Structure> {
        (1..=4).find_map(|level| {
            let key = (tag, level, address >> reach(level));
            self.structures.get(&key).copied()
        })
    }

    pub fn keep_structure(&mut self, tag: Tag, address: u64, structure: Structure) {
        let level = structure.level;
        let key = (tag, level, address >> reach(level));
        self.structures.insert(key, structure);
    }

    /// Removes what the set of source-ids names out of the context cache.
    pub fn forget_contexts(&mut self, named: impl Fn(u16) -> bool) {
        self.contexts.retain(|&source_id, _| !named(source_id));
    }

    /// Removes what is named by domain-id and PASID out of the PASID cache. An entry that is not
    /// present is named by its PASID alone: Linux invalidates it under the new entry's domain-id.
    pub fn forget_pasids(&mut self, domain: Option<u16>, pasid: Option<u32>) {
        self.pasids.retain(|&(_, own_pasid), (own_domain, entry)| {
            let same_pasid = pasid.is_none_or(|pasid| pasid == own_pasid);
            let same_domain = domain.is_none_or(|domain| domain == *own_domain)
                || pasid.is_some() && entry.is_err();
            !(same_pasid && same_domain)
        });
    }

    /// Removes translations and, unless `leaf_only`, table addresses within the block.
    pub fn forget_translations(
        &mut self,
        named: impl Fn(Tag) -> bool,
        block: Block,
        leaf_only: bool,
    ) {
        self.iotlb
            .retain(|&(tag, order, page), _| !(named(tag) && block.meets(page << order, order)));
        if !leaf_only {
            self.structures.retain(|&(tag, level, above), _| {
                let order = reach(level);
                !(named(tag) && block.meets(above << order, order))
            });
        }
    }

    pub fn forget_everything(&mut self) {
        *self = Self::default();
    }

    /// Loses an entry by chance.
    pub fn lose_one(&mut self, random: &Random) {
        match random.below(4) {
            0 => lose(&mut self.contexts, random),
            1 => lose(&mut self.pasids, random),
            2 => lose(&mut self.iotlb, random),
            _ => lose(&mut self.structures, random),
        }
    }

    /// How many translations are cached.
    pub fn translation_count(&self) -> usize {
        self.iotlb.len()
    }
}

fn lose<K: Ord + Copy, V>(cache: &mut BTreeMap<K, V>, random: &Random) {
    let any = random.below(cache.len() as u64) as usize;
    if let Some(&key) = cache.keys().nth(any) {
        cache.remove(&key);
    }
}

/// The size of what a table of `level` translates, as a power of two of bytes.
const fn reach(level: u32) -> u32 {
    12 + 9 * level
}
