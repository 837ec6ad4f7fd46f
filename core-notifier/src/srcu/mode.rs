//! What a domain asks of the way in which readers announce themselves.

use core::fmt;
use core::num::NonZeroUsize;

use super::lines::Own;
use crate::primitive::Ordering;

/// How the readers of a domain announce themselves: [`Fenced`](super::Fenced),
/// [`Hooked`](super::Hooked), or one of them inside [`Checked`](super::Checked).
///
/// Implemented by this crate only.
pub trait Mode: Readers {}

impl<R: Readers> Mode for R {}

/// Where readers announce themselves, and how their accesses are ordered.
pub trait Readers: Send + Sync + 'static {
    /// An open section.
    type Section<'a>: Copy;

    /// How a pointer is loaded inside a section, so that the load comes after the entry as far as
    /// updaters can see.
    const FOLLOW: Ordering;

    /// The rank that new readers use.
    fn rank(&self) -> Rank;

    /// Sets the rank that new readers use. Those that are under way may come to use the other one.
    fn set_rank(&self, rank: Rank);

    /// Enters a section.
    fn enter(&self) -> Self::Section<'_>;

    /// Leaves `section`, which was entered here. Called once.
    fn leave(&self, section: Self::Section<'_>);

    /// Enters a section if it gets an entrance for itself, and so may leave by
    /// [`release`](Readers::release): for who goes another way otherwise, and need not remember which
    /// it was.
    #[inline]
    fn claim(&self) -> Option<Own<'_>> {
        None
    }

    /// Leaves a section that [`claim`](Readers::claim) has entered here. Called once.
    fn release(&self, own: Own<'_>) {
        let _ = own;
    }

    /// Whether no section of `ranks` is open that may have seen what was unpublished before the
    /// `SeqCst` fence that the caller has behind him. If so, every section of `ranks` that has been
    /// left happens before the return.
    ///
    /// A slot that is seen free is enough: who owned it has left, and who takes it afterwards finds
    /// what was published before. Of sections that are counted, unlocks are summed
    /// before locks: a section whose unlock is counted has had its lock counted then, so a section
    /// that comes and goes between the sums can only make the sums differ. The other way round, its
    /// unlock could stand in for the missing unlock of an older section. For the same reason the
    /// sums of two ranks may be added up: neither can have more unlocks than locks.
    fn balanced(&self, ranks: Ranks, urgency: Urgency) -> bool;

    /// Where sections are open, with their number there, as far as a look at what others are
    /// changing can tell.
    fn find_open(&self) -> Option<(Counters, usize)>;

    /// The context that asks, if the kernel has said how to tell contexts apart.
    fn context(&self) -> Option<NonZeroUsize> {
        None
    }

    /// Whether the context that asks is known to be inside a section.
    fn is_inside(&self) -> bool {
        false
    }
}

/// One of the two ranks that readers announce themselves under.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Rank(usize);

impl Rank {
    pub(super) const FIRST: Rank = Rank(0);

    /// The rank with this [`index`](Rank::index).
    #[inline]
    pub(super) const fn from_index(index: usize) -> Self {
        // The mask spares bounds checks.
        Rank(index & 1)
    }

    /// 0 or 1.
    #[inline]
    pub(super) const fn index(self) -> usize {
        self.0
    }

    /// The rank that this one is not.
    pub(super) const fn other(self) -> Self {
        Rank(self.0 ^ 1)
    }
}

/// One rank, or both.
#[derive(Clone, Copy)]
pub struct Ranks {
    first: usize,
    last: usize,
}

impl Ranks {
    pub(super) const BOTH: Ranks = Ranks { first: 0, last: 1 };

    pub(super) const fn only(rank: Rank) -> Self {
        Ranks {
            first: rank.0,
            last: rank.0,
        }
    }

    pub(super) fn iter(self) -> impl Iterator<Item = Rank> {
        (self.first..=self.last).map(Rank::from_index)
    }
}

/// How much a wait may cost others.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Urgency {
    /// It need not be soon.
    Normal,
    /// As soon as possible.
    Expedited,
}

/// Where in a domain sections are announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Counters {
    /// Where one section at a time is. In hooked mode the number is that of the CPU that it was
    /// entered on.
    Slot(usize),
    /// Where those are that find their slots taken.
    Shared,
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Counters::Slot(slot) => write!(f, "slot {slot}"),
            Counters::Shared => f.write_str("the shared counters"),
        }
    }
}
