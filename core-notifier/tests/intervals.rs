//! Interval subscriptions: bad input, queries against a plain search, and many threads at once.
#![cfg(not(loom))]

extern crate alloc;

mod common;

use alloc::sync::{Arc, Weak};
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Mutex, OnceLock};
use std::thread;

use common::{MemoryMapLock, RANGE, new_space};
use core_notifier::{
    AddressSpace, Checked, Context, Event, Fenced, InsertError, IntervalNotifier,
    IntervalSubscription, Invalidation, Range, RemoveError, Srcu, WaitError, WouldBlock,
};
use proptest::prelude::*;

const UNMAP: Invalidation = Invalidation::new(RANGE, Event::Unmap);

/// Remembers which subscriptions were called.
#[derive(Default)]
struct Recorder {
    called: Mutex<Vec<Range>>,
}

impl Recorder {
    fn take(&self) -> Vec<Range> {
        core::mem::take(&mut *self.called.lock().unwrap())
    }
}

impl IntervalNotifier for Recorder {
    fn invalidate(
        &self,
        subscription: &IntervalSubscription,
        _invalidation: &Invalidation,
    ) -> Result<(), WouldBlock> {
        self.called.lock().unwrap().push(subscription.range());
        Ok(())
    }
}

fn at(start: u64, end: u64) -> Range {
    Range::new(start, end).unwrap()
}

#[test]
fn an_empty_interval_is_an_error_and_one_that_overflows_cannot_be_made() {
    let space = new_space();
    let recorder = Arc::new(Recorder::default());
    for start in [0, 0x1000, u64::MAX] {
        let empty = Range::with_length(start, 0).unwrap();
        let inserted = space.insert_interval_locked(empty, recorder.clone());
        assert_eq!(inserted.err(), Some(InsertError::EmptyRange));
    }
    assert!(Range::with_length(!0xfff, 0x1001).is_err());
    assert!(Range::new(0x2000, 0x1000).is_err());
    // The last page and everything are no errors.
    for range in [Range::with_length(!0xfff, 0x1000).unwrap(), Range::ALL] {
        let interval = space
            .insert_interval_locked(range, recorder.clone())
            .unwrap();
        space
            .start_invalidation(Invalidation::new(at(u64::MAX - 1, u64::MAX), Event::Unmap))
            .end();
        assert_eq!(recorder.take(), [range]);
        space.remove_interval(&interval).unwrap();
    }
}

#[test]
fn inserting_after_exit_is_an_error() {
    let recorder = Arc::new(Recorder::default());
    // With and without an interval before.
    for used in [false, true] {
        let space = new_space();
        let interval = used.then(|| {
            space
                .insert_interval_locked(RANGE, recorder.clone())
                .unwrap()
        });
        space.release();
        assert_eq!(recorder.take().len(), usize::from(used));
        let inserted = space.insert_interval_locked(RANGE, recorder.clone());
        assert_eq!(inserted.err(), Some(InsertError::Released));
        space.start_invalidation(UNMAP).end();
        assert_eq!(recorder.take(), []);
        // The removal is still owed, once.
        if let Some(interval) = interval {
            space.remove_interval(&interval).unwrap();
            assert_eq!(
                space.remove_interval(&interval),
                Err(RemoveError::NotInserted)
            );
        }
    }
    assert_eq!(Arc::strong_count(&recorder), 1);
}

#[test]
fn removing_twice_or_from_another_address_space_is_an_error() {
    let recorder = Arc::new(Recorder::default());
    let (space, other) = (new_space(), new_space());
    let interval = space
        .insert_interval_locked(RANGE, recorder.clone())
        .unwrap();
    assert_eq!(
        other.remove_interval(&interval),
        Err(RemoveError::NotInserted)
    );
    let elsewhere = other
        .insert_interval_locked(RANGE, recorder.clone())
        .unwrap();
    assert_eq!(
        other.remove_interval(&interval),
        Err(RemoveError::NotInserted)
    );
    space.remove_interval(&interval).unwrap();
    assert_eq!(
        space.remove_interval(&interval),
        Err(RemoveError::NotInserted)
    );
    drop(interval);
    other.remove_interval(&elsewhere).unwrap();
    drop(elsewhere);
    space.barrier().unwrap();
    other.barrier().unwrap();
    assert_eq!(Arc::strong_count(&recorder), 1);
}

/// The test's threads.
struct Threads;

impl Context for Threads {
    fn current(&self) -> core::num::NonZeroUsize {
        thread_local!(static HERE: u8 = const { 0 });
        HERE.with(|here| core::ptr::from_ref(here).addr().try_into().unwrap())
    }
}

type CheckedSpace = AddressSpace<Checked<Fenced, Threads>>;

/// Inserts another from inside its callback, and tries to remove itself.
struct Meddler {
    space: OnceLock<Weak<CheckedSpace>>,
    successor: Arc<Recorder>,
    inserted: Mutex<Vec<Arc<IntervalSubscription>>>,
    me: OnceLock<Arc<IntervalSubscription>>,
    refusals: AtomicUsize,
}

impl IntervalNotifier for Meddler {
    fn invalidate(
        &self,
        _subscription: &IntervalSubscription,
        _invalidation: &Invalidation,
    ) -> Result<(), WouldBlock> {
        let space = self.space.get().unwrap().upgrade().unwrap();
        let inserted = space.insert_interval_locked(RANGE, self.successor.clone());
        self.inserted.lock().unwrap().push(inserted.unwrap());
        let removed = space.remove_interval(self.me.get().unwrap());
        assert_eq!(removed, Err(RemoveError::Wait(WaitError::InsideSection)));
        self.refusals.fetch_add(1, SeqCst);
        Ok(())
    }
}

#[test]
fn callbacks_may_insert_and_removing_there_is_a_detected_error() {
    let mode = Checked::new(Fenced::new(), Threads);
    let srcu = Arc::new(Srcu::with_mode(mode, thread::yield_now));
    let space = Arc::new(CheckedSpace::new(srcu));
    let meddler = Arc::new(Meddler {
        space: OnceLock::new(),
        successor: Arc::default(),
        inserted: Mutex::default(),
        me: OnceLock::new(),
        refusals: AtomicUsize::new(0),
    });
    meddler.space.set(Arc::downgrade(&space)).unwrap();
    let me = space
        .insert_interval_locked(RANGE, meddler.clone())
        .unwrap();
    assert!(meddler.me.set(me.clone()).is_ok());
    space.start_invalidation(UNMAP).end();
    assert_eq!(meddler.refusals.load(SeqCst), 1);
    // What was inserted inside the callback is there.
    space.start_invalidation(UNMAP).end();
    assert_eq!(meddler.successor.take(), [RANGE]);
    // The refused removals have changed nothing; outside, it works.
    space.remove_interval(&me).unwrap();
    for interval in core::mem::take(&mut *meddler.inserted.lock().unwrap()) {
        space.remove_interval(&interval).unwrap();
    }
    space.start_invalidation(UNMAP).end();
    assert_eq!(meddler.successor.take(), []);
}

#[test]
fn queries_find_the_last_interval_of_any_number() {
    for count in [1, 24, 25, 26, 63, 64, 100] {
        let space = new_space();
        let recorder = Arc::new(Recorder::default());
        let ranges: Vec<_> = (0..count)
            .map(|place| at(place * 100, place * 100 + 10))
            .collect();
        for range in &ranges {
            space
                .insert_interval_locked(*range, recorder.clone())
                .unwrap();
        }
        for range in &ranges {
            space
                .start_invalidation(Invalidation::new(*range, Event::Unmap))
                .end();
            assert_eq!(recorder.take(), [*range]);
        }
        space
            .start_invalidation(Invalidation::new(Range::ALL, Event::Unmap))
            .end();
        assert_eq!(recorder.take(), ranges);
    }
}

proptest! {
    #[test]
    fn queries_find_what_a_plain_search_finds(
        intervals in prop::collection::vec((0..1_000_u64, 1..200_u64), 0..90),
        asked in prop::collection::vec((0..1_000_u64, 0..100_u64), 1..20),
        gone in any::<prop::sample::Index>(),
    ) {
        let space = new_space();
        let recorder = Arc::new(Recorder::default());
        let mut inserted: Vec<_> = intervals
            .iter()
            .map(|(start, length)| {
                let range = Range::with_length(*start, *length).unwrap();
                space.insert_interval_locked(range, recorder.clone()).unwrap()
            })
            .collect();
        if !inserted.is_empty() {
            let gone = inserted.swap_remove(gone.index(inserted.len()));
            space.remove_interval(&gone).unwrap();
        }
        for (start, length) in asked {
            let range = Range::with_length(start, length).unwrap();
            space.start_invalidation(Invalidation::new(range, Event::Clear)).end();
            let hits = inserted.iter().map(|one| one.range()).filter(|one| one.overlaps(range));
            let mut expected: Vec<_> = hits.map(|one| (one.start(), one.end())).collect();
            expected.sort_unstable();
            let called = recorder.take();
            // In the order of the starts.
            prop_assert!(called.is_sorted_by_key(|one| one.start()));
            let mut called: Vec<_> = called.iter().map(|one| (one.start(), one.end())).collect();
            called.sort_unstable();
            prop_assert_eq!(called, expected);
        }
    }
}

const PAGE: u64 = 0x1000;
const PAGES: usize = 8;

fn page(number: usize) -> Range {
    Range::with_length(number as u64 * PAGE, PAGE).unwrap()
}

/// A page table whose entries are numbers of frames that are used once, and freed for good.
struct Pages {
    entries: [Mutex<u64>; PAGES],
    next: AtomicU64,
    /// By the number of the frame.
    freed: Vec<AtomicBool>,
}

impl Pages {
    fn new(frames: usize) -> Pages {
        Pages {
            entries: core::array::from_fn(|_| Mutex::new(0)),
            next: AtomicU64::new(1),
            freed: (0..frames).map(|_| AtomicBool::new(false)).collect(),
        }
    }

    /// Puts a new frame in the place of the old one, and frees that.
    fn replace(&self, number: usize) -> bool {
        let next = self.next.fetch_add(1, SeqCst);
        if next as usize >= self.freed.len() {
            return false;
        }
        let old = core::mem::replace(&mut *self.entries[number].lock().unwrap(), next);
        // Frame 0 is the zero page, which is never freed.
        self.freed[old as usize].store(old != 0, SeqCst);
        true
    }
}

/// A copy of one page's entry, under its user lock.
struct Copy {
    pages: Arc<Pages>,
    number: usize,
    copy: Mutex<Option<u64>>,
    stale: AtomicUsize,
    over: AtomicBool,
}

impl Copy {
    /// Looks the page up and uses the copy, as a driver does. Says whether it got that far.
    fn fault(&self, subscription: &IntervalSubscription) -> bool {
        let begun = subscription.read_begin();
        let frame = *self.pages.entries[self.number].lock().unwrap();
        thread::yield_now();
        let mut copy = self.copy.lock().unwrap();
        if subscription.read_retry(begun) {
            return false;
        }
        *copy = Some(frame);
        drop(copy);
        self.use_copy();
        true
    }

    /// The device uses the copy: under the user lock, as the lock stands for its being stopped.
    fn use_copy(&self) {
        let copy = self.copy.lock().unwrap();
        thread::yield_now();
        if let Some(frame) = *copy
            && self.pages.freed[frame as usize].load(SeqCst)
        {
            self.stale.fetch_add(1, SeqCst);
        }
    }
}

impl IntervalNotifier for Copy {
    fn invalidate(
        &self,
        _subscription: &IntervalSubscription,
        invalidation: &Invalidation,
    ) -> Result<(), WouldBlock> {
        let copy = if invalidation.is_blockable() {
            self.copy.lock().ok()
        } else {
            self.copy.try_lock().ok()
        };
        *copy.ok_or(WouldBlock)? = None;
        if self.over.load(SeqCst) {
            self.stale.fetch_add(1, SeqCst);
        }
        Ok(())
    }
}

/// A small generator of pseudo-random numbers, so that a seed names a run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

fn subscribe(
    space: &AddressSpace,
    pages: &Arc<Pages>,
    number: usize,
) -> (Arc<Copy>, Arc<IntervalSubscription>) {
    let copy = Arc::new(Copy {
        pages: pages.clone(),
        number,
        copy: Mutex::default(),
        stale: AtomicUsize::new(0),
        over: AtomicBool::new(false),
    });
    let lock = MemoryMapLock::default();
    let interval = space.insert_interval(&lock, page(number), copy.clone());
    (copy, interval.unwrap())
}

/// Changes pages, looks them up and changes subscriptions, each on threads of its own.
fn stress(seed: u64, changes: usize) {
    let space = new_space();
    let pages = Arc::new(Pages::new(changes));
    let done = AtomicBool::new(false);
    let used = AtomicUsize::new(0);
    let permanent: Vec<_> = (0..PAGES)
        .map(|number| subscribe(&space, &pages, number))
        .collect();
    thread::scope(|scope| {
        for thread in 0..2 {
            let mut random = Random(seed * 31 + thread + 1);
            let (space, pages, done, used) = (&space, &pages, &done, &used);
            scope.spawn(move || {
                while used.load(SeqCst) == 0 {
                    thread::yield_now();
                }
                loop {
                    let number = random.below(PAGES as u64) as usize;
                    let invalidation = Invalidation::new(page(number), Event::Clear);
                    let open = match random.below(3) {
                        0 => space.try_start_invalidation(invalidation).ok(),
                        _ => Some(space.start_invalidation(invalidation)),
                    };
                    // Refused: the page table stays as it is.
                    if open.is_some() && !pages.replace(number) {
                        break;
                    }
                    if random.below(4) == 0 {
                        thread::yield_now();
                    }
                }
                done.store(true, SeqCst);
            });
        }
        for thread in 0..2 {
            let mut random = Random(seed * 37 + thread + 1);
            let (permanent, done, used) = (&permanent, &done, &used);
            scope.spawn(move || {
                while !done.load(SeqCst) {
                    let (copy, interval) = &permanent[random.below(PAGES as u64) as usize];
                    used.fetch_add(usize::from(copy.fault(interval)), SeqCst);
                    copy.use_copy();
                }
            });
        }
        let mut random = Random(seed + 1);
        while !done.load(SeqCst) {
            let number = random.below(PAGES as u64) as usize;
            let (copy, interval) = subscribe(&space, &pages, number);
            for _ in 0..random.below(3) {
                used.fetch_add(usize::from(copy.fault(&interval)), SeqCst);
                copy.use_copy();
            }
            assert_eq!(
                copy.stale.load(SeqCst),
                0,
                "seed {seed}: a new one used what was freed"
            );
            space.remove_interval(&interval).unwrap();
            copy.over.store(true, SeqCst);
            thread::yield_now();
            assert_eq!(
                copy.stale.load(SeqCst),
                0,
                "seed {seed}: called after removal"
            );
        }
    });
    for (copy, interval) in &permanent {
        assert_eq!(
            copy.stale.load(SeqCst),
            0,
            "seed {seed}: a freed page was used"
        );
        space.remove_interval(interval).unwrap();
    }
}

#[test]
fn stress_no_copy_outlives_its_page() {
    for seed in 1..=20 {
        stress(seed, 400);
    }
}

/// Makes a copy as soon as it is subscribed, while invalidations of its page go on.
#[test]
fn an_invalidation_during_insertion_is_not_forgotten() {
    let space = new_space();
    let pages = Arc::new(Pages::new(200_000));
    // The first insertion needs the address-space lock; later ones do not.
    let (_, first) = subscribe(&space, &pages, 0);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let (space, pages, stop) = (&space, &pages, &stop);
        let _stop = common::StopOnDrop(stop);
        scope.spawn(move || {
            while !stop.load(SeqCst) {
                let open = space.start_invalidation(Invalidation::new(page(0), Event::Clear));
                if !pages.replace(0) {
                    return;
                }
                open.end();
            }
        });
        for _ in 0..1_000 {
            let (copy, interval) = subscribe(space, pages, 0);
            copy.fault(&interval);
            copy.use_copy();
            space.remove_interval(&interval).unwrap();
            assert_eq!(copy.stale.load(SeqCst), 0, "a freed page was used");
        }
    });
    space.remove_interval(&first).unwrap();
}

#[test]
fn b03_removal_while_an_invalidation_ends_neither_hangs_nor_is_lost() {
    let space = new_space();
    let recorder = Arc::new(Recorder::default());
    let witness = space
        .insert_interval_locked(RANGE, recorder.clone())
        .unwrap();
    for _ in 0..500 {
        let interval = space
            .insert_interval_locked(RANGE, recorder.clone())
            .unwrap();
        let open = space.start_invalidation(UNMAP);
        thread::scope(|scope| {
            scope.spawn(|| open.end());
            space.remove_interval(&interval).unwrap();
        });
        recorder.take();
        space.start_invalidation(UNMAP).end();
        assert_eq!(recorder.take().len(), 1, "called after removal");
    }
    space.remove_interval(&witness).unwrap();
}
