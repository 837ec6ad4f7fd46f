//! What is in the ring: lists, their syncs, and which of them failed. Plain bookkeeping, without
//! hardware and without concurrency.

use super::position::slot;
use crate::error::QueueError;
use crate::planted::{self, Fault};
use alloc::boxed::Box;
use alloc::vec;

/// How many failures are remembered one by one.
const REMEMBERED: usize = 16;

/// The lists between `done` and `tail`.
#[derive(Debug)]
pub(super) struct Lists {
    /// By the slot in which a list begins.
    records: Box<[Record]>,
    /// Where the next command goes.
    tail: u64,
    /// Everything before is complete.
    done: u64,
    /// Syncs in the ring that are not known to be complete.
    syncs: usize,
    /// Whether somebody waits for a sync that was not posted yet.
    open: bool,
    failures: [Option<Failure>; REMEMBERED],
    /// The next entry of `failures` to be overwritten.
    oldest: usize,
    /// Failures up to here were overwritten.
    forgotten: u64,
    /// Syncs before this position never complete.
    dropped: u64,
    dead: Option<QueueError>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Record {
    /// Just past the list, its sync included.
    end: u64,
    /// Whether its last slot is a sync.
    has_sync: bool,
}

/// The lists that end after `start` and not after `end` failed.
#[derive(Clone, Copy, Debug)]
struct Failure {
    start: u64,
    end: u64,
    error: QueueError,
}

impl Lists {
    pub(super) fn new(slots: usize) -> Self {
        Self {
            records: vec![Record::default(); slots].into(),
            tail: 0,
            done: 0,
            syncs: 0,
            open: false,
            failures: [None; REMEMBERED],
            oldest: 0,
            forgotten: 0,
            dropped: 0,
            dead: None,
        }
    }

    pub(super) fn slot(&self, position: u64) -> usize {
        slot(position, self.records.len())
    }

    pub(super) fn tail(&self) -> u64 {
        self.tail
    }

    pub(super) fn done(&self) -> u64 {
        self.done
    }

    pub(super) fn syncs(&self) -> usize {
        self.syncs
    }

    pub(super) fn is_open(&self) -> bool {
        self.open
    }

    /// How many slots can be added. One stays empty, by which a full ring differs from an empty one.
    pub(super) fn room(&self) -> usize {
        if planted::is(Fault::FullRingOverwritten) {
            return self.capacity();
        }
        self.capacity() - (self.tail - self.done) as usize
    }

    /// Whether `commands` more slots fit now.
    pub(super) fn has_room(&self, commands: usize) -> bool {
        commands <= self.room()
    }

    /// Whether `commands` slots fit at all.
    pub(super) fn check_length(&self, commands: usize) -> Result<(), QueueError> {
        let capacity = self.capacity();
        if commands > capacity {
            return Err(QueueError::ListTooLong { commands, capacity });
        }
        Ok(())
    }

    fn capacity(&self) -> usize {
        self.records.len() - 1
    }

    /// Adds a list of `commands` slots, the last of which is a sync if `has_sync`.
    pub(super) fn add(&mut self, commands: usize, has_sync: bool) {
        let end = self.tail + commands as u64;
        if commands > 0 {
            let slot = self.slot(self.tail);
            self.records[slot] = Record { end, has_sync };
        }
        self.tail = end;
        self.open = !has_sync;
        self.syncs += usize::from(has_sync);
    }

    /// Moves `done` over every sync that is complete, as `is_complete` says of the position just
    /// past it, or was dropped. Returns the position just past the first that is not.
    pub(super) fn reclaim(&mut self, is_complete: impl Fn(u64) -> bool) -> Option<u64> {
        loop {
            let end = self.next_sync(self.done)?;
            if end > self.dropped && !is_complete(end) {
                return Some(end);
            }
            self.done = end;
            self.syncs -= 1;
        }
    }

    /// The position just past the first sync of a list that begins at or after `position`, itself
    /// the beginning of a list.
    fn next_sync(&self, mut position: u64) -> Option<u64> {
        while position < self.tail {
            let record = self.records[self.slot(position)];
            position = record.end;
            if record.has_sync {
                return Some(position);
            }
        }
        None
    }

    /// The position in the ring that `slot` holds now.
    pub(super) fn position(&self, slot: usize) -> Option<u64> {
        let slots = self.records.len();
        let distance = (slot % slots + slots - self.slot(self.done)) % slots;
        let position = self.done + distance as u64;
        (position < self.tail).then_some(position)
    }

    /// The list that holds `position`: where it begins and ends.
    pub(super) fn list(&self, position: u64) -> Option<(u64, u64)> {
        let mut start = self.done;
        while start < self.tail {
            let end = self.records[self.slot(start)].end;
            if position < end {
                return Some((start, end));
            }
            start = end;
        }
        None
    }

    /// Whether `position` holds the sync that ends a list.
    pub(super) fn is_sync(&self, position: u64) -> bool {
        let list = self.list(position);
        list.is_some_and(|(start, end)| {
            position + 1 == end && self.records[self.slot(start)].has_sync
        })
    }

    /// Everything that the sync at `position` stands for: from the sync before it.
    pub(super) fn group(&self, position: u64) -> Option<(u64, u64)> {
        let mut start = self.done;
        loop {
            let end = self.next_sync(start)?;
            if position < end {
                return Some((start, end));
            }
            start = end;
        }
    }

    /// Remembers that the lists that end after `start` and not after `end` failed.
    pub(super) fn fail(&mut self, (start, end): (u64, u64), error: QueueError) {
        let (start, end) = match self.list(end) {
            Some(next) if planted::is(Fault::ErrorToldToTheNext) => next,
            _ => (start, end),
        };
        let place = &mut self.failures[self.oldest];
        if let Some(overwritten) = place {
            self.forgotten = self.forgotten.max(overwritten.end);
        }
        *place = Some(Failure { start, end, error });
        self.oldest = (self.oldest + 1) % REMEMBERED;
    }

    /// No sync before `position` completes any more.
    pub(super) fn drop_syncs(&mut self, position: u64) {
        self.dropped = self.dropped.max(position);
    }

    /// Why the list that ends at `end` failed, if it did. One whose failure may have been forgotten
    /// counts as failed.
    pub(super) fn failure(&self, end: u64) -> Option<QueueError> {
        let remembered = self.failures.iter().flatten();
        let mut matching = remembered.filter(|failure| failure.start < end && end <= failure.end);
        let forgotten = (end <= self.forgotten).then_some(QueueError::Aborted);
        matching.next().map(|failure| failure.error).or(forgotten)
    }

    /// The hardware does not go on.
    pub(super) fn die(&mut self, error: QueueError) {
        self.dead.get_or_insert(error);
    }

    pub(super) fn dead(&self) -> Option<QueueError> {
        self.dead
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ERROR: QueueError = QueueError::MemoryFault;

    fn with(lists: &[(usize, bool)]) -> Lists {
        let mut all = Lists::new(16);
        lists
            .iter()
            .for_each(|(commands, sync)| all.add(*commands, *sync));
        all
    }

    #[test]
    fn a_sync_completes_everything_before_it() {
        let mut lists = with(&[(2, false), (3, true), (1, false), (2, true)]);
        assert_eq!((lists.syncs(), lists.tail()), (2, 8));
        lists.reclaim(|end| end == 5);
        assert_eq!((lists.done(), lists.syncs()), (5, 1));
        lists.reclaim(|_| false);
        assert_eq!(lists.done(), 5);
        lists.reclaim(|end| end == 8);
        assert_eq!((lists.done(), lists.syncs()), (8, 0));
    }

    #[test]
    fn lists_without_a_sync_are_not_complete() {
        let mut lists = with(&[(2, false), (3, false)]);
        assert!(lists.is_open());
        lists.reclaim(|_| true);
        assert_eq!(lists.done(), 0);
        lists.add(1, true);
        assert!(!lists.is_open());
        lists.reclaim(|_| true);
        assert_eq!(lists.done(), 6);
    }

    #[test]
    fn an_empty_list_waits_for_the_next_sync() {
        let mut lists = with(&[(0, false)]);
        assert!(lists.is_open() && lists.tail() == 0);
        lists.add(1, true);
        lists.reclaim(|_| true);
        assert_eq!(lists.done(), 1);
    }

    #[test]
    fn one_slot_stays_empty() {
        let lists = with(&[(10, true)]);
        assert!(lists.has_room(5) && !lists.has_room(6));
    }

    #[test]
    fn slots_lists_and_groups_are_found_over_the_wrap() {
        let mut lists = with(&[(12, true)]);
        lists.reclaim(|_| true);
        lists.add(3, false);
        lists.add(4, true);
        lists.add(2, true);
        assert_eq!(lists.position(15), Some(15));
        assert_eq!(lists.position(0), Some(16));
        assert_eq!(lists.position(4), Some(20));
        assert_eq!(lists.position(5), None);
        assert_eq!(lists.list(14), Some((12, 15)));
        assert_eq!(lists.list(15), Some((15, 19)));
        assert_eq!(lists.group(13), Some((12, 19)));
        assert_eq!(lists.group(19), Some((19, 21)));
        assert_eq!((lists.list(21), lists.group(21)), (None, None));
    }

    #[test]
    fn a_failure_is_the_lists_own() {
        let mut lists = with(&[(2, true), (3, false), (2, true)]);
        lists.fail((2, 5), ERROR);
        assert_eq!(lists.failure(2), None);
        assert_eq!(lists.failure(5), Some(ERROR));
        assert_eq!(lists.failure(7), None);
    }

    #[test]
    fn what_is_forgotten_counts_as_failed() {
        let mut lists = Lists::new(16);
        for number in 0..REMEMBERED as u64 + 1 {
            lists.fail((10 * number, 10 * number + 1), ERROR);
        }
        assert_eq!(lists.failure(1), Some(QueueError::Aborted));
        assert_eq!(lists.failure(11), Some(ERROR));
        assert_eq!(lists.failure(5), None);
    }

    #[test]
    fn dropped_syncs_are_passed_over() {
        let mut lists = with(&[(2, true), (2, true), (2, true)]);
        lists.drop_syncs(4);
        lists.reclaim(|_| false);
        assert_eq!((lists.done(), lists.syncs()), (4, 1));
    }
}
