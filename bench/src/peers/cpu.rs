//! CPUs, as far as a program has them: each thread stands for one.
//!
//! A kernel finds its CPU's number in one instruction (a segment or system register) and keeps a
//! section's entry from migrating. A thread-local variable costs the same instruction, and a number
//! that belongs to one thread cannot migrate.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many threads may ask for a number.
pub const CPUS: usize = 64;

static NEXT: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static CPU: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// Makes the calling thread a CPU, if it is none yet.
pub fn bring_up() {
    if CPU.get() == usize::MAX {
        let cpu = NEXT.fetch_add(1, Ordering::Relaxed);
        assert!(cpu < CPUS, "more threads than CPUs");
        CPU.set(cpu);
    }
}

/// The calling thread's number, below [`CPUS`] once it was brought up.
#[inline]
pub fn number() -> usize {
    CPU.get()
}
