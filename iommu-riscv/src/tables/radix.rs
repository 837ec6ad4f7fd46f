//! What the two directories share: a radix tree whose pages are allocated on demand.

use crate::planted::{self, Fault};
use crate::spec::PAGE_SIZE;
use crate::spec::tables::non_leaf;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use iommu_core::error::OutOfMemory;
use iommu_core::ids::PhysicalAddress;
use iommu_core::platform::{DmaBuffer, Parts, Platform, WalkerCoherency};

/// The bits of an id that select an entry of a non-leaf page.
const NON_LEAF_BITS: u32 = 9;

/// Where a page stands: its level (0 for a leaf page) and the bits of the id above it.
type Place = (u8, u32);

/// A directory of `levels` levels whose leaf pages are indexed by `leaf_bits` bits of an id.
pub(super) struct Radix<P: Platform> {
    parts: Arc<Parts<P>>,
    coherency: WalkerCoherency,
    levels: u8,
    leaf_bits: u32,
    pages: BTreeMap<Place, DmaBuffer<P>>,
}

/// A context in a leaf page, as the index of its first 64-bit word.
pub(super) struct Slot<'a, P: Platform> {
    page: &'a DmaBuffer<P>,
    first: usize,
}

impl<P: Platform> Radix<P> {
    /// A directory with an empty root page.
    pub(super) fn new(
        parts: &Arc<Parts<P>>,
        levels: u8,
        leaf_bits: u32,
        coherency: WalkerCoherency,
    ) -> Result<Self, OutOfMemory> {
        let mut radix = Self {
            parts: parts.clone(),
            coherency,
            levels,
            leaf_bits,
            pages: BTreeMap::new(),
        };
        let root = radix.allocate()?;
        radix.pages.insert((levels - 1, 0), root);
        Ok(radix)
    }

    /// Where the root page lies.
    pub(super) fn root(&self) -> PhysicalAddress {
        self.pages[&(self.levels - 1, 0)].physical()
    }

    /// How many levels there are.
    pub(super) fn levels(&self) -> u8 {
        self.levels
    }

    /// Whether the directory has room for `id`.
    pub(super) fn holds(&self, id: u32) -> bool {
        id >> (self.leaf_bits + NON_LEAF_BITS * (u32::from(self.levels) - 1)) == 0
    }

    /// Allocates the pages on the way to the context of `id`, which the directory has room for.
    ///
    /// All are allocated before the first is linked, from the leaf upwards, so that the hardware
    /// never sees an unfinished branch. Entries go from invalid to valid, which needs no
    /// invalidation (section "Caching invalid entries").
    pub(super) fn grow(&mut self, id: u32) -> Result<(), OutOfMemory> {
        let missing: Vec<u8> = (0..self.levels)
            .filter(|&level| !self.pages.contains_key(&self.place(level, id)))
            .collect();
        let Some(&topmost) = missing.last() else {
            return Ok(());
        };
        let pages = missing
            .iter()
            .map(|_| self.allocate())
            .collect::<Result<Vec<_>, _>>()?;
        let link_first = planted::is(Fault::RiscvBranchLinkedFirst);
        if link_first
            && let Some(parent) = self.pages.get(&self.place(topmost + 1, id))
            && let Some(page) = pages.last()
        {
            let index = (id >> self.shift(topmost + 1)) as usize & ((1 << NON_LEAF_BITS) - 1);
            parent.store(index, non_leaf(page.physical()));
            parent.publish(index, 1);
        }
        for (level, page) in missing.into_iter().zip(pages) {
            if level > 0 {
                self.link(&page, level, id);
            }
            self.pages.insert(self.place(level, id), page);
        }
        if let Some(parent) = self.pages.get(&self.place(topmost + 1, id)) {
            self.link(parent, topmost + 1, id);
        }
        Ok(())
    }

    /// The context of `id`, of `words` words, if its leaf page is there.
    pub(super) fn slot(&self, id: u32, words: usize) -> Option<Slot<'_, P>> {
        let page = self.pages.get(&self.place(0, id))?;
        let index = id as usize & ((1 << self.leaf_bits) - 1);
        Some(Slot {
            page,
            first: index * words,
        })
    }

    /// Stores into `page`, which stands at `level` on the way to `id`, where the page below is.
    fn link(&self, page: &DmaBuffer<P>, level: u8, id: u32) {
        let child = self.pages[&self.place(level - 1, id)].physical();
        let index = (id >> self.shift(level)) as usize & ((1 << NON_LEAF_BITS) - 1);
        page.store(index, non_leaf(child));
        page.publish(index, 1);
    }

    /// The lowest bit of an id that selects an entry at `level`.
    fn shift(&self, level: u8) -> u32 {
        match level {
            0 => 0,
            _ => self.leaf_bits + NON_LEAF_BITS * (u32::from(level) - 1),
        }
    }

    fn place(&self, level: u8, id: u32) -> Place {
        (level, id >> self.shift(level + 1))
    }

    fn allocate(&self) -> Result<DmaBuffer<P>, OutOfMemory> {
        DmaBuffer::new(&self.parts, PAGE_SIZE, PAGE_SIZE, self.coherency)
    }
}

impl<P: Platform> Slot<'_, P> {
    /// Stores a context: everything but the first word, then the first word, which makes it valid.
    pub(super) fn set(&self, words: &[u64]) {
        if planted::is(Fault::RiscvValidFirst) {
            self.set_first(words[0]);
        }
        self.set_rest(&words[1..]);
        self.set_first(words[0]);
    }

    /// Makes the context invalid. The other words stay until the caller has invalidated it.
    pub(super) fn clear_first(&self) {
        self.set_first(0);
    }

    /// Clears the other words of a context of `words` words.
    pub(super) fn clear_rest(&self, words: usize) {
        for word in 1..words {
            self.page.store(self.first + word, 0);
        }
        self.page.publish(self.first + 1, words - 1);
    }

    fn set_first(&self, value: u64) {
        self.page.store(self.first, value);
        self.page.publish(self.first, 1);
    }

    fn set_rest(&self, words: &[u64]) {
        for (word, &value) in words.iter().enumerate() {
            self.page.store(self.first + 1 + word, value);
        }
        self.page.publish(self.first + 1, words.len());
    }
}
