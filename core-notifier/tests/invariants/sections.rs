//! Starts and ends: N7 to N12, N26, N28, N30, and what goes wrong between them.

use alloc::sync::Arc;
use core::sync::atomic::Ordering::SeqCst;

use core_notifier::{
    AddressSpace, Event, Invalidation, Misuse, Notifier, NotifierKind, Owner, Progress, Range,
    RegisterError, Srcu, Token, WouldBlock,
};

use crate::common::{Call, Log, RANGE, Recorder, drain, new_space, new_srcu};
use crate::intervals::Mirror;
use crate::support::{Kernel, Seen, Seen::*, Shadow, Tlb, Trace};

pub const UNMAP: Invalidation = Invalidation::new(RANGE, Event::Unmap);

/// Registers them in order, so that the last one is the first in the list.
fn register(space: &AddressSpace, notifiers: &[Arc<Shadow>]) {
    for notifier in notifiers {
        space.register_locked(notifier.clone()).unwrap();
    }
}

fn count(trace: &[(char, Seen)], name: char, seen: Seen) -> usize {
    trace.iter().filter(|entry| **entry == (name, seen)).count()
}

#[test]
fn n07_every_successful_start_has_exactly_one_end() {
    let trace = Trace::default();
    let space = new_space();
    let shadows = ['a', 'b', 'c', 'd'].map(|name| Shadow::create(name, &trace));
    register(&space, &shadows);
    let mirror = Mirror::create();
    let subscription = mirror.insert(&space, RANGE);
    // Every set of refusing notifiers.
    for refusing in 0..16_u32 {
        let refuses = |place: usize| refusing & (1 << place) != 0;
        for (place, shadow) in shadows.iter().enumerate() {
            shadow.refuses.store(refuses(place), SeqCst);
        }
        let before = mirror.calls.load(SeqCst);
        match space.try_start_invalidation(UNMAP) {
            Ok(open) => {
                assert_eq!(refusing, 0);
                open.end();
            }
            Err(WouldBlock) => assert_ne!(refusing, 0),
        }
        let seen = trace.take();
        for (place, shadow) in shadows.iter().enumerate() {
            let began = usize::from(!refuses(place));
            assert_eq!(count(&seen, shadow.name, Start), began);
            assert_eq!(count(&seen, shadow.name, End), began);
        }
        // The interval side has been undone as well: a reader does not wait.
        assert_eq!(mirror.calls.load(SeqCst), before + 1);
        assert!(
            !mirror.would_wait(&subscription),
            "the interval side is still open"
        );
    }
    space.remove_interval(&subscription).unwrap();
}

#[test]
fn n07_an_interval_notifier_that_refuses_ends_the_start_before_the_list() {
    let trace = Trace::default();
    let space = new_space();
    register(&space, &[Shadow::create('a', &trace)]);
    let (willing, refusing) = (Mirror::create(), Mirror::create());
    refusing.refuses.store(true, SeqCst);
    let subscriptions = [
        willing.insert(&space, RANGE),
        refusing.insert(&space, RANGE),
    ];
    assert_eq!(space.try_start_invalidation(UNMAP).err(), Some(WouldBlock));
    assert_eq!(trace.take(), []);
    for subscription in subscriptions {
        assert!(!willing.would_wait(&subscription));
        space.remove_interval(&subscription).unwrap();
    }
}

#[test]
fn n08_starts_nest_and_one_that_leaves_in_between_sees_no_end() {
    let trace = Trace::default();
    let space = new_space();
    let shadows = ['a', 'b'].map(|name| Shadow::create(name, &trace));
    register(&space, &shadows);
    let outer = space.start_invalidation(UNMAP);
    let inner = space.start_invalidation(UNMAP);
    let leaver: Arc<dyn Notifier> = shadows[1].clone();
    space.unregister(&leaver).unwrap();
    // Not in the order of the starts, and on another thread.
    std::thread::scope(|scope| scope.spawn(|| outer.end()).join().unwrap());
    inner.end();
    let seen = trace.take();
    assert_eq!((count(&seen, 'a', Start), count(&seen, 'a', End)), (2, 2));
    assert_eq!((count(&seen, 'b', Start), count(&seen, 'b', End)), (2, 0));
}

#[test]
fn n09_every_list_notifier_is_called_although_one_refused() {
    let trace = Trace::default();
    let space = new_space();
    register(
        &space,
        &[
            Shadow::create('a', &trace),
            Shadow::refusing('b', &trace),
            Shadow::create('c', &trace),
            Shadow::refusing('d', &trace),
        ],
    );
    assert!(space.try_start_invalidation(UNMAP).is_err());
    let expected = [
        ('d', Refused),
        ('c', Start),
        ('b', Refused),
        ('a', Start),
        ('c', End),
        ('a', End),
    ];
    assert_eq!(trace.take(), expected);
}

#[test]
fn n10_a_blockable_start_never_fails() {
    let trace = Trace::default();
    let kernel = Kernel::create();
    let space = AddressSpace::with_hooks(Arc::new(new_srcu()), kernel);
    register(
        &space,
        &[Shadow::refusing('a', &trace), Shadow::create('b', &trace)],
    );
    let mirror = Mirror::create();
    mirror.refuses.store(true, SeqCst);
    let subscription = mirror.insert(&space, RANGE);
    // Reported for both sides, and both have succeeded.
    let open = space.start_invalidation(UNMAP);
    assert_eq!(kernel.take_misuses(), [Misuse::RefusedBlockable; 2]);
    open.end();
    assert_eq!(
        trace.take(),
        [('b', Start), ('a', Refused), ('b', End), ('a', End)]
    );
    // Starts in the manner of 2017 are blockable.
    space.invalidate_range_start(RANGE);
    space.invalidate_range_only_end(RANGE);
    assert_eq!(kernel.take_misuses(), [Misuse::RefusedBlockable; 2]);
    space.remove_interval(&subscription).unwrap();
}

/// Sleeps whenever it may.
struct Sleeper(&'static Kernel);

impl Notifier for Sleeper {
    fn kind(&self) -> NotifierKind {
        NotifierKind::ShadowTable
    }

    fn start_invalidation(
        &self,
        invalidation: &Invalidation,
        _token: &mut Token,
    ) -> Result<Progress, WouldBlock> {
        let bracketed = self.0.non_blocking.load(SeqCst) != 0;
        assert_eq!(
            invalidation.is_blockable(),
            !bracketed,
            "the kernel cannot tell"
        );
        if invalidation.is_blockable() {
            self.0.might_sleep();
        }
        Ok(Progress::Pending)
    }

    fn finish_start(&self, invalidation: &Invalidation, _token: &mut Token) {
        assert_eq!(
            invalidation.is_blockable(),
            self.0.non_blocking.load(SeqCst) == 0
        );
    }

    fn end_invalidation(&self, invalidation: &Invalidation) {
        assert_eq!(
            invalidation.is_blockable(),
            self.0.non_blocking.load(SeqCst) == 0
        );
    }
}

#[test]
fn n11_a_callback_that_must_not_sleep_is_known_to_the_kernel() {
    let kernel = Kernel::create();
    let space = AddressSpace::with_hooks(Arc::new(new_srcu()), kernel);
    space.register_locked(Arc::new(Sleeper(kernel))).unwrap();
    space.start_invalidation(UNMAP).end();
    assert_eq!(kernel.entered.load(SeqCst), 0);
    space.try_start_invalidation(UNMAP).unwrap().end();
    // First pass, second pass, end.
    assert_eq!(kernel.entered.load(SeqCst), 3);
    kernel.might_sleep();
}

#[test]
#[should_panic(expected = "sleeping where it is not allowed")]
fn n11_a_callback_that_sleeps_nevertheless_is_caught() {
    struct Careless(&'static Kernel);
    impl Notifier for Careless {
        fn kind(&self) -> NotifierKind {
            NotifierKind::ShadowTable
        }

        fn start_invalidation(
            &self,
            _invalidation: &Invalidation,
            _token: &mut Token,
        ) -> Result<Progress, WouldBlock> {
            self.0.might_sleep();
            Ok(Progress::Complete)
        }
    }
    let kernel = Kernel::create();
    let space = AddressSpace::with_hooks(Arc::new(Srcu::new()), kernel);
    space.register_locked(Arc::new(Careless(kernel))).unwrap();
    let _open = space.try_start_invalidation(UNMAP);
}

#[test]
fn n12_a_notifier_is_of_one_kind() {
    struct Mixed;
    impl Notifier for Mixed {
        fn kind(&self) -> NotifierKind {
            NotifierKind::ShadowTable
        }

        fn has_two_passes(&self) -> bool {
            true
        }
    }
    let space = new_space();
    assert_eq!(
        space.register_locked(Arc::new(Mixed)),
        Err(RegisterError::MixedKind)
    );
    assert!(!space.has_notifiers());

    // What belongs to the other kind is never called.
    let trace = Trace::default();
    space
        .register_locked(Tlb::create('t', &trace, false))
        .unwrap();
    register(&space, &[Shadow::create('s', &trace)]);
    space.invalidate_range(RANGE);
    assert_eq!(trace.take(), [('t', Ranges)]);
    space.start_invalidation(UNMAP).end();
    assert_eq!(trace.take(), [('s', Start), ('s', End)]);
    space.invalidate_range_start(RANGE);
    space.invalidate_range_end(RANGE);
    assert_eq!(trace.take(), [('s', Start), ('t', Ranges), ('s', End)]);
}

#[test]
fn n26_intervals_alone_do_without_the_list() {
    let space = new_space();
    let mirror = Mirror::create();
    let subscription = mirror.insert(&space, RANGE);
    assert!(!space.has_notifiers());
    space.start_invalidation(UNMAP).end();
    space.try_start_invalidation(UNMAP).unwrap().end();
    space.invalidate_range_start(RANGE);
    space.invalidate_range(RANGE);
    space.invalidate_range_end(RANGE);
    assert_eq!(mirror.calls.load(SeqCst), 3);
    space.release();
    assert_eq!(mirror.calls.load(SeqCst), 4);
    assert_eq!(mirror.last().event(), Event::Release);
    assert!(mirror.last().range().is_all() && mirror.last().is_blockable());
    space.start_invalidation(UNMAP).end();
    assert_eq!(mirror.calls.load(SeqCst), 4, "called after exit");
    space.remove_interval(&subscription).unwrap();
    // And the reverse: a list, and no interval.
    let log = Log::default();
    let space = new_space();
    space
        .register_locked(Recorder::create('a', &log, false))
        .unwrap();
    space.start_invalidation(UNMAP).end();
    assert_eq!(
        drain(&log),
        [('a', Call::Start(RANGE)), ('a', Call::End(RANGE))]
    );
}

#[test]
fn n28_test_young_stops_at_the_first_yes_and_clear_young_asks_all() {
    let log = Log::default();
    let space = new_space();
    for name in ['a', 'B', 'c'] {
        let notifier = Recorder::create(name, &log, name.is_uppercase());
        space.register_locked(notifier).unwrap();
    }
    assert!(space.test_young(0x1000));
    assert_eq!(drain(&log).len(), 2);
    assert!(space.clear_young(RANGE));
    assert_eq!(drain(&log).len(), 3);
}

#[test]
fn n30_ranges_are_half_open_and_empty_ones_are_ignored() {
    let trace = Trace::default();
    let space = new_space();
    let tlb = Tlb::create('t', &trace, false);
    space.register_locked(tlb.clone()).unwrap();
    register(&space, &[Shadow::create('s', &trace)]);
    // An interval ends where the next begins.
    let mirror = Mirror::create();
    let subscription = mirror.insert(&space, RANGE);
    let at = |start, end| Invalidation::new(Range::new(start, end).unwrap(), Event::Unmap);
    let meets = |invalidation: Invalidation| {
        let before = mirror.calls.load(SeqCst);
        space.start_invalidation(invalidation).end();
        mirror.calls.load(SeqCst) != before
    };
    assert!(!meets(at(0, RANGE.start())) && !meets(at(RANGE.end(), u64::MAX)));
    assert!(meets(at(0, RANGE.start() + 1)) && meets(at(RANGE.end() - 1, u64::MAX)));
    assert!(meets(Invalidation::new(Range::ALL, Event::Unmap)));
    trace.take();
    for address in [0, RANGE.start(), RANGE.start() + 1, u64::MAX] {
        let empty = Range::new(address, address).unwrap();
        assert!(!meets(Invalidation::new(empty, Event::Unmap)));
        assert!(space.try_start_invalidation(at(address, address)).is_ok());
        space.invalidate_range_start(empty);
        space.invalidate_range(empty);
        space.raise_permissions(empty);
        space.invalidate_range_only_end(empty);
        space.batch(|batch| batch.add(empty));
    }
    assert_eq!(trace.take(), []);
    // Neither alignment nor size is asked for.
    for range in [
        Range::new(1, 2).unwrap(),
        Range::new(0xfff, 0x1001).unwrap(),
        Range::ALL,
    ] {
        space.invalidate_range(range);
        assert_eq!(tlb.take_told(), [range]);
    }
    space.remove_interval(&subscription).unwrap();
}

#[test]
fn the_reason_and_the_owner_arrive() {
    let trace = Trace::default();
    let space = new_space();
    let shadow = Shadow::create('a', &trace);
    register(&space, core::slice::from_ref(&shadow));
    let owner = Owner::of(&*shadow);
    space
        .start_invalidation(Invalidation::new(RANGE, Event::Migrate).with_owner(owner))
        .end();
    let last = shadow.last.lock().unwrap().take().unwrap();
    assert!(last.is_own(owner) && last.is_blockable() && last.event() == Event::Migrate);
    assert!(space.try_start_invalidation(UNMAP).is_ok());
    let last = shadow.last.lock().unwrap().take().unwrap();
    assert!(!last.is_own(owner) && !last.is_blockable() && last.owner().is_none());
    space.invalidate_range_start(RANGE);
    let last = shadow.last.lock().unwrap().take().unwrap();
    assert_eq!((last.event(), last.is_blockable()), (Event::Unmap, true));
}

#[test]
fn only_end_does_not_pay_twice() {
    let log = Log::default();
    let space = new_space();
    space
        .register_locked(Recorder::create('a', &log, false))
        .unwrap();
    space.invalidate_range_start(RANGE);
    space.invalidate_range(RANGE);
    space.invalidate_range_only_end(RANGE);
    let expected = [
        Call::Start(RANGE),
        Call::Invalidate(RANGE),
        Call::End(RANGE),
    ];
    assert_eq!(drain(&log), expected.map(|call| ('a', call)));
}

#[test]
fn a_notifier_of_2017_refuses_what_must_not_sleep_unasked() {
    let log = Log::default();
    let space = new_space();
    space
        .register_locked(Recorder::create('a', &log, false))
        .unwrap();
    assert!(space.try_start_invalidation(UNMAP).is_err());
    assert_eq!(drain(&log), []);
    space.start_invalidation(UNMAP).end();
    assert_eq!(drain(&log).len(), 2);
}

#[test]
fn beyond_256_notifiers_a_start_that_must_not_sleep_fails_and_is_undone() {
    let trace = Trace::default();
    let space = new_space();
    for _ in 0..257 {
        register(&space, &[Shadow::create('a', &trace)]);
    }
    assert!(space.try_start_invalidation(UNMAP).is_err());
    let seen = trace.take();
    assert_eq!(
        (count(&seen, 'a', Start), count(&seen, 'a', End)),
        (256, 256)
    );
    space.start_invalidation(UNMAP).end();
    let seen = trace.take();
    assert_eq!(
        (count(&seen, 'a', Start), count(&seen, 'a', End)),
        (257, 257)
    );
}

#[test]
fn an_end_without_a_start_is_reported_and_harms_nobody() {
    let kernel = Kernel::create();
    let space = AddressSpace::with_hooks(Arc::new(new_srcu()), kernel);
    let mirror = Mirror::create();
    let subscription = mirror.insert(&space, RANGE);
    space.invalidate_range_only_end(RANGE);
    assert_eq!(kernel.take_misuses(), [Misuse::EndWithoutStart]);
    space.start_invalidation(UNMAP).end();
    assert_eq!(kernel.take_misuses(), []);
    assert_eq!(mirror.calls.load(SeqCst), 1);
    assert!(!mirror.would_wait(&subscription));
    space.remove_interval(&subscription).unwrap();
}

#[test]
fn a_leaked_start_makes_readers_retry_and_never_use_what_is_stale() {
    let space = new_space();
    let mirror = Mirror::create();
    let subscription = mirror.insert(&space, RANGE);
    let before = subscription.read_begin();
    core::mem::forget(space.start_invalidation(UNMAP));
    assert!(subscription.read_retry(before));
    assert!(mirror.would_wait(&subscription));
    // Later invalidations still arrive, and others still subscribe.
    space.start_invalidation(UNMAP).end();
    assert_eq!(mirror.calls.load(SeqCst), 2);
    let other = mirror.insert(&space, RANGE);
    assert!(mirror.would_wait(&other));
    space.release();
    assert_eq!(mirror.calls.load(SeqCst), 4);
}
