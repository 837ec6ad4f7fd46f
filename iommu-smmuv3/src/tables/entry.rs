//! One stream table entry or context descriptor: eight words, of which the first decides.

use crate::planted::{self, Fault};
use crate::spec::tables::ENTRY_WORDS;
use iommu_core::platform::{DmaBuffer, Platform};

/// An entry in memory that the SMMU may be reading.
#[derive(Debug)]
pub struct Entry<'a, P: Platform> {
    buffer: &'a DmaBuffer<P>,
    first: usize,
}

impl<'a, P: Platform> Entry<'a, P> {
    /// Entry number `index` of the table in `buffer`.
    pub fn new(buffer: &'a DmaBuffer<P>, index: usize) -> Self {
        Self {
            buffer,
            first: index * ENTRY_WORDS,
        }
    }

    /// Fills an invalid entry: words 1 to 7 first, visible to the SMMU, then the word with the
    /// valid bit.
    pub fn set_up(&self, words: &[u64; ENTRY_WORDS]) {
        if planted::is(Fault::SmmuValidFirst) {
            self.replace_first(words[0]);
        }
        self.store_rest(|word| words[word]);
        self.replace_first(words[0]);
    }

    /// Stores the first word alone; with 0 the entry is invalid.
    pub fn replace_first(&self, word: u64) {
        if word == 0 && planted::is(Fault::SmmuRestClearedFirst) {
            self.store_rest(|_| 0);
        }
        self.buffer.store(self.first, word);
        self.buffer.publish(self.first, 1);
    }

    /// Zeroes what is left of an entry that the SMMU no longer knows as valid.
    pub fn clear_rest(&self) {
        self.store_rest(|_| 0);
    }

    fn store_rest(&self, value: impl Fn(usize) -> u64) {
        for word in 1..ENTRY_WORDS {
            self.buffer.store(self.first + word, value(word));
        }
        self.buffer.publish(self.first + 1, ENTRY_WORDS - 1);
    }
}
