//! Readers that are known by the context that they run in.

use core::num::NonZeroUsize;

use super::mode::{Counters, Mode, Rank, Ranks, Readers, Urgency};
use crate::planted::{self, Fault};
use crate::primitive::{AtomicUsize, Ordering};

/// Tells the kernel's contexts apart.
///
/// A context is what runs one thing after another: a thread; an interrupt handler on a CPU, unless
/// it is to pass for the thread that it interrupted.
pub trait Context: Send + Sync + 'static {
    /// A number for the context that this runs in, such as the address of its control block. No
    /// other context that is inside a section, or waits, has the same. A number that changes while
    /// a section is open makes a wait in it go undetected; one that two contexts share makes a wait
    /// of one fail because of the other.
    fn current(&self) -> NonZeroUsize;
}

/// How many open sections are remembered.
const REMEMBERED: usize = 64;

/// The mode `M` with the context of each section remembered, so that a wait inside a section is an
/// error and not a deadlock.
///
/// Costs an exchange at the entry and a store at the exit. Remembers 64 open sections of the domain;
/// further ones are counted as ever, but a wait inside them is not detected.
pub struct Checked<M, C> {
    mode: M,
    context: C,
    /// The contexts of the open sections; 0 is nobody.
    inside: [AtomicUsize; REMEMBERED],
}

impl<M: Mode, C: Context> Checked<M, C> {
    /// As `mode`, with `context` to tell who is inside.
    pub fn new(mode: M, context: C) -> Self {
        Checked {
            mode,
            context,
            inside: core::array::from_fn(|_| AtomicUsize::new(0)),
        }
    }

    fn remember(&self) -> Option<&AtomicUsize> {
        let context = self.context.current().get();
        self.inside.iter().find(|place| {
            place.load(Ordering::Relaxed) == 0
                && place
                    .compare_exchange(0, context, Ordering::Relaxed, Ordering::Relaxed)
                    .is_ok()
        })
    }
}

impl<M: Mode, C: Context> Readers for Checked<M, C> {
    type Section<'a> = Remembered<'a, M::Section<'a>>;

    const FOLLOW: Ordering = M::FOLLOW;

    fn rank(&self) -> Rank {
        self.mode.rank()
    }

    fn set_rank(&self, rank: Rank) {
        self.mode.set_rank(rank);
    }

    #[inline]
    fn enter(&self) -> Remembered<'_, M::Section<'_>> {
        Remembered {
            place: self.remember(),
            section: self.mode.enter(),
        }
    }

    #[inline]
    fn leave(&self, section: Remembered<'_, M::Section<'_>>) {
        self.mode.leave(section.section);
        if let Some(place) = section.place
            && !planted::is(Fault::PlaceNotGivenBack)
        {
            place.store(0, Ordering::Relaxed);
        }
    }

    fn balanced(&self, ranks: Ranks, urgency: Urgency) -> bool {
        self.mode.balanced(ranks, urgency)
    }

    fn find_open(&self) -> Option<(Counters, usize)> {
        self.mode.find_open()
    }

    fn context(&self) -> Option<NonZeroUsize> {
        Some(self.context.current())
    }

    /// Exact for sections that are remembered: a context wrote its own places itself, and nobody
    /// else writes its number.
    fn is_inside(&self) -> bool {
        let context = self.context.current().get();
        self.inside
            .iter()
            .any(|place| place.load(Ordering::Relaxed) == context)
            && !planted::is(Fault::InsideNotNoticed)
    }
}

/// An open section whose context is remembered.
#[derive(Clone, Copy)]
pub struct Remembered<'a, S> {
    section: S,
    place: Option<&'a AtomicUsize>,
}
