//! From registration to exit: N1 to N6, N16 to N18, N27.

use alloc::sync::{Arc, Weak};
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Barrier, OnceLock, RwLock, RwLockWriteGuard};
use std::thread;

use core_notifier::{
    AddressSpace, AddressSpaceLock, GetError, Notifier, NotifierKind, Range, RegisterError,
    UnregisterError,
};

use crate::common::{MemoryMapLock, RANGE, StopOnDrop, new_space};
use crate::intervals::Mirror;
use crate::sections::UNMAP;
use crate::support::{Seen, Shadow, Tlb, Trace};

/// Notices calls after the end, and calls that last beyond it.
#[derive(Default)]
struct Witness {
    calls: AtomicUsize,
    releases: AtomicUsize,
    over: AtomicBool,
    late: AtomicUsize,
}

impl Witness {
    fn called(&self) {
        for _ in 0..3 {
            thread::yield_now();
            if self.over.load(SeqCst) {
                self.late.fetch_add(1, SeqCst);
            }
        }
    }

    fn assert_silence(&self) {
        self.over.store(true, SeqCst);
        thread::yield_now();
        assert_eq!(self.late.load(SeqCst), 0, "called after the end");
    }
}

impl Notifier for Witness {
    fn kind(&self) -> NotifierKind {
        NotifierKind::SecondaryTlb
    }

    fn release(&self) {
        self.called();
        self.releases.fetch_add(1, SeqCst);
    }

    fn invalidate_range(&self, _range: Range) {
        self.calls.fetch_add(1, SeqCst);
        self.called();
    }
}

/// Notifies on one thread until `work` on another is done.
fn while_notified(space: &AddressSpace, work: impl FnOnce()) {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        scope.spawn(|| {
            while !stop.load(SeqCst) {
                space.invalidate_range(RANGE);
                space.batch(|batch| batch.add(RANGE));
            }
        });
        work();
    });
}

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

fn registered(space: &AddressSpace) -> (Arc<Witness>, Arc<dyn Notifier>) {
    let witness = Arc::new(Witness::default());
    space.register_locked(witness.clone()).unwrap();
    (witness.clone(), witness)
}

#[test]
fn n01_after_unregister_no_callback_runs_or_will_run() {
    let space = new_space();
    while_notified(&space, || {
        for _ in 0..500 {
            let (witness, notifier) = registered(&space);
            while witness.calls.load(SeqCst) == 0 {
                thread::yield_now();
            }
            space.unregister(&notifier).unwrap();
            witness.assert_silence();
        }
    });
}

/// Exit and unregistration at the same time; what holds when either returns.
fn exit_against_unregister(rounds: usize) {
    for _ in 0..rounds {
        let space = new_space();
        let (witness, notifier) = registered(&space);
        let returned = || {
            assert_ne!(witness.releases.load(SeqCst), 0, "returned before release");
            witness.over.store(true, SeqCst);
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
        assert!((1..=2).contains(&witness.releases.load(SeqCst)));
    }
}

#[test]
fn n02_release_has_returned_before_pages_are_freed_whoever_wins() {
    exit_against_unregister(1_000);
    let space = new_space();
    let (exited, _) = registered(&space);
    let (unregistered, notifier) = registered(&space);
    space.unregister(&notifier).unwrap();
    space.release();
    for witness in [exited, unregistered] {
        assert_eq!(witness.releases.load(SeqCst), 1);
    }
}

#[test]
fn n03_exit_and_unregister_wait_for_both_calls_of_release() {
    exit_against_unregister(1_000);
}

#[test]
fn n04_after_exit_nothing_is_called() {
    for _ in 0..100 {
        let space = new_space();
        let (witness, _) = registered(&space);
        let mirror = Mirror::create();
        let interval = mirror.insert(&space, RANGE);
        while_notified(&space, || {
            while witness.calls.load(SeqCst) == 0 {
                thread::yield_now();
            }
            space.release();
            let interval_calls = mirror.calls.load(SeqCst);
            witness.assert_silence();
            space.start_invalidation(UNMAP).end();
            assert_eq!(mirror.calls.load(SeqCst), interval_calls);
        });
        space.remove_interval(&interval).unwrap();
    }
}

#[test]
fn n05_unregister_after_exit_calls_nothing_and_waits_for_it() {
    let space = new_space();
    let (witness, notifier) = registered(&space);
    space.release();
    space.unregister(&notifier).unwrap();
    assert_eq!(witness.releases.load(SeqCst), 1);
    assert_eq!(
        space.unregister(&notifier),
        Err(UnregisterError::NotRegistered)
    );
    // At the same time: it does not return while exit's call is running.
    exit_against_unregister(500);
}

/// Held for reading by who is between a start and its end.
#[derive(Default)]
struct InvalidationLock(RwLock<()>);

impl AddressSpaceLock for InvalidationLock {
    type Guard<'a> = RwLockWriteGuard<'a, ()>;

    fn lock(&self) -> RwLockWriteGuard<'_, ()> {
        self.0.write().unwrap()
    }
}

#[test]
fn n06_register_overlaps_no_open_invalidation() {
    let space = new_space();
    let lock = InvalidationLock::default();
    let trace = Trace::default();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        scope.spawn(|| {
            while !stop.load(SeqCst) {
                let _in_flight = lock.0.read().unwrap();
                let open = space.start_invalidation(UNMAP);
                thread::yield_now();
                open.end();
            }
        });
        // The first interval takes the lock as well: no start is open that was not counted.
        let mirror = Mirror::create();
        let interval = space.insert_interval(&lock, RANGE, mirror.clone()).unwrap();
        for _ in 0..100 {
            let shadow: Arc<dyn Notifier> = Shadow::create('a', &trace);
            space.register(&lock, shadow.clone()).unwrap();
            (0..3).for_each(|_| thread::yield_now());
            let nothing_in_flight = lock.lock();
            space.unregister_no_release(&shadow).unwrap();
            space.synchronize().unwrap();
            drop(nothing_in_flight);
            let seen = trace.take();
            let starts = seen.iter().filter(|entry| entry.1 == Seen::Start).count();
            assert_eq!(seen.len(), 2 * starts, "half an invalidation");
            assert!(seen.first().is_none_or(|entry| entry.1 == Seen::Start));
        }
        space.remove_interval(&interval).unwrap();
    });
}

/// Counts those that exist, and puts itself when it is released.
struct Counted {
    exist: Arc<AtomicUsize>,
    space: Weak<AddressSpace>,
    me: OnceLock<Weak<Counted>>,
    calls: AtomicUsize,
}

impl Counted {
    fn create(exist: &Arc<AtomicUsize>, space: Weak<AddressSpace>) -> Arc<Counted> {
        exist.fetch_add(1, SeqCst);
        let counted = Arc::new(Counted {
            exist: exist.clone(),
            space,
            me: OnceLock::new(),
            calls: AtomicUsize::new(0),
        });
        counted.me.set(Arc::downgrade(&counted)).unwrap();
        counted
    }
}

impl Notifier for Counted {
    fn invalidate_range(&self, _range: Range) {
        self.calls.fetch_add(1, SeqCst);
    }

    fn release(&self) {
        if let (Some(space), Some(me)) = (self.space.upgrade(), self.me.get().unwrap().upgrade()) {
            space.put(&me).unwrap();
            drop(me);
            assert_eq!(self.exist.load(SeqCst), 1, "freed while it is being called");
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.exist.fetch_sub(1, SeqCst);
    }
}

#[test]
fn n16_put_inside_release_is_legal_and_frees_after_a_grace_period() {
    let exist = Arc::new(AtomicUsize::new(0));
    let space = Arc::new(new_space());
    let lock = MemoryMapLock::default();
    let got = space.get(&lock, || Counted::create(&exist, Arc::downgrade(&space)));
    drop(got.unwrap());
    assert!(!lock.is_held());
    let section = space.srcu().read();
    thread::scope(|scope| {
        scope.spawn(|| space.release());
        (0..100).for_each(|_| thread::yield_now());
        assert_eq!(exist.load(SeqCst), 1, "freed while a section is open");
        drop(section);
    });
    space.barrier().unwrap();
    assert_eq!(exist.load(SeqCst), 0, "not freed");
}

#[test]
fn n16_the_last_put_does_not_wait_and_frees_after_a_grace_period() {
    let exist = Arc::new(AtomicUsize::new(0));
    let space = new_space();
    let got = space
        .get_locked(|| Counted::create(&exist, Weak::new()))
        .unwrap();
    let section = space.srcu().read();
    space.put(&got).unwrap();
    drop(got);
    assert_eq!(exist.load(SeqCst), 1, "freed while a section is open");
    assert!(!space.has_notifiers());
    drop(section);
    space.barrier().unwrap();
    assert_eq!(exist.load(SeqCst), 0, "not freed");
}

#[test]
fn n17_get_finds_the_same_and_the_last_put_frees_it_once() {
    let exist = Arc::new(AtomicUsize::new(0));
    let space = new_space();
    let make = || Counted::create(&exist, Weak::new());
    let first = space.get_locked(make).unwrap();
    let second = space.get_locked(make).unwrap();
    assert!(Arc::ptr_eq(&first, &second));
    assert_eq!(exist.load(SeqCst), 1);
    // Another type, and another address space, have their own.
    let other = new_space();
    let witness = space.get_locked(|| Arc::new(Witness::default())).unwrap();
    let elsewhere = other.get_locked(make).unwrap();
    assert!(!Arc::ptr_eq(&first, &elsewhere));
    assert_eq!(other.put(&first), Err(UnregisterError::NotRegistered));

    space.put(&first).unwrap();
    space.invalidate_range(RANGE);
    assert_eq!(second.calls.load(SeqCst), 1, "ended by the first put");
    assert_eq!(witness.calls.load(SeqCst), 1);
    space.put(&second).unwrap();
    space.invalidate_range(RANGE);
    assert_eq!(second.calls.load(SeqCst), 1, "called after the last put");
    assert_eq!(space.put(&second), Err(UnregisterError::NotRegistered));
    drop((first, second));
    space.barrier().unwrap();
    assert_eq!(exist.load(SeqCst), 1, "not freed, or freed twice");

    // After the last put there is a new one.
    let again = space.get_locked(make).unwrap();
    assert_eq!(exist.load(SeqCst), 2);
    space.put(&again).unwrap();
    space.put(&witness).unwrap();
    assert_eq!(witness.releases.load(SeqCst), 0, "put calls release");
    other.put(&elsewhere).unwrap();
}

#[test]
fn n17_get_after_exit_is_an_error_and_put_is_still_owed() {
    let exist = Arc::new(AtomicUsize::new(0));
    let space = new_space();
    let got = space
        .get_locked(|| Counted::create(&exist, Weak::new()))
        .unwrap();
    space.release();
    let again = space.get_locked(|| Counted::create(&exist, Weak::new()));
    assert_eq!(
        again.err(),
        Some(GetError::Register(RegisterError::Released))
    );
    assert_eq!(exist.load(SeqCst), 1, "what was made was kept");
    space.put(&got).unwrap();
    drop(got);
    assert_eq!(exist.load(SeqCst), 0);
}

#[test]
fn n18_after_the_barrier_every_deferred_free_has_run() {
    let space = new_space();
    for count in 0..50 {
        let exist = Arc::new(AtomicUsize::new(0));
        for _ in 0..count % 5 {
            let got = space
                .get_locked(|| Counted::create(&exist, Weak::new()))
                .unwrap();
            space.put(&got).unwrap();
        }
        let called = Arc::new(AtomicBool::new(false));
        space.call({
            let called = called.clone();
            move || called.store(true, SeqCst)
        });
        space.barrier().unwrap();
        assert!(called.load(SeqCst));
        assert_eq!(exist.load(SeqCst), 0);
    }
}

#[test]
fn n27_what_subscribers_hold_outlives_the_address_space() {
    let trace = Trace::default();
    let space = new_space();
    let mirror = Mirror::create();
    let interval = mirror.insert(&space, RANGE);
    let tlb = Tlb::create('t', &trace, true);
    space.register_locked(tlb.clone()).unwrap();
    let begun = interval.read_begin();
    drop(space);
    assert_eq!(trace.take(), [('t', Seen::Release)]);
    assert!(!interval.read_retry(begun));
    let begun = interval.read_begin();
    assert!(!interval.check_retry(begun));
    assert!(new_space().remove_interval(&interval).is_err());
    assert_eq!(Arc::strong_count(&tlb), 1);
}
