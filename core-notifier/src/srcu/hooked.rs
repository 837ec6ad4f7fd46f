//! Readers that are found by CPU, without a locked operation and without a fence.

use core::sync::atomic::compiler_fence;

use super::lines::{Announced, Counter, Lines, Own, Place, Way};
use super::mode::{Counters, Rank, Ranks, Readers, Urgency};
use crate::planted::{self, Fault};
use crate::primitive::Ordering;

/// What a kernel supplies so that readers need neither a locked operation nor a fence.
///
/// # Safety
///
/// ## Duties of who implements it
///
/// - [`cpus`](Hooks::cpus) always returns the same number, at least 1.
/// - [`with_cpu`](Hooks::with_cpu) calls what it is given exactly once, with a number below `cpus`.
///   Unless [`EXCLUSIVE`](Hooks::EXCLUSIVE) is false, that is the number of the CPU that the call
///   runs on, and from before the number was read until the call has returned nothing else calls
///   `with_cpu` on that CPU. Nothing that the call does is moved past the return, neither by the
///   compiler nor by an instruction that the hook issues after it.
/// - [`barrier`](Hooks::barrier) and [`barrier_expedited`](Hooks::barrier_expedited) return only
///   after every CPU has executed a full memory barrier between the call and the return, the caller's
///   own CPU at the call and at the return. A full memory barrier orders every load and store before
///   it against every load and store after it, as seen by all. CPUs on which no read section can be
///   open and none be being entered or left (offline, or in a state left only through a full barrier)
///   may be left out.
/// - When a thread moves to another CPU, what it did before on the old one is ordered by a full
///   barrier before what it does on the new one, as every scheduler's handover is.
///
/// ## Duties of who calls it
///
/// Only this crate does. `with_cpu` is called at the entry of every section and at the exit of some,
/// in whatever context the kernel enters sections, and must be legal there. What it is given is some
/// ten instructions long. `barrier` is called by whoever drives a grace period and may sleep where
/// [`Srcu::synchronize`](crate::Srcu::synchronize) may; `barrier_expedited` likewise, by
/// [`Srcu::synchronize_expedited`](crate::Srcu::synchronize_expedited).
///
/// A section may sleep and may end on another CPU than it began on: nothing is promised between the
/// calls of `with_cpu`.
pub unsafe trait Hooks: Send + Sync + 'static {
    /// Whether [`with_cpu`](Hooks::with_cpu) keeps everything else that enters or leaves sections
    /// off its CPU: notifications run with pre-emption off, or the hook turns it off; if interrupt
    /// handlers enter sections, the same for interrupts.
    ///
    /// If not, entries cost an atomic exchange (a locked operation on x86), and some exits an atomic
    /// addition; the number may then be out of date, but all is faster if it is not.
    const EXCLUSIVE: bool = true;

    /// How many CPUs there can be; their numbers are below it.
    fn cpus(&self) -> usize;

    /// Calls `work` with the number of the CPU that this runs on.
    fn with_cpu<R>(&self, work: impl FnOnce(usize) -> R) -> R;

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

/// The mode in which the kernel supplies the CPU's number and a barrier on all CPUs.
///
/// Entry and exit are one plain store each, to the CPU's slot; if another section has that (nested,
/// or asleep), one plain addition each. The updater pays for the ordering with [`Hooks::barrier`],
/// once for a grace period that finds no reader.
pub struct Hooked<H> {
    lines: Lines,
    hooks: H,
}

impl<H: Hooks> Hooked<H> {
    /// Slots and counters for all CPUs of `hooks`, 64 bytes each.
    pub fn new(hooks: H) -> Self {
        Hooked {
            lines: Lines::new(hooks.cpus()),
            hooks,
        }
    }

    /// As [`new`](Hooked::new), with every section counted.
    #[cfg(loom)]
    #[doc(hidden)]
    pub fn shared_only(hooks: H) -> Self {
        let Hooked { lines, hooks } = Hooked::new(hooks);
        Hooked {
            lines: lines.shared_only(),
            hooks,
        }
    }

    /// The way to the entrance for new readers on `cpu`, a number that [`Hooks::with_cpu`] has given.
    #[inline]
    fn entrance(&self, cpu: usize) -> Way<'_> {
        // SAFETY: the number is below `Hooks::cpus`, as its implementer promises.
        unsafe { self.lines.entrance(cpu) }
    }

    /// Enters a section on a CPU whose slot is owned.
    #[cold]
    #[inline(never)]
    fn enter_beside(&self) -> Announced<'_> {
        let counter = self.hooks.with_cpu(|cpu| {
            if H::EXCLUSIVE {
                self.entrance(cpu).join_alone()
            } else {
                self.entrance(cpu).join(Ordering::Relaxed)
            }
        });
        // Partner: the barrier in `balanced`.
        compiler_fence(Ordering::SeqCst);
        Place::Counter(counter).into()
    }

    #[cold]
    #[inline(never)]
    fn leave_counted(&self, counter: Counter<'_>) {
        // Partner: the barrier in `balanced`.
        compiler_fence(Ordering::SeqCst);
        if H::EXCLUSIVE {
            self.hooks.with_cpu(|cpu| {
                // SAFETY: the number is below `Hooks::cpus`, as its implementer promises.
                unsafe { self.lines.entrance_like(cpu, counter) }.leave_alone();
            });
        } else {
            counter.count_out(Ordering::Relaxed);
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
}

impl<H: Hooks> Readers for Hooked<H> {
    type Section<'a> = Announced<'a>;

    /// Finds what the pointer's store released. The order against the entry is the updater's
    /// business.
    const FOLLOW: Ordering = Ordering::Acquire;

    fn rank(&self) -> Rank {
        self.lines.rank()
    }

    fn set_rank(&self, rank: Rank) {
        self.lines.set_rank(rank);
    }

    #[inline]
    fn enter(&self) -> Announced<'_> {
        match self.claim() {
            Some(own) => Place::Own(own).into(),
            None => self.enter_beside(),
        }
    }

    #[inline]
    fn leave(&self, section: Announced<'_>) {
        match section.place() {
            Place::Own(own) => self.release(own),
            Place::Counter(counter) => self.leave_counted(counter),
        }
    }

    #[inline]
    fn claim(&self) -> Option<Own<'_>> {
        if self.lines.is_shared_only() {
            return None;
        }
        let own = self.hooks.with_cpu(|cpu| {
            if H::EXCLUSIVE {
                self.entrance(cpu).claim_alone()
            } else {
                self.entrance(cpu).claim()
            }
        });
        // Partner: the barrier in `balanced`.
        compiler_fence(Ordering::SeqCst);
        own
    }

    #[inline]
    fn release(&self, own: Own<'_>) {
        own.free();
    }

    /// The one barrier serves three ends. A section that was counted out comes before it, with its
    /// lock and all its accesses. A section whose lock or mark in a slot is missed behind it was
    /// entered after it, and finds what was published before.
    fn balanced(&self, ranks: Ranks, urgency: Urgency) -> bool {
        let sum_unlocks = || self.lines.sum_unlocks(ranks, Ordering::Relaxed);
        let sum_locks = || self.lines.sum_locks(ranks);
        let all_free = || !self.lines.is_any_owned(ranks);
        if planted::is(Fault::BarrierBeforeUnlocks) {
            self.barrier(urgency);
            return sum_unlocks() == sum_locks() && all_free();
        }
        if planted::is(Fault::HookedLocksSummedFirst) {
            let locks = sum_locks();
            self.barrier(urgency);
            return sum_unlocks() == locks && all_free();
        }
        let unlocks = sum_unlocks();
        // Without a barrier this proves nothing, but if it fails no barrier would help.
        if unlocks != sum_locks() || !all_free() {
            return false;
        }
        // Partners: the compiler fences at entries and in `leave_counted`.
        self.barrier(urgency);
        (planted::is(Fault::BarrierAfterLocks) || unlocks == sum_locks())
            && (planted::is(Fault::BarrierAfterSlots) || all_free())
    }

    fn find_open(&self) -> Option<(Counters, usize)> {
        if let Some(cpu) = self.lines.find_owned() {
            return Some((Counters::Slot(cpu), 1));
        }
        let unlocks = self.lines.sum_unlocks(Ranks::BOTH, Ordering::Acquire);
        let open = self.lines.sum_locks(Ranks::BOTH).wrapping_sub(unlocks);
        (open != 0).then_some((Counters::Shared, open))
    }
}
