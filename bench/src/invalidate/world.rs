//! What is around the code under test: what time is, and what an access to the hardware costs.
//!
//! The same code, ours and the peers', runs in each world.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::effect::Effect;

/// A world. It has no instance, as [`Platform::without_interrupts`] has none.
///
/// [`Platform::without_interrupts`]: iommu_core::platform::Platform::without_interrupts
pub trait World: Send + Sync + 'static {
    /// Whether [`effect`](World::effect) wants to be told.
    const LOOKS: bool = false;

    /// Whether [`command`](World::command) wants to be told.
    const COUNTS_COMMANDS: bool = false;

    /// Nanoseconds.
    fn now() -> u64 {
        0
    }
    /// A turn of a waiting loop.
    fn relax() {}
    /// A command was written to the queue.
    fn command() {}
    /// The tail register is written.
    fn doorbell() {}
    /// A register is read.
    fn register_read() {}
    /// A completion is going to be waited for.
    fn wait() {}
    /// A section with interrupts off, inside which the ring takes its lock.
    fn section<T>(section: impl FnOnce() -> T) -> T {
        section()
    }
    /// An atomic operation on memory that several CPUs write.
    fn atomic(line: &Line) {
        let _ = line;
    }
    /// The hardware consumes a command that has this effect.
    fn effect(effect: Effect) {
        let _ = effect;
    }
    /// The hardware consumes a command.
    fn execute(hardware: &Hardware, step: Step);
}

/// What the hardware does with a command.
#[derive(Clone, Copy)]
pub enum Step {
    /// Something that is not a sync.
    Command,
    /// It writes `value` to `word` when everything before is complete.
    Sync {
        word: &'static AtomicU32,
        value: u32,
    },
}

/// The part of one IOMMU that consumes commands: when it is free, in nanoseconds.
#[derive(Default)]
pub struct Hardware(AtomicU64);

impl Hardware {
    /// Does something that takes `cost` from `now` on, or from when it is free; returns when it is
    /// done.
    pub fn work(&self, now: u64, cost: u64) -> u64 {
        let done = self.0.load(Ordering::Relaxed).max(now) + cost;
        self.0.store(done, Ordering::Relaxed);
        done
    }
}

/// A cache line that several CPUs write: one has it at a time.
pub struct Line {
    /// The CPU that had it last.
    owner: AtomicU64,
    /// When it can be had, in nanoseconds.
    free: AtomicU64,
}

impl Line {
    /// A line that no CPU has.
    pub const fn new() -> Self {
        Self {
            owner: AtomicU64::new(u64::MAX),
            free: AtomicU64::new(0),
        }
    }

    /// How long it takes `cpu` to have it at `now`, with what an operation costs on an own line and
    /// on another's.
    pub fn take(&self, cpu: u64, now: u64, own: u64, other: u64) -> u64 {
        let is_own = self.owner.swap(cpu, Ordering::Relaxed) == cpu;
        let start = self.free.load(Ordering::Relaxed).max(now);
        let end = start + if is_own { own } else { other };
        self.free.store(end, Ordering::Relaxed);
        end - now
    }

    /// No CPU has it, and time starts anew.
    pub fn forget(&self) {
        self.owner.store(u64::MAX, Ordering::Relaxed);
        self.free.store(0, Ordering::Relaxed);
    }
}

/// No time passes and the hardware is done at the doorbell: what remains is the software.
pub struct Instant;

impl World for Instant {
    #[inline]
    fn execute(_: &Hardware, step: Step) {
        if let Step::Sync { word, value } = step {
            word.store(value, Ordering::Release);
        }
    }
}
