//! Which intervals overlap a range: a sorted array that knows how far its parts reach.

use alloc::vec::Vec;
use core::ops::ControlFlow;

use crate::planted::{self, Fault};
use crate::range::Range;

/// Up to here every interval is looked at; a search costs more.
const FLAT: usize = 24;

/// An interval with inclusive bounds.
#[derive(Clone, Copy)]
struct Entry {
    start: u64,
    last: u64,
    /// The greatest `last` of the part of the array that this entry is the middle of.
    reach: u64,
}

/// Intervals sorted by their starts, each with an item. Never changed once built.
///
/// A binary search tree without pointers: the root of a part of the array is its middle, and the
/// entry there says how far any interval of the part reaches. A query costs O(log n + hits).
pub(crate) struct Index<T> {
    entries: Vec<Entry>,
    items: Vec<T>,
}

impl<T: Clone> Index<T> {
    /// Empty, with room for `capacity` intervals.
    pub(super) fn with_capacity(capacity: usize) -> Self {
        Index {
            entries: Vec::with_capacity(capacity),
            items: Vec::with_capacity(capacity),
        }
    }

    pub(super) fn capacity(&self) -> usize {
        self.entries.capacity().min(self.items.capacity())
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Becomes `other`, if there is one, and the interval from `start` to `last` inclusive. Does
    /// not allocate if there is room.
    pub(super) fn fill_with(&mut self, other: Option<&Self>, start: u64, last: u64, item: T) {
        let (entries, items) = other.map_or((&[][..], &[][..]), |other| {
            (&other.entries[..], &other.items[..])
        });
        let place = entries.partition_point(|entry| entry.start <= start);
        self.entries.extend_from_slice(&entries[..place]);
        self.entries.push(Entry {
            start,
            last,
            reach: last,
        });
        self.entries.extend_from_slice(&entries[place..]);
        self.items.extend_from_slice(&items[..place]);
        self.items.push(item);
        self.items.extend_from_slice(&items[place..]);
        measure(&mut self.entries);
    }

    /// Becomes `other` without the item that `leaves` says. Does not allocate if there is room.
    pub(super) fn fill_without(&mut self, other: &Self, leaves: impl Fn(&T) -> bool) {
        for (entry, item) in other.entries.iter().zip(&other.items) {
            if !leaves(item) {
                self.entries.push(*entry);
                self.items.push(item.clone());
            }
        }
        measure(&mut self.entries);
    }
}

impl<T> Index<T> {
    /// Visits the items whose intervals overlap `range`, in the order of their starts, until
    /// `visit` breaks off.
    pub(super) fn visit_overlapping<'a>(
        &'a self,
        range: Range,
        mut visit: impl FnMut(&'a T) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let Some(last) = range.last() else {
            return ControlFlow::Continue(());
        };
        let query = Query {
            start: range.start(),
            last,
        };
        let mut visit = |place: usize| visit(&self.items[place]);
        if self.entries.len() <= FLAT {
            query.scan(&self.entries, &mut visit)
        } else {
            query.search(&self.entries, 0, &mut visit)
        }
    }
}

/// Writes into each entry how far the part reaches that it is the middle of.
fn measure(entries: &mut [Entry]) -> Option<u64> {
    let middle = entries.len() / 2;
    let (left, rest) = entries.split_at_mut(middle);
    let (root, right) = rest.split_first_mut()?;
    root.reach = root
        .last
        .max(measure(left).unwrap_or(0))
        .max(measure(right).unwrap_or(0));
    Some(root.reach)
}

/// A range with inclusive bounds.
struct Query {
    start: u64,
    last: u64,
}

impl Query {
    fn scan(
        &self,
        entries: &[Entry],
        visit: &mut impl FnMut(usize) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        for (place, entry) in entries.iter().enumerate() {
            if entry.start > self.last {
                break;
            }
            if entry.last >= self.start {
                visit(place)?;
            }
        }
        ControlFlow::Continue(())
    }

    /// As deep as the logarithm of the number of entries. `first` is the place of the first one.
    fn search(
        &self,
        mut entries: &[Entry],
        mut first: usize,
        visit: &mut impl FnMut(usize) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        loop {
            let middle = entries.len() / 2;
            let (left, rest) = entries.split_at(middle);
            let Some((root, right)) = rest.split_first() else {
                return ControlFlow::Continue(());
            };
            if root.reach < self.start {
                return ControlFlow::Continue(());
            }
            self.search(left, first, visit)?;
            if root.start > self.last {
                return ControlFlow::Continue(());
            }
            let missed = planted::is(Fault::QueryMissesLast) && right.is_empty();
            if root.last >= self.start && !missed {
                visit(first + middle)?;
            }
            entries = right;
            first += middle + 1;
        }
    }
}
