//! A world in real time whose hardware is a function of time.
//!
//! The doorbell and a register read keep the CPU busy for as long as they cost. A sync is given a
//! deadline when the doorbell rings; the word is written by the thread that rang, when it looks at the
//! clock after the deadline, which every waiting loop does. So no CPU is needed to play the hardware.

use std::cell::Cell;
use std::hint::spin_loop;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

use super::world::{Hardware, Step, World};
use crate::clock::wall_time;

/// What things cost, in nanoseconds.
const DOORBELL: u64 = 100;
const REGISTER_READ: u64 = 300;
const COMPLETION: u64 = 500;

/// Syncs that one thread can have rung for at a time.
const PENDING: usize = 8;

thread_local! {
    static WRITES: [Cell<Option<Write>>; PENDING] = const { [const { Cell::new(None) }; PENDING] };
    /// Whether any is there.
    static COUNT: Cell<usize> = const { Cell::new(0) };
    /// The deadline of all syncs that this thread's last doorbell was for: who sees his own complete
    /// has then written the others'.
    static DEADLINE: Cell<u64> = const { Cell::new(0) };
}

#[derive(Clone, Copy)]
struct Write {
    when: u64,
    word: &'static AtomicU32,
    value: u32,
}

/// The world.
pub struct Deadlines;

impl World for Deadlines {
    #[inline]
    fn now() -> u64 {
        nanoseconds()
    }

    #[inline]
    fn relax() {
        spin_loop();
        if COUNT.get() > 0 {
            write_back();
        }
    }

    fn doorbell() {
        DEADLINE.set(busy(DOORBELL) + COMPLETION);
    }

    fn register_read() {
        busy(REGISTER_READ);
        write_back();
    }

    fn execute(_: &Hardware, step: Step) {
        let Step::Sync { word, value } = step else {
            return;
        };
        let when = DEADLINE.get();
        WRITES.with(|writes| {
            let free = writes.iter().find(|write| write.get().is_none());
            let free = free.expect("a thread waits for what it rang for");
            free.set(Some(Write { when, word, value }));
        });
        COUNT.set(COUNT.get() + 1);
    }
}

/// Performs the writes whose time has come.
fn write_back() {
    let now = nanoseconds();
    WRITES.with(|writes| {
        for write in writes {
            if let Some(Write { when, word, value }) = write.get()
                && when <= now
            {
                word.store(value, Ordering::Release);
                write.set(None);
                COUNT.set(COUNT.get() - 1);
            }
        }
    });
}

/// Returns the time after so many nanoseconds.
fn busy(cost: u64) -> u64 {
    let end = nanoseconds() + cost;
    loop {
        let now = nanoseconds();
        if now >= end {
            return now;
        }
        spin_loop();
    }
}

/// The time stamp counter, which costs a fraction of a system call.
#[cfg(target_arch = "x86_64")]
#[inline]
fn nanoseconds() -> u64 {
    /// Nanoseconds a tick, in units of 2^-32.
    static SCALE: LazyLock<u64> = LazyLock::new(scale);
    let ticks = u128::from(ticks());
    ((ticks * u128::from(*SCALE)) >> 32) as u64
}

#[cfg(target_arch = "x86_64")]
#[inline]
fn ticks() -> u64 {
    // SAFETY: every x86-64 CPU has the instruction, and Linux lets programs use it.
    unsafe { std::arch::x86_64::_rdtsc() }
}

/// Compares the counter with the clock for a while.
#[cfg(target_arch = "x86_64")]
fn scale() -> u64 {
    const WHILE: u128 = 20_000_000;
    let (time, first) = (wall_time(), ticks());
    loop {
        let passed = (wall_time() - time).as_nanos();
        if passed >= WHILE {
            return ((passed << 32) / u128::from(ticks() - first)) as u64;
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn nanoseconds() -> u64 {
    wall_time().as_nanos() as u64
}
