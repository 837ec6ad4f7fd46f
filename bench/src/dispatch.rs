//! One change of translations among many intervals, of which it meets one.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use core_notifier::{
    AddressSpace, Event, IntervalNotifier, IntervalSubscription, Invalidation, Mode, Notifier,
    Range, Srcu, WouldBlock,
};

use crate::case::{Case, forever, repeat};
use crate::cpu::Threads;
use crate::notify::LinuxList;

/// How many intervals there are, from group to group.
pub const INTERVALS: [usize; 2] = [64, 1024];

/// From the start of one interval to that of the next; each is half as long.
const STRIDE: u64 = 0x10_0000;

/// All ways of finding the one.
pub fn cases(intervals: usize) -> Vec<Case> {
    vec![
        ours("fenced", intervals, Srcu::new()),
        ours("hooked", intervals, Threads::domain()),
        linux_list(intervals),
    ]
}

/// An address space in the domain `srcu` with so many intervals.
pub fn space<M: Mode>(srcu: Srcu<M>, intervals: usize) -> AddressSpace<M> {
    let space = AddressSpace::new(Arc::new(srcu));
    for number in 0..intervals as u64 {
        let subscriber = Arc::new(Subscriber::new(number));
        space
            .insert_interval_locked(subscriber.interval, subscriber)
            .expect("the interval is not empty and the space alive");
    }
    space
}

/// Announces a start, which finds the one interval, and its end.
fn ours<M: Mode>(name: &'static str, intervals: usize, srcu: Srcu<M>) -> Case {
    let space = forever(space(srcu, intervals));
    Case::new(name, move || {
        repeat((space, targets(intervals)), |(space, targets)| {
            let invalidation = Invalidation::new(targets.next(), Event::Unmap);
            space.start_invalidation(invalidation).end();
        })
    })
}

/// Tells everyone of the start and of the end, each of whom looks whether he is meant.
fn linux_list(intervals: usize) -> Case {
    let subscriber = |number| -> &dyn Notifier { forever(Subscriber::new(number)) };
    let list = forever(LinuxList::new((0..intervals as u64).map(subscriber)));
    Case::new("Linux SRCU model, call everyone", move || {
        repeat((list, targets(intervals)), |(list, targets)| {
            list.start_and_end(targets.next());
        })
    })
}

/// Interested in one interval.
struct Subscriber {
    interval: Range,
    calls: AtomicU64,
}

impl Subscriber {
    fn new(number: u64) -> Self {
        Subscriber {
            interval: range(number * STRIDE, STRIDE / 2),
            calls: AtomicU64::new(0),
        }
    }

    fn count(&self) {
        let calls = self.calls.load(Ordering::Relaxed);
        self.calls.store(calls.wrapping_add(1), Ordering::Relaxed);
    }
}

impl IntervalNotifier for Subscriber {
    fn invalidate(
        &self,
        _subscription: &IntervalSubscription,
        _invalidation: &Invalidation,
    ) -> Result<(), WouldBlock> {
        self.count();
        Ok(())
    }
}

impl Notifier for Subscriber {
    fn invalidate_range_start(&self, range: Range) {
        if self.interval.overlaps(range) {
            self.count();
        }
    }

    fn invalidate_range_end(&self, range: Range) {
        if self.interval.overlaps(range) {
            self.count();
        }
    }
}

/// Ranges that meet one interval each, in an order that no branch predictor knows.
struct Targets {
    intervals: u64,
    state: Cell<u64>,
}

fn targets(intervals: usize) -> &'static Targets {
    forever(Targets {
        intervals: intervals as u64,
        state: Cell::new(1),
    })
}

impl Targets {
    fn next(&self) -> Range {
        /// Knuth's multiplier for a linear congruential generator.
        const MULTIPLIER: u64 = 6_364_136_223_846_793_005;
        let state = self.state.get().wrapping_mul(MULTIPLIER).wrapping_add(1);
        self.state.set(state);
        range((state >> 32) % self.intervals * STRIDE, 0x1000)
    }
}

fn range(start: u64, length: u64) -> Range {
    Range::with_length(start, length).expect("far from the end of the address space")
}
