//! Which intervals overlap a range: a sorted array that knows how far its parts reach.

use alloc::vec::Vec;
use core::ops::ControlFlow;

use crate::planted::{self, Fault};
use crate::range::Range;

/// How many intervals are looked at one by one before the search begins at the root.
const NEAR: usize = 8;

/// An interval with inclusive bounds.
#[derive(Clone, Copy)]
struct Entry {
    start: u64,
    last: u64,
    /// The greatest `last` of the part of the array that this entry is the middle of.
    reach: u64,
    /// The greatest `last` of this entry and all before it.
    reach_so_far: u64,
}

/// Intervals sorted by their starts, each with an item. Never changed once built.
///
/// A binary search tree without pointers: the root of a part of the array is its middle, and the
/// entry there says how far any interval of the part reaches. A query costs O(log n + hits).
///
/// Most intervals do not overlap. Therefore a query first looks at the few that start last of those
/// that start early enough; the tree is for queries that reach further back.
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
            reach_so_far: last,
        });
        self.entries.extend_from_slice(&entries[place..]);
        self.items.extend_from_slice(&items[..place]);
        self.items.push(item);
        self.items.extend_from_slice(&items[place..]);
        measure_all(&mut self.entries);
    }

    /// Becomes `other` without the item that `leaves` says. Does not allocate if there is room.
    pub(super) fn fill_without(&mut self, other: &Self, leaves: impl Fn(&T) -> bool) {
        for (entry, item) in other.entries.iter().zip(&other.items) {
            if !leaves(item) {
                self.entries.push(*entry);
                self.items.push(item.clone());
            }
        }
        measure_all(&mut self.entries);
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
        let entries = &self.entries[..];
        let behind = entries.partition_point(|entry| entry.start <= query.last);
        let candidates = &entries[..behind];
        // Entries further back do not reach the range once one says so for all before it.
        let near = candidates
            .iter()
            .rev()
            .take(NEAR)
            .take_while(|entry| entry.reach_so_far >= query.start)
            .count();
        let first = behind - near;
        let mut visit = |place: usize| visit(&self.items[place]);
        match first
            .checked_sub(1)
            .map(|before| entries[before].reach_so_far)
        {
            Some(reach) if reach >= query.start => query.search(entries, 0, &mut visit),
            _ => query.scan(&candidates[first..], first, &mut visit),
        }
    }
}

/// Writes into each entry how far the parts reach that it stands for.
fn measure_all(entries: &mut [Entry]) {
    measure(entries);
    let mut so_far = 0;
    for entry in entries {
        so_far = entry.last.max(so_far);
        entry.reach_so_far = so_far;
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
    /// Looks at every one of `entries`, which start early enough. `first` is the place of the first
    /// one.
    fn scan(
        &self,
        entries: &[Entry],
        first: usize,
        visit: &mut impl FnMut(usize) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        for (place, entry) in entries.iter().enumerate() {
            let missed = planted::is(Fault::QueryMissesLast) && place + 1 == entries.len();
            if entry.last >= self.start && !missed {
                visit(first + place)?;
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
