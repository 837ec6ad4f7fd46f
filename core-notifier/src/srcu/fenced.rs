//! Readers that order themselves: one locked operation for each section.

use super::lines::{Announced, Counter, Lines, Own, Place, Way};
use super::mode::{Counters, Rank, Ranks, Readers, Urgency};
use crate::planted::{self, Fault};
use crate::primitive::{Ordering, state_total_order};

/// How many lines there are for sections that have one for themselves. Behind them comes the one that
/// the others share.
#[cfg(not(loom))]
const LINES: usize = 16;
/// One, so that one of two readers of a model has to share.
#[cfg(loom)]
const LINES: usize = 1;

/// The mode that needs nothing from the kernel.
///
/// Costs one locked operation for entry and exit as long as few sections of the domain are open at
/// once, two otherwise.
pub struct Fenced {
    lines: Lines,
}

impl Fenced {
    /// Lines for the sections of one domain, 64 bytes each.
    pub fn new() -> Self {
        Fenced {
            lines: Lines::new(LINES + 1),
        }
    }

    /// As [`new`](Fenced::new), with every section on the shared line.
    #[cfg(loom)]
    #[doc(hidden)]
    pub fn shared_only() -> Self {
        Fenced {
            lines: Lines::new(LINES + 1).shared_only(),
        }
    }

    /// The way to the entrance for new readers on `line`, at most [`LINES`].
    #[inline]
    fn entrance(&self, line: usize) -> Way<'_> {
        debug_assert!(line <= LINES);
        // SAFETY: so it is wherever this is called, and there is one line more than `LINES`.
        unsafe { self.lines.entrance(line) }
    }

    #[inline]
    fn claim_on(&self, line: usize) -> Option<Own<'_>> {
        if self.lines.is_shared_only() {
            return None;
        }
        self.entrance(line).count_in_alone()
    }

    /// Enters a section that was refused on its first line: on the neighbour, or else on the shared
    /// line, which costs another locked operation at the exit.
    #[cold]
    #[inline(never)]
    fn enter_beside(&self) -> Announced<'_> {
        let neighbour = candidate() ^ 1;
        if neighbour < LINES
            && let Some(own) = self.claim_on(neighbour)
        {
            return Place::Own(own).into();
        }
        let counter = self.entrance(LINES).join(Ordering::SeqCst);
        if !planted::is(Fault::JoinUnordered) {
            state_total_order();
        }
        Place::Counter(counter).into()
    }
}

impl Default for Fenced {
    fn default() -> Self {
        Fenced::new()
    }
}

impl Readers for Fenced {
    type Section<'a> = Announced<'a>;

    /// After the entry, which is `SeqCst` too.
    const FOLLOW: Ordering = Ordering::SeqCst;

    fn rank(&self) -> Rank {
        self.lines.rank()
    }

    fn set_rank(&self, rank: Rank) {
        self.lines.set_rank(rank);
    }

    /// On a line of the thread's own if nobody else is on one of two, else on the shared one. Never
    /// waits; legal in an interrupt handler that interrupted this very function.
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
            Place::Counter(counter) => leave_counted(counter),
        }
    }

    #[inline]
    fn claim(&self) -> Option<Own<'_>> {
        self.claim_on(candidate())
    }

    #[inline]
    fn release(&self, own: Own<'_>) {
        own.count_out_alone();
    }

    fn balanced(&self, ranks: Ranks, _urgency: Urgency) -> bool {
        // Acquire: the lock of a section whose unlock is counted is visible to the sum of locks.
        let acquire = planted::weaken(Ordering::Acquire, Fault::SumNotAcquired);
        let sum_unlocks = || self.lines.sum_unlocks(ranks, acquire);
        let sum_locks = || self.lines.sum_locks(ranks);
        if planted::is(Fault::LocksSummedFirst) {
            return sum_locks() == sum_unlocks();
        }
        sum_unlocks() == sum_locks()
    }

    fn find_open(&self) -> Option<(Counters, usize)> {
        let (line, open) = self.lines.find_uneven()?;
        let counters = if line < LINES {
            Counters::Slot(line)
        } else {
            Counters::Shared
        };
        Some((counters, open))
    }
}

/// Release, as from a line of its own.
#[cold]
#[inline(never)]
fn leave_counted(counter: Counter<'_>) {
    counter.count_out(planted::weaken(Ordering::Release, Fault::SharedExitRelaxed));
}

/// The line to try first, likely to differ between threads that run at the same time: which page the
/// stack is in, scattered. Fibonacci hashing: the top bits of the product depend on all of the page.
#[cfg(not(loom))]
#[inline]
fn candidate() -> usize {
    const PAGE_SHIFT: u32 = 12;
    const GOLDEN_RATIO: u64 = 0x9e37_79b9_7f4a_7c15;
    let on_stack = 0_u8;
    let page = (core::ptr::from_ref(&on_stack).addr() as u64) >> PAGE_SHIFT;
    (page.wrapping_mul(GOLDEN_RATIO) >> (u64::BITS - LINES.ilog2())) as usize
}

/// The same for everyone, as loom needs executions that it can repeat.
#[cfg(loom)]
fn candidate() -> usize {
    0
}
