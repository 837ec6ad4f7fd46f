//! What is unmapped and not yet given back, in the order of the unmaps.

use crate::Range;
use crate::operation::Levels;
use alloc::boxed::Box;

/// One unmapped range.
pub(super) struct Entry<T> {
    pub range: Range,
    pub levels: Levels,
    /// When it was unmapped.
    pub since: u64,
    pub item: T,
}

/// What one flush is to invalidate: every range before position `end`.
pub(super) struct Batch {
    pub end: u64,
    pub span: Range,
    pub levels: Levels,
}

impl Batch {
    /// The batch with one more range, and with what lies between.
    pub fn with(self, range: Range, levels: Levels) -> Self {
        let span = match (self.span.is_empty(), range.is_empty()) {
            (_, true) => self.span,
            (true, false) => range,
            (false, false) => {
                let start = self.span.start().min(range.start());
                let end = self.span.end().max(range.end());
                Range::new(start, end).unwrap_or(Range::ALL)
            }
        };
        let levels = match levels {
            Levels::LeafOnly => self.levels,
            Levels::All => Levels::All,
        };
        Self {
            span,
            levels,
            ..self
        }
    }
}

/// Entries in a ring of fixed size. Positions count unmaps and never wrap.
pub(super) struct Pending<T> {
    entries: Box<[Option<Entry<T>>]>,
    /// The oldest entry.
    head: u64,
    /// Where the next entry goes.
    tail: u64,
    /// Every entry before was, or is, part of a flush.
    sealed: u64,
    /// Every entry before was in a flush that succeeded.
    complete: u64,
}

impl<T> Pending<T> {
    const NOTHING: Range = match Range::new(0, 0) {
        Ok(range) => range,
        Err(_) => Range::ALL,
    };

    pub fn new(capacity: usize) -> Self {
        Self {
            entries: (0..capacity).map(|_| None).collect(),
            head: 0,
            tail: 0,
            sealed: 0,
            complete: 0,
        }
    }

    pub fn len(&self) -> usize {
        (self.tail - self.head) as usize
    }

    /// Takes an entry in, or hands it back if there is no room.
    pub fn push(&mut self, entry: Entry<T>) -> Result<(), Entry<T>> {
        if self.len() == self.entries.len() {
            return Err(entry);
        }
        let slot = self.slot(self.tail);
        self.entries[slot] = Some(entry);
        self.tail += 1;
        Ok(())
    }

    /// Whether half of the room is taken by what is in no flush yet.
    pub fn is_half_full(&self) -> bool {
        (self.tail - self.sealed) as usize * 2 >= self.entries.len()
    }

    /// When the oldest entry was unmapped.
    pub fn oldest(&self) -> Option<u64> {
        let entry = self.entries[self.slot(self.head)].as_ref()?;
        Some(entry.since)
    }

    /// The next flush: of everything that is here, whatever other flush it may be in as well, so
    /// that its success alone is proof enough.
    pub fn seal(&mut self) -> Batch {
        self.sealed = self.tail;
        let nothing = Batch {
            end: self.tail,
            span: Self::NOTHING,
            levels: Levels::LeafOnly,
        };
        (self.head..self.tail)
            .filter_map(|position| self.entries[self.slot(position)].as_ref())
            .fold(nothing, |batch, entry| {
                batch.with(entry.range, entry.levels)
            })
    }

    /// A flush of everything before `end` succeeded.
    pub fn complete(&mut self, end: u64) {
        self.complete = self.complete.max(end);
    }

    /// The item of the oldest entry, if it is complete and lies before `end`.
    pub fn take_complete(&mut self, end: u64) -> Option<T> {
        if self.head < self.complete.min(end) {
            self.take_any()
        } else {
            None
        }
    }

    /// The item of the oldest entry, whatever its state.
    pub fn take_any(&mut self) -> Option<T> {
        let slot = self.slot(self.head);
        let entry = self.entries[slot].take()?;
        self.head += 1;
        Some(entry.item)
    }

    fn slot(&self, position: u64) -> usize {
        (position % self.entries.len() as u64) as usize
    }
}
