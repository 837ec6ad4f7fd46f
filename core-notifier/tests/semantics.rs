//! What each operation does, without concurrency.
#![cfg(not(loom))]

extern crate alloc;

mod common;

use alloc::sync::{Arc, Weak};
use core::error::Error;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::OnceLock;

use common::Call::*;
use common::{Log, MemoryMapLock, RANGE, Recorder, drain, new_space};
use core_notifier::{AddressSpace, Notifier, Range, RegisterError, Srcu, UnregisterError};

/// An address space on which `names` are subscribed, the last one first in the list.
fn space_with(names: &str, log: &Log) -> (AddressSpace, Vec<Arc<dyn Notifier>>) {
    let space = new_space();
    let notifiers = names.chars().map(|name| {
        let notifier = Recorder::create(name, log, name.is_uppercase());
        space.register_locked(notifier.clone()).unwrap();
        notifier
    });
    let notifiers = notifiers.collect();
    (space, notifiers)
}

#[test]
fn register_takes_the_lock_around_the_subscription_only() {
    let lock = MemoryMapLock::default();
    let log = Log::default();
    let space = new_space();
    let notifier = Recorder::create('a', &log, false);
    assert!(!space.has_notifiers());
    space.register(&lock, notifier.clone()).unwrap();
    assert!(space.has_notifiers() && !lock.is_held());
    space.invalidate_range(RANGE);
    assert_eq!(drain(&log), [('a', Invalidate(RANGE))]);
}

/// A lock that looks at the subscriptions while it is held.
struct ObservingLock<'a> {
    space: &'a AddressSpace,
    taken: AtomicUsize,
    subscribed_at_unlock: AtomicBool,
}

struct ObservingGuard<'a>(&'a ObservingLock<'a>);

impl core_notifier::AddressSpaceLock for ObservingLock<'_> {
    type Guard<'b>
        = ObservingGuard<'b>
    where
        Self: 'b;

    fn lock(&self) -> ObservingGuard<'_> {
        assert!(
            !self.space.has_notifiers(),
            "subscribed before the lock was taken"
        );
        self.taken.fetch_add(1, Ordering::Relaxed);
        ObservingGuard(self)
    }
}

impl Drop for ObservingGuard<'_> {
    fn drop(&mut self) {
        self.0
            .subscribed_at_unlock
            .store(self.0.space.has_notifiers(), Ordering::Relaxed);
    }
}

#[test]
fn n6_register_subscribes_while_the_lock_is_held() {
    let space = new_space();
    let lock = ObservingLock {
        space: &space,
        taken: AtomicUsize::new(0),
        subscribed_at_unlock: AtomicBool::new(false),
    };
    space
        .register(&lock, Recorder::create('a', &Log::default(), false))
        .unwrap();
    assert_eq!(lock.taken.load(Ordering::Relaxed), 1);
    assert!(lock.subscribed_at_unlock.load(Ordering::Relaxed));
}

#[test]
fn notifications_reach_every_notifier_newest_first() {
    let log = Log::default();
    let (space, _notifiers) = space_with("abc", &log);
    space.invalidate_range_start(RANGE);
    assert_eq!(
        drain(&log),
        [
            ('c', Start(RANGE)),
            ('b', Start(RANGE)),
            ('a', Start(RANGE))
        ]
    );
    space.change_pte(0x1000, 0x55);
    assert_eq!(
        drain(&log),
        ['c', 'b', 'a'].map(|name| (name, ChangePte(0x1000, 0x55)))
    );
}

#[test]
fn invalidate_range_end_runs_invalidate_range_first() {
    let log = Log::default();
    let (space, _notifiers) = space_with("ab", &log);
    space.invalidate_range_end(RANGE);
    let expected = [
        ('b', Invalidate(RANGE)),
        ('a', Invalidate(RANGE)),
        ('b', End(RANGE)),
        ('a', End(RANGE)),
    ];
    assert_eq!(drain(&log), expected);
}

#[test]
fn n28_clear_young_visits_all_and_test_young_stops_at_the_first_yes() {
    let log = Log::default();
    let (space, _notifiers) = space_with("aBc", &log);
    assert!(space.clear_flush_young(RANGE));
    assert_eq!(
        drain(&log),
        ['c', 'B', 'a'].map(|name| (name, ClearFlushYoung(RANGE)))
    );
    assert!(space.clear_young(RANGE));
    assert_eq!(
        drain(&log),
        ['c', 'B', 'a'].map(|name| (name, ClearYoung(RANGE)))
    );
    assert!(space.test_young(0x1000));
    assert_eq!(
        drain(&log),
        ['c', 'B'].map(|name| (name, TestYoung(0x1000)))
    );
}

#[test]
fn young_is_no_if_all_say_no() {
    let log = Log::default();
    let (space, _notifiers) = space_with("ab", &log);
    assert!(!space.clear_flush_young(RANGE));
    assert!(!space.clear_young(RANGE));
    assert!(!space.test_young(0x1000));
    assert_eq!(drain(&log).len(), 6);
}

#[test]
fn n30_empty_ranges_are_ignored_and_all_covering_ones_are_not() {
    let log = Log::default();
    let (space, _notifiers) = space_with("A", &log);
    for address in [0, 0x1000, u64::MAX] {
        let empty = Range::new(address, address).unwrap();
        space.invalidate_range_start(empty);
        space.invalidate_range(empty);
        space.invalidate_range_end(empty);
        assert!(!space.clear_flush_young(empty));
        assert!(!space.clear_young(empty));
    }
    assert_eq!(drain(&log), []);
    space.invalidate_range(Range::ALL);
    assert_eq!(drain(&log), [('A', Invalidate(Range::ALL))]);
}

#[test]
fn nobody_subscribed_is_nothing_to_do() {
    let space = new_space();
    space.invalidate_range_start(RANGE);
    space.invalidate_range(RANGE);
    space.invalidate_range_end(RANGE);
    space.change_pte(0x1000, 0);
    assert!(!space.clear_flush_young(RANGE));
    assert!(!space.clear_young(RANGE));
    assert!(!space.test_young(0x1000));
    space.synchronize().unwrap();
    space.barrier().unwrap();
    space.release();
}

#[test]
fn registering_twice_is_an_error_and_changes_nothing() {
    let log = Log::default();
    let (space, notifiers) = space_with("ab", &log);
    for notifier in &notifiers {
        let again = space.register_locked(notifier.clone());
        assert_eq!(again, Err(RegisterError::AlreadyRegistered));
    }
    let lock = MemoryMapLock::default();
    let again = space.register(&lock, notifiers[0].clone());
    assert_eq!(again, Err(RegisterError::AlreadyRegistered));
    assert!(!lock.is_held());
    space.invalidate_range(RANGE);
    assert_eq!(
        drain(&log),
        [('b', Invalidate(RANGE)), ('a', Invalidate(RANGE))]
    );
    space.unregister(&notifiers[0]).unwrap();
    assert_eq!(drain(&log), [('a', Release)]);
}

#[test]
fn unregister_calls_release_once_and_ends_the_callbacks() {
    let log = Log::default();
    let (space, notifiers) = space_with("abc", &log);
    space.unregister(&notifiers[1]).unwrap();
    assert_eq!(drain(&log), [('b', Release)]);
    space.invalidate_range(RANGE);
    assert_eq!(
        drain(&log),
        [('c', Invalidate(RANGE)), ('a', Invalidate(RANGE))]
    );
    space.unregister(&notifiers[2]).unwrap();
    space.unregister(&notifiers[0]).unwrap();
    assert_eq!(drain(&log), [('c', Release), ('a', Release)]);
    assert!(!space.has_notifiers());
    space.invalidate_range(RANGE);
    assert_eq!(drain(&log), []);
}

#[test]
fn unregistering_what_is_not_registered_is_an_error_and_changes_nothing() {
    let log = Log::default();
    let (space, notifiers) = space_with("ab", &log);
    let stranger = Recorder::create('x', &log, false);
    assert_eq!(
        space.unregister(&stranger),
        Err(UnregisterError::NotRegistered)
    );
    assert_eq!(
        space.unregister_no_release(&stranger),
        Err(UnregisterError::NotRegistered)
    );
    space.unregister(&notifiers[0]).unwrap();
    drain(&log);
    assert_eq!(
        space.unregister(&notifiers[0]),
        Err(UnregisterError::NotRegistered)
    );
    assert_eq!(
        space.unregister_no_release(&notifiers[0]),
        Err(UnregisterError::NotRegistered)
    );
    assert_eq!(drain(&log), []);
    space.invalidate_range(RANGE);
    assert_eq!(drain(&log), [('b', Invalidate(RANGE))]);
}

#[test]
fn a_notifier_can_be_registered_again_and_with_two_address_spaces() {
    let log = Log::default();
    let (space, notifiers) = space_with("a", &log);
    let other = new_space();
    other.register_locked(notifiers[0].clone()).unwrap();
    space.unregister(&notifiers[0]).unwrap();
    space.register_locked(notifiers[0].clone()).unwrap();
    drain(&log);
    space.invalidate_range(RANGE);
    other.invalidate_range(RANGE);
    assert_eq!(drain(&log).len(), 2);
}

#[test]
fn unregister_drops_every_reference() {
    let log = Log::default();
    // Registering `b` replaced a list that holds `a`; it must not outlive the unregistration of `a`.
    let (space, notifiers) = space_with("abc", &log);
    space.unregister(&notifiers[0]).unwrap();
    assert_eq!(Arc::strong_count(&notifiers[0]), 1);
    space.release();
    assert_eq!(Arc::strong_count(&notifiers[1]), 1);
    assert_eq!(Arc::strong_count(&notifiers[2]), 1);
}

#[test]
fn unregister_no_release_calls_nothing_and_drops_by_a_deferred_call() {
    let log = Log::default();
    let (space, mut notifiers) = space_with("ab", &log);
    let weak = Arc::downgrade(&notifiers[0]);
    let section = space.srcu().read();
    // Does not wait: the section is still open.
    space.unregister_no_release(&notifiers[0]).unwrap();
    drop(notifiers.remove(0));
    assert!(weak.upgrade().is_some(), "freed while a section is open");
    space.invalidate_range(RANGE);
    assert_eq!(drain(&log), [('b', Invalidate(RANGE))]);
    drop(section);
    space.barrier().unwrap();
    assert!(weak.upgrade().is_none(), "not freed by the barrier");
    assert_eq!(drain(&log), []);
}

#[test]
fn deferred_drops_need_a_worker_only() {
    let log = Log::default();
    let (space, mut notifiers) = space_with("a", &log);
    let weak = Arc::downgrade(&notifiers[0]);
    space.unregister_no_release(&notifiers.remove(0)).unwrap();
    assert!(space.srcu().has_callbacks());
    assert_eq!(space.srcu().run_callbacks(), 1);
    assert!(weak.upgrade().is_none());
    assert!(!space.srcu().has_callbacks());
    assert_eq!(space.srcu().run_callbacks(), 0);
}

#[test]
fn release_calls_all_and_ends_everything() {
    let log = Log::default();
    let (space, notifiers) = space_with("ab", &log);
    space.release();
    assert_eq!(drain(&log), [('b', Release), ('a', Release)]);
    assert!(!space.has_notifiers());
    space.invalidate_range_start(RANGE);
    space.invalidate_range(RANGE);
    space.invalidate_range_end(RANGE);
    space.change_pte(0, 0);
    space.release();
    assert_eq!(drain(&log), []);
    // N5: exit was first, so unregistration calls nothing; it is still owed, and once only.
    space.unregister(&notifiers[0]).unwrap();
    space.unregister_no_release(&notifiers[1]).unwrap();
    assert_eq!(
        space.unregister(&notifiers[0]),
        Err(UnregisterError::NotRegistered)
    );
    assert_eq!(drain(&log), []);
}

#[test]
fn registering_after_release_is_an_error() {
    let log = Log::default();
    let (space, notifiers) = space_with("a", &log);
    space.release();
    let stranger = Recorder::create('x', &log, false);
    assert_eq!(
        space.register_locked(stranger.clone()),
        Err(RegisterError::Released)
    );
    assert_eq!(
        space.register_locked(notifiers[0].clone()),
        Err(RegisterError::Released)
    );
    let unused = new_space();
    unused.release();
    let lock = MemoryMapLock::default();
    assert_eq!(
        unused.register(&lock, stranger),
        Err(RegisterError::Released)
    );
}

#[test]
fn destruction_releases_who_is_still_subscribed() {
    let log = Log::default();
    let (space, notifiers) = space_with("ab", &log);
    space.unregister(&notifiers[0]).unwrap();
    drain(&log);
    // Not even an open section of the domain holds it up: nobody can be using the list.
    let srcu = space.srcu().clone();
    let section = srcu.read();
    drop(space);
    assert_eq!(drain(&log), [('b', Release)]);
    assert_eq!(Arc::strong_count(&notifiers[1]), 1);
    drop(section);
}

#[test]
fn destruction_after_release_calls_nothing() {
    let log = Log::default();
    let (space, notifiers) = space_with("ab", &log);
    space.release();
    drain(&log);
    drop(space);
    assert_eq!(drain(&log), []);
    drop(notifiers);
}

/// Unregisters itself at the first invalidation, and registers another.
struct OneShot {
    space: Weak<AddressSpace>,
    me: OnceLock<Weak<dyn Notifier>>,
    successor: Arc<dyn Notifier>,
    calls: AtomicUsize,
}

impl Notifier for OneShot {
    fn invalidate_range(&self, _range: Range) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let space = self.space.upgrade().unwrap();
        let me = self.me.get().unwrap().upgrade().unwrap();
        space.unregister_no_release(&me).unwrap();
        assert_eq!(
            space.unregister_no_release(&me),
            Err(UnregisterError::NotRegistered)
        );
        space.register_locked(self.successor.clone()).unwrap();
        // A notification inside a notification sees the new list.
        space.invalidate_range(Range::ALL);
    }
}

#[test]
fn callbacks_may_register_unregister_without_release_and_notify() {
    let log = Log::default();
    let space = Arc::new(new_space());
    let one_shot = Arc::new(OneShot {
        space: Arc::downgrade(&space),
        me: OnceLock::new(),
        successor: Recorder::create('s', &log, false),
        calls: AtomicUsize::new(0),
    });
    let notifier: Arc<dyn Notifier> = one_shot.clone();
    one_shot.me.set(Arc::downgrade(&notifier)).unwrap();
    space.register_locked(notifier).unwrap();
    space.invalidate_range(RANGE);
    assert_eq!(drain(&log), [('s', Invalidate(Range::ALL))]);
    space.invalidate_range(RANGE);
    assert_eq!(drain(&log), [('s', Invalidate(RANGE))]);
    assert_eq!(one_shot.calls.load(Ordering::Relaxed), 1);
    space.barrier().unwrap();
    assert_eq!(Arc::strong_count(&one_shot), 1);
}

#[test]
fn callbacks_run_in_order_and_once_and_what_is_left_runs_at_the_end_of_the_domain() {
    let srcu = Srcu::new();
    let order = Arc::new(std::sync::Mutex::new(Vec::new()));
    let call = |number: usize| {
        let order = order.clone();
        srcu.call(move || order.lock().unwrap().push(number));
    };
    (0..100).for_each(call);
    assert!(order.lock().unwrap().is_empty());
    srcu.barrier().unwrap();
    assert_eq!(*order.lock().unwrap(), (0..100).collect::<Vec<_>>());
    (100..103).for_each(call);
    drop(srcu);
    assert_eq!(*order.lock().unwrap(), (0..103).collect::<Vec<_>>());
}

#[test]
fn many_sections_nest_beyond_the_slots() {
    let srcu = Srcu::new();
    let sections: Vec<_> = (0..100).map(|_| srcu.read()).collect();
    let period = srcu.next_grace_period();
    assert!(!srcu.has_elapsed(period));
    drop(sections);
    srcu.synchronize().unwrap();
    assert!(srcu.has_elapsed(period));
}

#[test]
fn errors_say_what_is_wrong() {
    let inverted: Box<dyn Error> = Box::new(Range::new(0x2000, 0x1000).unwrap_err());
    assert_eq!(
        inverted.to_string(),
        "range ends at 0x1000, before its start 0x2000"
    );
    for text in [
        RegisterError::AlreadyRegistered.to_string(),
        RegisterError::Released.to_string(),
        UnregisterError::NotRegistered.to_string(),
    ] {
        assert!(text.contains("address space"), "{text}");
    }
}
