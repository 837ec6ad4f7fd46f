//! The least that a section can cost on this CPU, whoever implements it: a counter on entry and one
//! on exit, both the thread's own, and no bookkeeping at all.
//!
//! They protect nothing. They tell how much of a ratio is the CPU's and how much the algorithm's.

use std::sync::atomic::{AtomicUsize, Ordering};

/// A thread's counters, alone on their cache line.
#[repr(align(64))]
#[derive(Default)]
pub struct Counters {
    entries: AtomicUsize,
    exits: AtomicUsize,
}

impl Counters {
    /// A section with one locked operation around `work`.
    #[inline]
    pub fn locked<R>(&self, work: impl FnOnce() -> R) -> R {
        self.entries.fetch_add(1, Ordering::SeqCst);
        let result = work();
        increment(&self.exits, Ordering::Release);
        result
    }

    /// A section without a locked operation around `work`.
    #[inline]
    pub fn plain<R>(&self, work: impl FnOnce() -> R) -> R {
        increment(&self.entries, Ordering::Relaxed);
        let result = work();
        increment(&self.exits, Ordering::Release);
        result
    }
}

#[inline]
fn increment(counter: &AtomicUsize, ordering: Ordering) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(1), ordering);
}
