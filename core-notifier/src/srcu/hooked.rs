//! Readers that are counted by CPU, without a locked operation and without a fence.

use alloc::boxed::Box;
use core::sync::atomic::compiler_fence;

use super::mode::{Counters, Readers, Section, Urgency};
use crate::planted::{self, Fault};
use crate::primitive::{AtomicUsize, Ordering};

/// What a kernel supplies so that readers need neither a locked operation nor a fence.
///
/// # Safety
///
/// ## Duties of who implements it
///
/// - [`cpus`](Hooks::cpus) always returns the same number, at least 1.
/// - [`increment`](Hooks::increment) adds one, exactly once, to the counter of one CPU, by one of
///   the two methods of [`CpuCounter`] under its contract. The addition is not moved, neither by the
///   compiler nor by an instruction that the hook issues after it, past the return.
/// - [`barrier`](Hooks::barrier) and [`barrier_expedited`](Hooks::barrier_expedited) return only
///   after every CPU has executed a full memory barrier between the call and the return, the caller's
///   own CPU at the call and at the return. A full memory barrier orders every load and store before
///   it against every load and store after it, as seen by all. CPUs on which no read section can be
///   open and no addition be under way (offline, or in a state left only through a full barrier) may
///   be left out.
/// - When a thread moves to another CPU, what it did before on the old one is ordered by a full
///   barrier before what it does on the new one, as every scheduler's handover is.
///
/// ## Duties of who calls it
///
/// Only this crate does. `increment` is called at the entry and exit of a section, in whatever
/// context the kernel enters sections, and must be legal there. `barrier` is called by whoever
/// drives a grace period and may sleep where [`Srcu::synchronize`](crate::Srcu::synchronize) may;
/// `barrier_expedited` likewise, by [`Srcu::synchronize_expedited`](crate::Srcu::synchronize_expedited).
///
/// A section may sleep and may end on another CPU than it began on. Only the addition itself must
/// not be torn.
pub unsafe trait Hooks: Send + Sync + 'static {
    /// How many CPUs there can be; their numbers are below it.
    fn cpus(&self) -> usize;

    /// Adds one to `counter` on the CPU that this runs on.
    ///
    /// Either the kernel promises that between reading the CPU's number and the end of the addition
    /// nothing else that enters or leaves a section runs on this CPU (notifications run with
    /// pre-emption off, or the hook turns it off, or a restartable sequence repeats the addition; if
    /// interrupt handlers enter sections, the same for interrupts): then it calls
    /// [`CpuCounter::increment`]. Or it does not promise that, and calls
    /// [`CpuCounter::increment_shared`], which costs an atomic addition without ordering (on Arm
    /// `STADD`, on RISC-V `AMOADD`, on x86 a locked operation).
    fn increment(&self, counter: CpuCounter<'_>);

    /// Makes every CPU execute a full memory barrier, and returns when all have: an
    /// inter-processor interrupt to each, `membarrier`, or a wait until each CPU has passed through
    /// the scheduler.
    fn barrier(&self);

    /// As [`barrier`](Hooks::barrier), as soon as possible, at the expense of the other CPUs. The same
    /// as `barrier` unless the kernel has two ways.
    fn barrier_expedited(&self) {
        self.barrier();
    }
}

/// The counters of one CPU for each rank, modulo the word size, on a cache line of their own.
#[repr(align(64))]
struct Cpu {
    locks: [AtomicUsize; 2],
    unlocks: [AtomicUsize; 2],
}

/// Which of a CPU's counters.
#[derive(Clone, Copy)]
enum Kind {
    Lock,
    Unlock,
}

/// A counter that every CPU has one of.
#[derive(Clone, Copy)]
pub struct CpuCounter<'a> {
    cpus: &'a [Cpu],
    kind: Kind,
    rank: usize,
}

impl CpuCounter<'_> {
    /// Adds one to the counter of `cpu` by a load and a store, one instruction where the
    /// architecture has it.
    ///
    /// # Safety
    ///
    /// `cpu` is below [`Hooks::cpus`]. From before `cpu` was read as the number of the CPU that this
    /// runs on until this returns, nothing else adds to a counter of `cpu`.
    #[inline]
    pub unsafe fn increment(self, cpu: usize) {
        // SAFETY: the caller says so.
        let counter = unsafe { self.of(cpu) };
        let count = counter.load(Ordering::Relaxed);
        counter.store(count.wrapping_add(1), Ordering::Relaxed);
    }

    /// Adds one to the counter of `cpu` by an atomic addition. `cpu` need not be the CPU that this
    /// runs on; it is faster if it is.
    ///
    /// # Safety
    ///
    /// `cpu` is below [`Hooks::cpus`]. Nothing ever calls [`increment`](CpuCounter::increment) in the
    /// same domain.
    #[inline]
    pub unsafe fn increment_shared(self, cpu: usize) {
        // SAFETY: the caller says so.
        let counter = unsafe { self.of(cpu) };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// # Safety
    ///
    /// `cpu` is below [`Hooks::cpus`].
    #[inline]
    unsafe fn of(&self, cpu: usize) -> &AtomicUsize {
        debug_assert!(cpu < self.cpus.len(), "no such CPU");
        // SAFETY: there is one entry for each CPU.
        let cpu = unsafe { self.cpus.get_unchecked(cpu) };
        let counters = match self.kind {
            Kind::Lock => &cpu.locks,
            Kind::Unlock => &cpu.unlocks,
        };
        // The mask spares the bounds check.
        &counters[self.rank & 1]
    }
}

/// The mode in which the kernel supplies the CPU's number and a barrier on all CPUs.
///
/// Entry and exit are one plain addition each; the updater pays for the ordering with
/// [`Hooks::barrier`], once for a grace period that finds no reader.
pub struct Hooked<H> {
    hooks: H,
    cpus: Box<[Cpu]>,
}

impl<H: Hooks> Hooked<H> {
    /// Counters for all CPUs of `hooks`, 64 bytes each.
    pub fn new(hooks: H) -> Self {
        let cpus = (0..hooks.cpus())
            .map(|_| Cpu {
                locks: [AtomicUsize::new(0), AtomicUsize::new(0)],
                unlocks: [AtomicUsize::new(0), AtomicUsize::new(0)],
            })
            .collect();
        Hooked { hooks, cpus }
    }

    #[inline]
    fn counter(&self, kind: Kind, rank: usize) -> CpuCounter<'_> {
        CpuCounter {
            cpus: &self.cpus,
            kind,
            rank,
        }
    }

    fn barrier(&self, urgency: Urgency) {
        if planted::is(Fault::BarrierLeftOut) {
            return;
        }
        match urgency {
            Urgency::Expedited if !planted::is(Fault::ExpeditedBroadcastNotUsed) => {
                self.hooks.barrier_expedited();
            }
            _ => self.hooks.barrier(),
        }
    }

    fn sum(&self, ranks: &[usize], counters: impl Fn(&Cpu) -> &[AtomicUsize; 2]) -> usize {
        let left_out = usize::from(planted::is(Fault::LastCpuNotCounted));
        self.cpus[..self.cpus.len() - left_out]
            .iter()
            .flat_map(|cpu| ranks.iter().map(|&rank| &counters(cpu)[rank]))
            .fold(0, |sum, counter| {
                sum.wrapping_add(counter.load(Ordering::Relaxed))
            })
    }
}

impl<H: Hooks> Readers for Hooked<H> {
    type Section<'a> = CountedByCpu<'a, H>;

    /// Finds what the pointer's store released. The order against the entry is the updater's
    /// business.
    const FOLLOW: Ordering = Ordering::Acquire;

    #[inline]
    fn enter(&self, rank: usize) -> CountedByCpu<'_, H> {
        let unlocks = self.counter(Kind::Unlock, rank);
        self.hooks.increment(self.counter(Kind::Lock, rank));
        // Partner: the barrier in `balanced`.
        compiler_fence(Ordering::SeqCst);
        CountedByCpu {
            hooks: &self.hooks,
            unlocks,
        }
    }

    /// The one barrier serves three ends. A section whose unlock was counted comes before it, with
    /// its lock and all its accesses. A section whose lock is missed by the second sum was entered
    /// after it, and finds what was published before.
    fn balanced(&self, ranks: &[usize], urgency: Urgency) -> bool {
        let sum_unlocks = || self.sum(ranks, |cpu| &cpu.unlocks);
        let sum_locks = || self.sum(ranks, |cpu| &cpu.locks);
        if planted::is(Fault::BarrierBeforeUnlocks) {
            self.barrier(urgency);
            return sum_unlocks() == sum_locks();
        }
        if planted::is(Fault::HookedLocksSummedFirst) {
            let locks = sum_locks();
            self.barrier(urgency);
            return sum_unlocks() == locks;
        }
        let unlocks = sum_unlocks();
        // Without a barrier this proves nothing, but if it fails no barrier would help.
        if unlocks != sum_locks() {
            return false;
        }
        // Partners: the compiler fences in `enter` and `leave`.
        self.barrier(urgency);
        planted::is(Fault::BarrierAfterLocks) || unlocks == sum_locks()
    }

    fn unbalanced(&self, rank: usize) -> Option<(Counters, usize)> {
        let unlocks = self.sum(&[rank], |cpu| &cpu.unlocks);
        let open = self.sum(&[rank], |cpu| &cpu.locks).wrapping_sub(unlocks);
        (open != 0).then_some((Counters::AllCpus, open))
    }
}

/// An open section in hooked mode.
pub struct CountedByCpu<'a, H: Hooks> {
    hooks: &'a H,
    unlocks: CpuCounter<'a>,
}

impl<H: Hooks> Section for CountedByCpu<'_, H> {
    #[inline]
    fn leave(&self) {
        // Partner: the barrier in `balanced`.
        compiler_fence(Ordering::SeqCst);
        self.hooks.increment(self.unlocks);
    }
}
