//! Operations against each other, on real threads.
#![cfg(not(loom))]

extern crate alloc;

mod common;

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicIsize, AtomicUsize, Ordering::SeqCst};
use std::sync::{Barrier, RwLock, RwLockWriteGuard};
use std::thread;

use common::{RANGE, new_space, new_srcu};
use core_notifier::{AddressSpace, AddressSpaceLock, Notifier, Published, Range, RegisterError};

/// Notices being called after it was told that no more calls come.
#[derive(Default)]
struct Witness {
    calls: AtomicUsize,
    releases: AtomicUsize,
    over: AtomicBool,
    late: AtomicUsize,
}

impl Witness {
    /// From now on every call is a mistake, also one that is under way.
    fn expect_silence(&self) {
        self.over.store(true, SeqCst);
    }

    fn called(&self) {
        // Long enough for others to get to the end of what they should not get to the end of.
        for _ in 0..3 {
            thread::yield_now();
            if self.over.load(SeqCst) {
                self.late.fetch_add(1, SeqCst);
            }
        }
    }

    fn assert_silence(&self) {
        assert_eq!(self.late.load(SeqCst), 0, "called after the end");
    }
}

impl Notifier for Witness {
    fn release(&self) {
        self.called();
        self.releases.fetch_add(1, SeqCst);
    }

    fn invalidate_range(&self, _range: Range) {
        self.calls.fetch_add(1, SeqCst);
        self.called();
    }
}

/// Stops the threads of a scope also if the test fails, which would wait for them for ever.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

/// Runs the two at the same time.
fn race(first: impl FnOnce() + Send, second: impl FnOnce()) {
    let start = Barrier::new(2);
    thread::scope(|scope| {
        scope.spawn(|| {
            start.wait();
            first();
        });
        start.wait();
        second();
    });
}

#[test]
fn n1_notification_against_unregister() {
    let space = new_space();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(SeqCst) {
                    space.invalidate_range(RANGE);
                }
            });
        }
        for _ in 0..2_000 {
            let witness = Arc::new(Witness::default());
            let notifier: Arc<dyn Notifier> = witness.clone();
            space.register_locked(notifier.clone()).unwrap();
            while witness.calls.load(SeqCst) < 2 {
                thread::yield_now();
            }
            space.unregister(&notifier).unwrap();
            witness.expect_silence();
            thread::yield_now();
            witness.assert_silence();
            assert_eq!(witness.releases.load(SeqCst), 1);
        }
    });
}

#[test]
fn n2_n3_n5_release_against_unregister() {
    let mut both = 0;
    for _ in 0..5_000 {
        let space = new_space();
        let witness = Arc::new(Witness::default());
        let notifier: Arc<dyn Notifier> = witness.clone();
        space.register_locked(notifier.clone()).unwrap();
        // Whoever returns first, `release` has been called and is not running any more.
        let returned = || {
            witness.expect_silence();
            assert_ne!(witness.releases.load(SeqCst), 0, "returned before release");
        };
        race(
            || {
                space.release();
                returned();
            },
            || {
                space.unregister(&notifier).unwrap();
                returned();
            },
        );
        witness.assert_silence();
        both += usize::from(witness.releases.load(SeqCst) == 2);
    }
    println!("both called release in {both} of 5000 races");
}

#[test]
fn n4_release_against_notification() {
    for _ in 0..500 {
        let space = new_space();
        let witness = Arc::new(Witness::default());
        space.register_locked(witness.clone()).unwrap();
        let stop = AtomicBool::new(false);
        race(
            || {
                while !stop.load(SeqCst) {
                    space.invalidate_range(RANGE);
                }
            },
            || {
                let _stop = StopOnDrop(&stop);
                while witness.calls.load(SeqCst) < 2 {
                    thread::yield_now();
                }
                space.release();
                witness.expect_silence();
                thread::yield_now();
            },
        );
        witness.assert_silence();
    }
}

#[test]
fn two_unregister_the_same() {
    for _ in 0..2_000 {
        let space = new_space();
        let witness = Arc::new(Witness::default());
        let notifier: Arc<dyn Notifier> = witness.clone();
        space.register_locked(notifier.clone()).unwrap();
        let won = AtomicUsize::new(0);
        let unregister = || {
            if space.unregister(&notifier).is_ok() {
                won.fetch_add(1, SeqCst);
            }
        };
        race(unregister, unregister);
        assert_eq!(won.load(SeqCst), 1);
        assert_eq!(witness.releases.load(SeqCst), 1);
    }
}

#[test]
fn register_against_release_is_refused_or_released() {
    for _ in 0..3_000 {
        let space = new_space();
        space.register_locked(Arc::new(Witness::default())).unwrap();
        let witness = Arc::new(Witness::default());
        race(
            || space.release(),
            || match space.register_locked(witness.clone()) {
                Ok(()) | Err(RegisterError::Released) => {}
                Err(error) => panic!("{error}"),
            },
        );
        // Either it was let in and has been told of the exit, or it was not let in.
        let was_let_in = space
            .unregister(&(witness.clone() as Arc<dyn Notifier>))
            .is_ok();
        assert_eq!(witness.releases.load(SeqCst), usize::from(was_let_in));
    }
}

/// Taken for reading around each start and end.
#[derive(Default)]
struct InvalidationLock(RwLock<()>);

impl AddressSpaceLock for InvalidationLock {
    type Guard<'a> = RwLockWriteGuard<'a, ()>;

    fn lock(&self) -> RwLockWriteGuard<'_, ()> {
        self.0.write().unwrap()
    }
}

/// Counts the open starts.
#[derive(Default)]
struct Balance {
    open: AtomicIsize,
    ends: AtomicUsize,
    negative: AtomicBool,
}

impl Notifier for Balance {
    fn invalidate_range_start(&self, _range: Range) {
        self.open.fetch_add(1, SeqCst);
    }

    fn invalidate_range_end(&self, _range: Range) {
        if self.open.fetch_sub(1, SeqCst) < 1 {
            self.negative.store(true, SeqCst);
        }
        self.ends.fetch_add(1, SeqCst);
    }
}

#[test]
fn n6_n8_notification_against_register() {
    let space = new_space();
    let lock = InvalidationLock::default();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(SeqCst) {
                    let _in_flight = lock.0.read().unwrap();
                    space.invalidate_range_start(RANGE);
                    thread::yield_now();
                    space.invalidate_range_start(Range::ALL);
                    space.invalidate_range_end(Range::ALL);
                    space.invalidate_range_end(RANGE);
                }
            });
        }
        for _ in 0..500 {
            let balance = Arc::new(Balance::default());
            let notifier: Arc<dyn Notifier> = balance.clone();
            space.register(&lock, notifier.clone()).unwrap();
            while balance.ends.load(SeqCst) < 4 {
                thread::yield_now();
            }
            // Outside of every start and end: nothing is open.
            let nothing_in_flight = lock.lock();
            assert_eq!(balance.open.load(SeqCst), 0, "a start without its end");
            drop(nothing_in_flight);
            space.unregister(&notifier).unwrap();
            assert!(!balance.negative.load(SeqCst), "an end without its start");
        }
    });
}

#[test]
fn many_register_and_unregister_and_nobody_is_lost() {
    let space = new_space();
    let permanent = Arc::new(Witness::default());
    space.register_locked(permanent.clone()).unwrap();
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for round in 0..300 {
                    let witness = Arc::new(Witness::default());
                    let notifier: Arc<dyn Notifier> = witness.clone();
                    space.register_locked(notifier.clone()).unwrap();
                    space.invalidate_range(RANGE);
                    assert_ne!(witness.calls.load(SeqCst), 0, "registered and not called");
                    if round % 3 == 0 {
                        space.unregister_no_release(&notifier).unwrap();
                    } else {
                        space.unregister(&notifier).unwrap();
                    }
                }
            });
        }
    });
    let calls = permanent.calls.load(SeqCst);
    space.invalidate_range(RANGE);
    assert_eq!(permanent.calls.load(SeqCst), calls + 1);
    space.barrier().unwrap();
    space.release();
    assert_eq!(Arc::strong_count(&permanent), 1);
}

/// A value that says whether it has been taken back.
#[derive(Default)]
struct Marked(AtomicBool);

#[test]
fn concurrent_synchronize_each_waits_for_its_own_readers() {
    let srcu = Arc::new(new_srcu());
    let slots: Vec<_> = (0..3).map(|_| Published::new(srcu.clone())).collect();
    let readers_seen = AtomicUsize::new(0);
    let updaters = AtomicUsize::new(slots.len());
    thread::scope(|scope| {
        for slot in &slots {
            let (updaters, readers_seen) = (&updaters, &readers_seen);
            slot.replace(Some(Box::new(Marked::default())));
            scope.spawn(move || {
                // Kept, so that a reader that was not waited for reads a mark and not freed memory.
                let mut graveyard = Vec::new();
                while readers_seen.load(SeqCst) == 0 {
                    thread::yield_now();
                }
                for _ in 0..2_000 {
                    if let Some(retired) = slot.replace(Some(Box::new(Marked::default()))) {
                        let value = retired.reclaim().unwrap_or_else(|_| panic!("refused"));
                        value.0.store(true, SeqCst);
                        graveyard.push(value);
                    }
                }
                updaters.fetch_sub(1, SeqCst);
                while updaters.load(SeqCst) != 0 {
                    thread::yield_now();
                }
            });
        }
        for _ in 0..2 {
            scope.spawn(|| {
                while updaters.load(SeqCst) != 0 {
                    for value in slots.iter().filter_map(Published::read) {
                        for _ in 0..3 {
                            thread::yield_now();
                            assert!(!value.0.load(SeqCst), "taken back under a reader");
                        }
                        readers_seen.fetch_add(1, SeqCst);
                    }
                }
            });
        }
    });
}

#[test]
fn a_grace_period_waits_for_sections_on_the_shared_slot() {
    let srcu = new_srcu();
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        // More than own a slot; what stays open when the first half is gone is on the shared one.
        let mut sections: Vec<_> = (0..64).map(|_| srcu.read()).collect();
        sections.drain(..32);
        scope.spawn(|| {
            srcu.synchronize().unwrap();
            ended.store(true, SeqCst);
        });
        for _ in 0..1_000 {
            thread::yield_now();
        }
        assert!(!ended.load(SeqCst), "did not wait");
        drop(sections);
    });
    assert!(ended.load(SeqCst));
}

#[test]
fn a_stream_of_readers_does_not_hold_up_a_grace_period() {
    let srcu = new_srcu();
    let done = AtomicBool::new(false);
    let started = AtomicBool::new(false);
    let gave_up = AtomicBool::new(false);
    thread::scope(|scope| {
        let _stop = StopOnDrop(&done);
        scope.spawn(|| {
            // At every moment at least one section is open.
            let mut section = srcu.read();
            for round in 0..10_000_000_usize {
                let next = srcu.read();
                section = next;
                started.store(true, SeqCst);
                if done.load(SeqCst) {
                    return;
                }
                if round % 64 == 0 {
                    thread::yield_now();
                }
            }
            gave_up.store(true, SeqCst);
            drop(section);
        });
        while !started.load(SeqCst) {
            thread::yield_now();
        }
        for _ in 0..20 {
            srcu.synchronize().unwrap();
        }
    });
    assert!(
        !gave_up.load(SeqCst),
        "the grace periods ended only when the readers stopped"
    );
}

#[test]
fn barrier_against_call() {
    let srcu = new_srcu();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        scope.spawn(|| {
            while !stop.load(SeqCst) {
                if srcu.run_callbacks() == 0 {
                    thread::yield_now();
                }
            }
        });
        let callers = [(); 2].map(|()| {
            scope.spawn(|| {
                for round in 0..1_000 {
                    let returned = Arc::new(AtomicUsize::new(0));
                    let calls = round % 4 + 1;
                    for _ in 0..calls {
                        let returned = returned.clone();
                        srcu.call(move || {
                            thread::yield_now();
                            returned.fetch_add(1, SeqCst);
                        });
                    }
                    srcu.barrier().unwrap();
                    assert_eq!(
                        returned.load(SeqCst),
                        calls,
                        "the barrier overtook a callback"
                    );
                }
            })
        });
        callers
            .into_iter()
            .for_each(|caller| caller.join().unwrap());
    });
}

#[test]
fn callbacks_wait_for_the_sections_before_them() {
    let space = new_space();
    let witness = Arc::new(Witness::default());
    let notifier: Arc<dyn Notifier> = witness.clone();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        scope.spawn(|| {
            while !stop.load(SeqCst) {
                space.invalidate_range(RANGE);
            }
        });
        for _ in 0..1_000 {
            witness.over.store(false, SeqCst);
            let calls = witness.calls.load(SeqCst);
            space.register_locked(notifier.clone()).unwrap();
            while witness.calls.load(SeqCst) == calls {
                thread::yield_now();
            }
            space.unregister_no_release(&notifier).unwrap();
            let freed = witness.clone();
            space.call(move || freed.expect_silence());
            space.barrier().unwrap();
            thread::yield_now();
            witness.assert_silence();
        }
    });
}

#[test]
fn shared_types_are_send_and_sync() {
    fn check<T: Send + Sync>() {}
    check::<AddressSpace>();
    check::<core_notifier::Srcu>();
    check::<Published<u8>>();
    check::<core_notifier::Retired<u8>>();
}
