//! What the operations cost on this CPU that sections are made of, without any bookkeeping.
//!
//! They protect nothing. They tell how much of a ratio is the CPU's and how much the algorithm's.

use std::sync::atomic::{AtomicUsize, Ordering, compiler_fence};

use crate::cpu;

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
}

/// Counters for each CPU, alone on their cache line, in an array that is found through a pointer.
pub struct PerCpu(Vec<Counters>);

impl PerCpu {
    pub fn new() -> Self {
        PerCpu((0..cpu::CPUS).map(|_| Counters::default()).collect())
    }

    /// A section without a locked operation around `work`: counted in and out by additions to the
    /// CPU's own counters.
    #[inline]
    pub fn plain<R>(&self, work: impl FnOnce() -> R) -> R {
        let counters = self.own();
        increment(&counters.entries, Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
        let result = work();
        increment(&counters.exits, Ordering::Release);
        result
    }

    /// As [`plain`](PerCpu::plain) by a store on entry and one on exit, which no section could be
    /// content with inside another.
    #[inline]
    pub fn stores<R>(&self, work: impl FnOnce() -> R) -> R {
        let word = &self.own().entries;
        word.store(1, Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
        let result = work();
        word.store(0, Ordering::Release);
        result
    }

    #[inline]
    fn own(&self) -> &Counters {
        // SAFETY: `cpu::number` is below `CPUS`.
        unsafe { self.0.get_unchecked(cpu::number()) }
    }
}

#[inline]
fn increment(counter: &AtomicUsize, ordering: Ordering) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(1), ordering);
}
