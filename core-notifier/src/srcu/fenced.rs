//! Readers that order themselves: one locked operation for each section.

use super::mode::{Counters, Readers, Section, Urgency};
use crate::planted::{self, Fault};
use crate::primitive::{AtomicUsize, Ordering, state_total_order};

/// How many slots readers can own.
#[cfg(not(loom))]
const OWNED: usize = 16;
/// One, so that two readers of a model meet both kinds of slot.
#[cfg(loom)]
const OWNED: usize = 1;

/// Sections entered and left, for each of the two ranks, modulo the word size.
///
/// On a cache line of its own, so that readers on different slots share none.
#[repr(align(64))]
struct Slot {
    locks: [AtomicUsize; 2],
    unlocks: [AtomicUsize; 2],
}

/// An open section in fenced mode.
pub struct OnSlot<'a>(Exit<'a>);

/// How a section leaves the slot that it entered.
enum Exit<'a> {
    /// The section owns the slot's rank: nobody else writes the counter, a plain store will do.
    Owned {
        /// The counter to write.
        unlocks: &'a AtomicUsize,
        /// What to write into it.
        count: usize,
    },
    /// Others write the counter too.
    Shared(&'a AtomicUsize),
}

impl Section for OnSlot<'_> {
    /// Release: everything the section did happens before the grace period that counts this.
    #[inline]
    fn leave(&self) {
        match self.0 {
            Exit::Owned { unlocks, count } => {
                let release = planted::weaken(Ordering::Release, Fault::OwnedExitRelaxed);
                unlocks.store(count, release);
            }
            Exit::Shared(unlocks) => {
                let release = planted::weaken(Ordering::Release, Fault::SharedExitRelaxed);
                unlocks.fetch_add(1, release);
            }
        }
    }
}

impl Slot {
    fn new() -> Self {
        Slot {
            locks: [AtomicUsize::new(0), AtomicUsize::new(0)],
            unlocks: [AtomicUsize::new(0), AtomicUsize::new(0)],
        }
    }

    /// Enters a section if nobody is inside on this rank, and so owns the rank until it leaves.
    ///
    /// `locks` is never behind `unlocks`, and only who moved `locks` to `n + 1` moves `unlocks`
    /// there. So if `locks` still is `n` at the exchange, after `unlocks` was seen to be `n`, both
    /// were `n` and nobody is inside.
    ///
    /// The exchange is the section's one locked operation, and its place in the total order of
    /// `SeqCst` accesses. `Acquire` passes on, through this section's exit, what the previous owner
    /// released with its own: without it a grace period would be ordered after the last owner only.
    #[inline]
    fn claim(&self, rank: usize) -> Option<Exit<'_>> {
        let unlocks = &self.unlocks[rank];
        let count = unlocks.load(Ordering::Acquire);
        let next = count.wrapping_add(1);
        self.locks[rank]
            .compare_exchange(count, next, Ordering::SeqCst, Ordering::Relaxed)
            .ok()?;
        if !planted::is(Fault::ClaimUnordered) {
            state_total_order();
        }
        Some(Exit::Owned {
            unlocks,
            count: next,
        })
    }

    /// Enters a section beside others. Costs a second read-modify-write at the exit.
    fn join(&self, rank: usize) -> Exit<'_> {
        self.locks[rank].fetch_add(1, Ordering::SeqCst);
        if !planted::is(Fault::JoinUnordered) {
            state_total_order();
        }
        Exit::Shared(&self.unlocks[rank])
    }
}

/// The mode that needs nothing from the kernel.
///
/// Costs one locked operation for entry and exit as long as few sections of the domain are open at
/// once, two otherwise.
pub struct Fenced {
    owned: [Slot; OWNED],
    shared: Slot,
}

impl Fenced {
    /// Slots for the sections of one domain, 64 bytes each.
    pub fn new() -> Self {
        Fenced {
            owned: core::array::from_fn(|_| Slot::new()),
            shared: Slot::new(),
        }
    }

    /// Enters a section of `rank` where somebody is inside on `slot` already: on its neighbour, or
    /// else on the shared one.
    #[cold]
    #[inline(never)]
    fn enter_beside(&self, slot: usize, rank: usize) -> OnSlot<'_> {
        let neighbour = self.owned.get(slot ^ 1);
        let exit = neighbour.and_then(|neighbour| neighbour.claim(rank));
        OnSlot(exit.unwrap_or_else(|| self.shared.join(rank)))
    }

    fn slots(&self) -> impl Iterator<Item = &Slot> {
        let shared = if planted::is(Fault::SharedSlotNotCounted) {
            None
        } else {
            Some(&self.shared)
        };
        self.owned.iter().chain(shared)
    }

    fn sum(&self, ranks: &[usize], count: impl Fn(&Slot, usize) -> usize) -> usize {
        self.slots()
            .flat_map(|slot| ranks.iter().map(move |&rank| (slot, rank)))
            .fold(0, |sum, (slot, rank)| sum.wrapping_add(count(slot, rank)))
    }
}

impl Default for Fenced {
    fn default() -> Self {
        Fenced::new()
    }
}

impl Readers for Fenced {
    type Section<'a> = OnSlot<'a>;

    /// After the entry, which is `SeqCst` too.
    const FOLLOW: Ordering = Ordering::SeqCst;

    /// On a slot of the thread's own if one of two is free, else on the shared one. Never waits;
    /// legal in an interrupt handler that interrupted this very function.
    #[inline]
    fn enter(&self, rank: usize) -> OnSlot<'_> {
        let slot = candidate();
        match self.owned[slot].claim(rank) {
            Some(exit) => OnSlot(exit),
            None => self.enter_beside(slot, rank),
        }
    }

    fn balanced(&self, ranks: &[usize], _urgency: Urgency) -> bool {
        // Acquire: the lock of a section whose unlock is counted is visible to the sum of locks.
        let acquire = planted::weaken(Ordering::Acquire, Fault::SumNotAcquired);
        let sum_unlocks = || self.sum(ranks, |slot, rank| slot.unlocks[rank].load(acquire));
        let sum_locks = || self.sum(ranks, |slot, rank| slot.locks[rank].load(Ordering::Relaxed));
        if planted::is(Fault::LocksSummedFirst) {
            return sum_locks() == sum_unlocks();
        }
        sum_unlocks() == sum_locks()
    }

    fn unbalanced(&self, rank: usize) -> Option<(Counters, usize)> {
        self.slots().enumerate().find_map(|(index, slot)| {
            let unlocks = slot.unlocks[rank].load(Ordering::Acquire);
            let locks = slot.locks[rank].load(Ordering::Relaxed);
            let counters = if index < OWNED {
                Counters::Slot(index)
            } else {
                Counters::Shared
            };
            (locks != unlocks).then(|| (counters, locks.wrapping_sub(unlocks)))
        })
    }
}

/// The slot to try first, likely to differ between threads that run at the same time: which page the
/// stack is in, scattered. Fibonacci hashing: the top bits of the product depend on all of the page.
#[cfg(not(loom))]
#[inline]
fn candidate() -> usize {
    const PAGE_SHIFT: u32 = 12;
    const GOLDEN_RATIO: u64 = 0x9e37_79b9_7f4a_7c15;
    const { assert!(OWNED.is_power_of_two()) };
    let on_stack = 0_u8;
    let page = (core::ptr::from_ref(&on_stack).addr() as u64) >> PAGE_SHIFT;
    (page.wrapping_mul(GOLDEN_RATIO) >> (u64::BITS - OWNED.ilog2())) as usize
}

/// The same for everyone, as loom needs executions that it can repeat.
#[cfg(loom)]
fn candidate() -> usize {
    0
}
