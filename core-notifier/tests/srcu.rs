//! The modes of the read-copy-update, and the waits that do not wait for ever.
#![cfg(not(loom))]

extern crate alloc;

mod common;
#[path = "srcu/kernel.rs"]
mod kernel;

use alloc::sync::Arc;
use core::cell::Cell;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use core::time::Duration;
use std::{thread, thread_local};

use common::{RANGE, Recorder, drain};
use core_notifier::{
    AddressSpace, Checked, Counters, Fenced, Hooked, Mode, Notifier, Published, Srcu, SrcuDomains,
    UnregisterError, WaitError,
};
use kernel::{Kernel, Preemptible, Threads, set_cpu};

const CPUS: usize = 3;

fn hooked() -> (Srcu<Hooked<Kernel>>, Kernel) {
    let kernel = Kernel::new(CPUS);
    let srcu = Srcu::with_mode(Hooked::new(kernel.clone()), thread::yield_now);
    (srcu, kernel)
}

fn checked() -> Srcu<Checked<Fenced, Threads>> {
    Srcu::with_mode(Checked::new(Fenced::new(), Threads), thread::yield_now)
}

/// Patience for some looks, and none for being asked again after it has run out.
fn some_patience() -> impl FnMut() -> bool {
    let mut left = 100_i32;
    move || {
        assert!(left >= 0, "asked again after a no");
        left -= 1;
        left >= 0
    }
}

#[test]
fn hooked_sections_hold_up_a_grace_period_on_every_cpu() {
    for cpu in 0..CPUS {
        let (srcu, _) = hooked();
        set_cpu(cpu);
        let section = srcu.read();
        let stalled = srcu.synchronize_within(some_patience()).unwrap_err();
        assert_eq!(stalled.counters, Some(Counters::Slot(cpu)));
        assert_eq!(stalled.sections, 1);
        drop(section);
        srcu.synchronize_within(some_patience()).unwrap();
    }
}

#[test]
fn hooked_sections_may_end_on_another_cpu() {
    let (srcu, _) = hooked();
    set_cpu(0);
    let outer = srcu.read();
    set_cpu(2);
    let inner = srcu.read();
    set_cpu(1);
    drop(outer);
    srcu.synchronize_within(some_patience()).unwrap_err();
    set_cpu(0);
    drop(inner);
    srcu.synchronize_within(some_patience()).unwrap();
}

#[test]
fn hooked_idle_grace_period_costs_one_barrier_and_sections_cost_none() {
    let (srcu, kernel) = hooked();
    drop(srcu.read());
    assert_eq!(kernel.barriers(), (0, 0));
    srcu.synchronize().unwrap();
    assert_eq!(kernel.barriers(), (1, 0));
}

#[test]
fn expedited_waits_use_the_expedited_barrier() {
    let (srcu, kernel) = hooked();
    srcu.synchronize_expedited().unwrap();
    assert_eq!(kernel.barriers(), (0, 1));
}

/// A value that says whether it has been taken back.
#[derive(Default)]
struct Marked(AtomicBool);

#[test]
fn hooked_readers_against_an_updater() {
    readers_against_an_updater(hooked().0, [0, 1]);
}

#[test]
fn hooked_readers_that_share_a_cpu_against_an_updater() {
    let mode = Hooked::new(Preemptible(Kernel::new(CPUS)));
    readers_against_an_updater(Srcu::with_mode(mode, thread::yield_now), [0, 0]);
}

fn readers_against_an_updater<M: Mode>(srcu: Srcu<M>, cpus: [usize; 2]) {
    let published = Published::new(Arc::new(srcu));
    published.replace(Some(Box::new(Marked::default())));
    let done = AtomicBool::new(false);
    let seen = AtomicUsize::new(0);
    thread::scope(|scope| {
        for cpu in cpus {
            let (published, done, seen) = (&published, &done, &seen);
            scope.spawn(move || {
                set_cpu(cpu);
                while !done.load(SeqCst) {
                    let value = published.read().unwrap();
                    for _ in 0..3 {
                        assert!(!value.0.load(SeqCst), "taken back under a reader");
                    }
                    seen.fetch_add(1, SeqCst);
                }
            });
        }
        set_cpu(2);
        // Kept, so that a reader that was not waited for reads a mark and not freed memory.
        let mut graveyard = Vec::new();
        while seen.load(SeqCst) == 0 {
            thread::yield_now();
        }
        for _ in 0..2_000 {
            let retired = published.replace(Some(Box::new(Marked::default())));
            let value = retired.unwrap().reclaim().unwrap_or_else(|_| panic!());
            value.0.store(true, SeqCst);
            graveyard.push(value);
        }
        done.store(true, SeqCst);
    });
}

thread_local! {
    /// Whether this thread's wait is expedited.
    static EXPEDITED: Cell<bool> = const { Cell::new(false) };
}

#[test]
fn expedited_waits_do_not_relax_and_make_the_driver_hurry() {
    static RELAXED: AtomicUsize = AtomicUsize::new(0);
    let srcu = Srcu::with_relax(|| {
        assert!(!EXPEDITED.get(), "an expedited wait relaxed");
        RELAXED.fetch_add(1, SeqCst);
        thread::yield_now();
    });
    let waiting = AtomicBool::new(false);
    thread::scope(|scope| {
        let section = srcu.read();
        scope.spawn(|| srcu.synchronize().unwrap());
        while RELAXED.load(SeqCst) == 0 {
            thread::yield_now();
        }
        scope.spawn(|| {
            EXPEDITED.set(true);
            waiting.store(true, SeqCst);
            srcu.synchronize_expedited().unwrap();
        });
        while !waiting.load(SeqCst) {
            thread::yield_now();
        }
        // A driver that goes on relaxing may still get no CPU for a while, but not so often in a row.
        let mut quiet = 0;
        let hurries = (0..500).any(|_| {
            let before = RELAXED.load(SeqCst);
            thread::sleep(Duration::from_millis(5));
            quiet = if RELAXED.load(SeqCst) == before {
                quiet + 1
            } else {
                0
            };
            quiet == 20
        });
        drop(section);
        assert!(hurries, "the driver went on relaxing");
    });
}

#[test]
fn a_leaked_guard_is_reported_where_it_is() {
    let srcu = Srcu::new();
    let period = srcu.next_grace_period();
    core::mem::forget(srcu.read());
    let stalled = srcu.synchronize_within(some_patience()).unwrap_err();
    assert!(matches!(stalled.counters, Some(Counters::Slot(_))));
    assert_eq!(stalled.sections, 1);
    assert!(
        !srcu.has_elapsed(period),
        "a wait that was given up ended it"
    );
    assert!(stalled.to_string().contains("1 open sections on slot"));
}

#[test]
fn a_leaked_guard_among_many_sections_is_reported() {
    let srcu = Srcu::new();
    let mut sections: Vec<_> = (0..64).map(|_| srcu.read()).collect();
    core::mem::forget(sections.pop());
    drop(sections);
    let stalled = srcu.synchronize_within(some_patience()).unwrap_err();
    assert_eq!(stalled.counters, Some(Counters::Shared));
    assert_eq!(stalled.sections, 1);
}

#[test]
fn a_wait_that_was_given_up_can_be_taken_up_again() {
    let srcu = Srcu::new();
    let section = srcu.read();
    srcu.synchronize_within(some_patience()).unwrap_err();
    drop(section);
    let period = srcu.next_grace_period();
    srcu.synchronize_within(some_patience()).unwrap();
    srcu.wait_for(period).unwrap();
    assert!(srcu.has_elapsed(period));
}

#[test]
fn checked_waits_inside_a_section_are_errors() {
    let srcu = checked();
    assert!(!srcu.is_inside());
    srcu.call(|| {});
    let period = srcu.next_grace_period();
    let section = srcu.read();
    assert!(srcu.is_inside(), "not noticed");
    let inside = Err(WaitError::InsideSection);
    assert_eq!(srcu.synchronize(), inside);
    assert_eq!(srcu.synchronize_expedited(), inside);
    assert_eq!(srcu.wait_for(period), inside);
    assert_eq!(srcu.barrier(), inside);
    assert_eq!(srcu.run_callbacks(), 0);
    assert!(srcu.has_callbacks(), "lost");
    let nested = srcu.read();
    drop(section);
    assert_eq!(srcu.synchronize(), inside);
    drop(nested);
    assert!(!srcu.is_inside(), "left and not forgotten");
    srcu.synchronize().unwrap();
    srcu.wait_for(period).unwrap();
    srcu.barrier().unwrap();
}

#[test]
fn checked_sections_of_others_are_waited_for() {
    let srcu = checked();
    let left = AtomicBool::new(false);
    thread::scope(|scope| {
        let section = srcu.read();
        scope.spawn(|| {
            assert!(!srcu.is_inside());
            srcu.synchronize().unwrap();
            assert!(left.load(SeqCst), "did not wait");
        });
        (0..100).for_each(|_| thread::yield_now());
        left.store(true, SeqCst);
        drop(section);
    });
}

#[test]
fn checked_works_in_hooked_mode() {
    let mode = Checked::new(Hooked::new(Kernel::new(CPUS)), Threads);
    let srcu = Srcu::with_mode(mode, thread::yield_now);
    let section = srcu.read();
    assert_eq!(srcu.synchronize(), Err(WaitError::InsideSection));
    drop(section);
    srcu.synchronize().unwrap();
}

#[test]
fn checked_remembers_64_sections_and_counts_the_others() {
    let srcu = checked();
    let mut sections: Vec<_> = (0..65).map(|_| srcu.read()).collect();
    assert!(srcu.is_inside());
    let unremembered = sections.pop();
    drop(sections);
    assert!(!srcu.is_inside());
    srcu.synchronize_within(some_patience()).unwrap_err();
    drop(unremembered);
    srcu.synchronize().unwrap();
}

#[test]
fn checked_barrier_inside_a_callback_is_an_error() {
    static LOOKS: AtomicUsize = AtomicUsize::new(0);
    let mode = Checked::new(Fenced::new(), Threads);
    let srcu = Arc::new(Srcu::with_mode(mode, || {
        assert!(LOOKS.fetch_add(1, SeqCst) < 100_000, "waits for itself");
        thread::yield_now();
    }));
    let refused = Arc::new(AtomicBool::new(false));
    srcu.call({
        let (srcu, refused) = (srcu.clone(), refused.clone());
        move || {
            let is_refused = srcu.barrier() == Err(WaitError::InsideCallback);
            refused.store(is_refused, SeqCst);
            srcu.synchronize().unwrap();
        }
    });
    assert_eq!(srcu.run_callbacks(), 1);
    assert!(refused.load(SeqCst));
    srcu.barrier().unwrap();
}

#[test]
fn checked_address_space_refuses_to_unregister_and_release_inside_a_section() {
    let srcu = Arc::new(checked());
    let space = AddressSpace::new(srcu.clone());
    let log = common::Log::default();
    let notifier: Arc<dyn Notifier> = Recorder::create('a', &log, false);
    space.register_locked(notifier.clone()).unwrap();
    let section = srcu.read();
    let inside = WaitError::InsideSection;
    assert_eq!(
        space.unregister(&notifier),
        Err(UnregisterError::Wait(inside))
    );
    assert_eq!(space.try_release(), Err(inside));
    assert_eq!(space.synchronize(), Err(inside));
    assert_eq!(space.barrier(), Err(inside));
    assert_eq!(drain(&log), []);
    space.invalidate_range(RANGE);
    assert_eq!(drain(&log).len(), 1, "still subscribed");
    drop(section);
    space.unregister(&notifier).unwrap();
    assert_eq!(drain(&log), [('a', common::Call::Release)]);
}

#[test]
fn checked_release_inside_a_section_does_all_but_wait() {
    let srcu = Arc::new(checked());
    let space = AddressSpace::new(srcu.clone());
    let log = common::Log::default();
    let notifier: Arc<dyn Notifier> = Recorder::create('a', &log, false);
    space.register_locked(notifier.clone()).unwrap();
    let section = srcu.read();
    space.release();
    assert_eq!(drain(&log), [('a', common::Call::Release)]);
    space.invalidate_range(RANGE);
    assert_eq!(drain(&log), []);
    drop(section);
    space.unregister(&notifier).unwrap();
    space.barrier().unwrap();
    assert_eq!(Arc::strong_count(&notifier), 1, "the list was not dropped");
}

#[test]
fn a_value_replaced_inside_a_section_is_dropped_after_it() {
    let published = Published::new(Arc::new(checked()));
    let value = Arc::new(());
    published.replace(Some(Box::new(value.clone())));
    let section = published.srcu().read();
    let retired = published.replace(None).unwrap();
    let Err(retired) = retired.reclaim() else {
        panic!("reclaimed inside a section");
    };
    drop(retired);
    assert_eq!(Arc::strong_count(&value), 2, "dropped under a reader");
    drop(section);
    published.srcu().barrier().unwrap();
    assert_eq!(Arc::strong_count(&value), 1, "never dropped");
}

#[test]
fn domains_are_spread_over_and_do_not_hold_up_each_other() {
    let domains = SrcuDomains::new(8, Srcu::new);
    let of = |key| Arc::as_ptr(domains.domain(key));
    let mut used: Vec<_> = (0..64).map(of).collect();
    assert_eq!(used, (0..64).map(of).collect::<Vec<_>>());
    used.sort();
    used.dedup();
    assert_eq!(used.len(), domains.len());

    let _stuck = domains.domain(0).read();
    let stalled = |srcu: &&Arc<Srcu>| srcu.synchronize_within(some_patience()).is_err();
    assert_eq!(domains.iter().filter(stalled).count(), 1);
}

#[test]
fn domains_are_never_none() {
    assert_eq!(SrcuDomains::new(0, Srcu::new).len(), 1);
}
