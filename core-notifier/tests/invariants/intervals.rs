//! Interval notifiers: N19 to N24.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::Mutex;
use std::thread;

use core_notifier::{
    AddressSpace, Event, IntervalNotifier, IntervalSubscription, Invalidation, Progress, Range,
    RemoveError, Token, WouldBlock,
};

use crate::common::{MemoryMapLock, RANGE, StopOnDrop, new_space};
use crate::sections::UNMAP;

/// Away from [`RANGE`].
const ELSEWHERE: Range = match Range::new(0x10_0000, 0x20_0000) {
    Ok(range) => range,
    Err(_) => panic!(),
};

/// A subscriber to intervals that counts and refuses as it is told to.
#[derive(Default)]
pub struct Mirror {
    pub calls: AtomicUsize,
    pub refuses: AtomicBool,
    pub two_passes: bool,
    pub pending: AtomicUsize,
    pub finishes: AtomicUsize,
    over: AtomicBool,
    late: AtomicUsize,
    last: Mutex<Option<Invalidation>>,
}

impl Mirror {
    pub fn create() -> Arc<Mirror> {
        Arc::default()
    }

    pub fn two_passes() -> Arc<Mirror> {
        Arc::new(Mirror {
            two_passes: true,
            ..Mirror::default()
        })
    }

    pub fn insert(
        self: &Arc<Self>,
        space: &AddressSpace,
        range: Range,
    ) -> Arc<IntervalSubscription> {
        let lock = MemoryMapLock::default();
        space.insert_interval(&lock, range, self.clone()).unwrap()
    }

    /// Whether a lookup would have to wait for an invalidation.
    pub fn would_wait(&self, subscription: &IntervalSubscription) -> bool {
        subscription.try_read_begin().is_none()
    }

    pub fn last(&self) -> Invalidation {
        self.last.lock().unwrap().unwrap()
    }
}

impl IntervalNotifier for Mirror {
    fn invalidate(
        &self,
        _subscription: &IntervalSubscription,
        invalidation: &Invalidation,
    ) -> Result<(), WouldBlock> {
        for _ in 0..3 {
            if self.over.load(SeqCst) {
                self.late.fetch_add(1, SeqCst);
            }
            thread::yield_now();
        }
        *self.last.lock().unwrap() = Some(*invalidation);
        self.calls.fetch_add(1, SeqCst);
        match self.refuses.load(SeqCst) {
            true => Err(WouldBlock),
            false => Ok(()),
        }
    }

    fn begin_invalidate(
        &self,
        subscription: &IntervalSubscription,
        invalidation: &Invalidation,
        token: &mut Token,
    ) -> Result<Progress, WouldBlock> {
        self.invalidate(subscription, invalidation)?;
        if !self.two_passes {
            return Ok(Progress::Complete);
        }
        token.words[3] = 0x5555;
        self.pending.fetch_add(1, SeqCst);
        Ok(Progress::Pending)
    }

    fn finish_invalidate(
        &self,
        _subscription: &IntervalSubscription,
        _invalidation: &Invalidation,
        token: &mut Token,
    ) {
        assert_eq!(token.words[3], 0x5555);
        self.finishes.fetch_add(1, SeqCst);
    }
}

#[test]
fn n19_a_lookup_is_retried_if_an_invalidation_started_since() {
    let space = new_space();
    let mirror = Mirror::create();
    let subscription = mirror.insert(&space, RANGE);
    // More rounds than the sequence needs to wrap around.
    for round in 0..100 {
        let begun = subscription.read_begin();
        assert!(!subscription.read_retry(begun) && !subscription.check_retry(begun));
        let open = space.start_invalidation(UNMAP);
        assert!(subscription.read_retry(begun) && subscription.check_retry(begun));
        assert!(
            subscription.try_read_begin().is_none(),
            "does not wait for what is open"
        );
        if round % 2 == 0 {
            // A second one of the same period.
            space.start_invalidation(UNMAP).end();
            assert!(subscription.try_read_begin().is_none());
        }
        open.end();
        assert!(subscription.read_retry(begun), "forgotten at the end");
        let begun = subscription
            .try_read_begin()
            .expect("waits for what has ended");
        assert!(!subscription.read_retry(begun));
    }
    space.remove_interval(&subscription).unwrap();
}

#[test]
fn n19_a_lookup_begins_after_the_invalidation_under_way() {
    let space = new_space();
    let mirror = Mirror::create();
    let subscription = mirror.insert(&space, RANGE);
    for _ in 0..50 {
        let changed = AtomicBool::new(false);
        let open = space.start_invalidation(UNMAP);
        thread::scope(|scope| {
            scope.spawn(|| {
                let begun = subscription.read_begin();
                assert!(
                    changed.load(SeqCst),
                    "looked while translations were changing"
                );
                assert!(!subscription.read_retry(begun));
            });
            (0..10).for_each(|_| thread::yield_now());
            changed.store(true, SeqCst);
            open.end();
        });
    }
    space.remove_interval(&subscription).unwrap();
}

#[test]
fn n20_an_invalidation_elsewhere_forces_no_retry() {
    let space = new_space();
    let mirror = Mirror::create();
    let subscription = mirror.insert(&space, RANGE);
    let other = Mirror::create().insert(&space, ELSEWHERE);
    let begun = subscription.read_begin();
    for _ in 0..100 {
        let open = space.start_invalidation(Invalidation::new(ELSEWHERE, Event::Clear));
        assert!(!subscription.read_retry(begun));
        // Not even while it is open, and its period with it.
        assert!(subscription.try_read_begin().is_some());
        assert!(other.try_read_begin().is_none());
        open.end();
        assert!(!subscription.read_retry(begun));
    }
    assert_eq!(mirror.calls.load(SeqCst), 0);
    // The exception: inserted while one is open, wherever that is. Once.
    let open = space.start_invalidation(Invalidation::new(ELSEWHERE, Event::Clear));
    let late = mirror.insert(&space, RANGE);
    assert!(late.try_read_begin().is_none());
    open.end();
    let begun = late.try_read_begin().expect("still waits");
    space
        .start_invalidation(Invalidation::new(ELSEWHERE, Event::Clear))
        .end();
    assert!(!late.read_retry(begun));
    for subscription in [subscription, other, late] {
        space.remove_interval(&subscription).unwrap();
    }
}

#[test]
fn n21_insertion_during_an_invalidation_neither_waits_nor_is_lost() {
    for period_is_open in [false, true] {
        let space = new_space();
        let mirror = Mirror::create();
        let witness = Mirror::create().insert(&space, ELSEWHERE);
        let range = if period_is_open { Range::ALL } else { RANGE };
        let open = space.start_invalidation(Invalidation::new(range, Event::Unmap));
        // On this very thread: it would never return if it waited.
        let subscription = mirror.insert(&space, RANGE);
        assert!(
            mirror.would_wait(&subscription),
            "what is open counts as met"
        );
        open.end();
        assert!(!mirror.would_wait(&subscription));
        space.start_invalidation(UNMAP).end();
        assert_eq!(mirror.calls.load(SeqCst), 1, "lost");
        for subscription in [witness, subscription] {
            space.remove_interval(&subscription).unwrap();
        }
    }
}

#[test]
fn n21_removal_during_an_invalidation_sleeps_until_it_ends() {
    for _ in 0..20 {
        let space = new_space();
        let subscription = Mirror::create().insert(&space, RANGE);
        let ended = AtomicBool::new(false);
        let open = space.start_invalidation(UNMAP);
        thread::scope(|scope| {
            scope.spawn(|| {
                space.remove_interval(&subscription).unwrap();
                assert!(ended.load(SeqCst), "did not wait for the end");
            });
            (0..20).for_each(|_| thread::yield_now());
            ended.store(true, SeqCst);
            open.end();
        });
    }
}

#[test]
fn n22_after_removal_no_callback_runs_or_will_run() {
    let space = new_space();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(SeqCst) {
                    let _ = space.try_start_invalidation(UNMAP);
                    space.start_invalidation(UNMAP).end();
                }
            });
        }
        for _ in 0..300 {
            let mirror = Mirror::create();
            let subscription = mirror.insert(&space, RANGE);
            while mirror.calls.load(SeqCst) < 2 {
                thread::yield_now();
            }
            space.remove_interval(&subscription).unwrap();
            mirror.over.store(true, SeqCst);
            assert_eq!(
                space.remove_interval(&subscription),
                Err(RemoveError::NotInserted)
            );
            thread::yield_now();
            assert_eq!(mirror.late.load(SeqCst), 0, "called after removal");
        }
    });
}

#[test]
fn n23_insertion_and_removal_before_the_end_cancel_out() {
    let space = new_space();
    let witness = Mirror::create().insert(&space, RANGE);
    let mirror = Mirror::create();
    let open = space.start_invalidation(UNMAP);
    let subscription = mirror.insert(&space, RANGE);
    let removed = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            space.remove_interval(&subscription).unwrap();
            removed.store(true, SeqCst);
        });
        // Generous: what is awaited needs nobody but that thread.
        for _ in 0..1_000_000 {
            if removed.load(SeqCst) {
                break;
            }
            thread::yield_now();
        }
        let waited_for_the_end = !removed.load(SeqCst);
        open.end();
        assert!(!waited_for_the_end, "waits for the end");
    });
    space.start_invalidation(UNMAP).end();
    assert_eq!(mirror.calls.load(SeqCst), 0);
    drop(subscription);
    space.barrier().unwrap();
    assert_eq!(Arc::strong_count(&mirror), 1, "kept by somebody");
    space.remove_interval(&witness).unwrap();
}

#[test]
fn n24_a_reader_from_before_the_wrap_around_does_not_wait_for_ever() {
    let space = new_space();
    let old = Mirror::create().insert(&space, RANGE);
    let busy = Mirror::create().insert(&space, ELSEWHERE);
    let begun = old.read_begin();
    // The sequence starts 16 periods before its wrap-around.
    for _ in 0..64 {
        let open = space.start_invalidation(Invalidation::new(ELSEWHERE, Event::Unmap));
        assert!(busy.try_read_begin().is_none(), "not open");
        assert!(old.try_read_begin().is_some(), "taken for a present one");
        open.end();
        // Idle: nobody waits, whatever it has noted.
        assert!(busy.try_read_begin().is_some());
        assert!(!old.read_retry(begun));
    }
    for subscription in [old, busy] {
        space.remove_interval(&subscription).unwrap();
    }
}
