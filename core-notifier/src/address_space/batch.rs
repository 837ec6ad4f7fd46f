//! Many ranges, one invalidation.

use super::AddressSpace;
use crate::planted::{self, Fault};
use crate::range::Range;
use crate::srcu::Mode;

/// How many ranges are kept apart.
const CAPACITY: usize = 8;

/// Ranges whose translations have been removed, and whose secondary TLBs are told once for all.
///
/// For who removes many pages in a row (reclaim, teardown): [`add`](Batch::add) after each store to
/// the page table, [`flush`](Batch::flush) before the first page is freed or reused. Each notifier is
/// visited once; one that works in two passes gets all ranges together.
///
/// Ranges that touch or overlap become one. Of more than eight that do not, the two with the
/// smallest gap between them become one, gap included: too much may be invalidated, never too
/// little. Neither adding nor flushing takes a lock or allocates; both are legal with interrupts off.
///
/// Dropping a batch flushes it. One that is leaked (`mem::forget`) does not, and then the pages must
/// not be freed; where that cannot be excluded, use [`AddressSpace::batch`].
#[must_use = "the ranges are invalidated when the batch is flushed or dropped"]
pub struct Batch<'a, M: Mode> {
    space: &'a AddressSpace<M>,
    ranges: Ranges,
}

impl<M: Mode> AddressSpace<M> {
    /// An empty batch.
    pub fn begin_batch(&self) -> Batch<'_, M> {
        Batch {
            space: self,
            ranges: Ranges::new(),
        }
    }

    /// Lends `work` a batch, and flushes it whichever way `work` ends. The pages that `work` has
    /// removed may be freed when this returns.
    pub fn batch<R>(&self, work: impl FnOnce(&mut Batch<'_, M>) -> R) -> R {
        work(&mut self.begin_batch())
    }
}

impl<M: Mode> Batch<'_, M> {
    /// Adds a range from which translations have been removed, with the CPUs' TLBs flushed or to be
    /// flushed before the [`flush`](Batch::flush). Nothing if the range is empty.
    pub fn add(&mut self, range: Range) {
        self.ranges.add(range);
    }

    /// What a flush would invalidate now: sorted ranges that do not touch.
    pub fn ranges(&self) -> &[Range] {
        self.ranges.as_slice()
    }

    /// Invalidates what has been added; when it returns, no device reads or writes through what was
    /// removed, and the batch is empty. As [`AddressSpace::invalidate_range`], for all ranges.
    pub fn flush(&mut self) {
        if !self.ranges.as_slice().is_empty() {
            self.space.invalidate_ranges(self.ranges.as_slice());
            self.ranges = Ranges::new();
        }
    }
}

impl<M: Mode> Drop for Batch<'_, M> {
    fn drop(&mut self) {
        self.flush();
    }
}

/// Sorted ranges, none empty, with a gap between any two.
struct Ranges {
    /// One more than are kept, for the one that is being added.
    ranges: [Range; CAPACITY + 1],
    count: usize,
}

impl Ranges {
    const fn new() -> Self {
        Ranges {
            ranges: [Range::ALL; CAPACITY + 1],
            count: 0,
        }
    }

    fn as_slice(&self) -> &[Range] {
        &self.ranges[..self.count]
    }

    fn add(&mut self, range: Range) {
        if range.is_empty() {
            return;
        }
        let first = self
            .as_slice()
            .partition_point(|other| other.end() < range.start());
        let behind = self
            .as_slice()
            .partition_point(|other| other.start() <= range.end());
        let merged = self.as_slice()[first..behind]
            .iter()
            .fold(range, |merged, other| merged.span(*other));
        self.replace(first, behind, merged);
        if self.count > CAPACITY {
            self.close_smallest_gap();
        }
    }

    /// Puts `range` where those from `first` up to `behind` were.
    fn replace(&mut self, first: usize, behind: usize, range: Range) {
        self.ranges.copy_within(behind..self.count, first + 1);
        self.ranges[first] = range;
        self.count = self.count + first + 1 - behind;
    }

    fn close_smallest_gap(&mut self) {
        if planted::is(Fault::BatchDropsLast) {
            self.count -= 1;
            return;
        }
        let gap = |place: &usize| self.ranges[place + 1].start() - self.ranges[*place].end();
        if let Some(place) = (0..self.count - 1).min_by_key(gap) {
            let merged = self.ranges[place].span(self.ranges[place + 1]);
            self.replace(place, place + 2, merged);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use alloc::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn added(ranges: &[(u64, u64)]) -> Vec<(u64, u64)> {
        let mut batch = Ranges::new();
        for (start, end) in ranges {
            batch.add(Range::new(*start, *end).unwrap());
        }
        let bounds = |range: &Range| (range.start(), range.end());
        batch.as_slice().iter().map(bounds).collect()
    }

    #[test]
    fn neighbours_and_overlaps_become_one() {
        assert_eq!(added(&[(0, 1), (1, 2), (5, 6)]), [(0, 2), (5, 6)]);
        assert_eq!(added(&[(5, 6), (1, 2), (0, 1)]), [(0, 2), (5, 6)]);
        assert_eq!(added(&[(0, 1), (4, 5), (8, 9), (1, 8)]), [(0, 9)]);
        assert_eq!(added(&[(3, 3)]), []);
        assert_eq!(added(&[(1, 2), (0, u64::MAX)]), [(0, u64::MAX)]);
    }

    #[test]
    fn beyond_the_capacity_the_smallest_gap_is_closed() {
        let mut ranges: Vec<_> = (0..8)
            .map(|place| (place * 100, place * 100 + 10))
            .collect();
        assert_eq!(added(&ranges).len(), 8);
        ranges.push((315, 316));
        let mut expected = ranges.clone();
        expected.truncate(8);
        expected[3].1 = 316;
        assert_eq!(added(&ranges), expected);
    }

    proptest! {
        #[test]
        fn every_added_address_is_covered_and_the_ranges_stay_apart(
            bounds in prop::collection::vec((0..2_000_u64, 0..40_u64), 0..60)
        ) {
            let mut batch = Ranges::new();
            for (start, length) in &bounds {
                batch.add(Range::with_length(*start, *length).unwrap());
            }
            let kept = batch.as_slice();
            prop_assert!(kept.len() <= CAPACITY);
            prop_assert!(kept.iter().all(|range| !range.is_empty()));
            prop_assert!(kept.windows(2).all(|pair| pair[0].end() < pair[1].start()));
            for (start, length) in bounds {
                for address in start..start + length {
                    prop_assert!(kept.iter().any(|range| range.contains(address)));
                }
            }
        }
    }
}
