//! What a domain asks of the way in which readers announce themselves.

use core::fmt;
use core::num::NonZeroUsize;

use crate::primitive::Ordering;

/// How the readers of a domain announce themselves: [`Fenced`](super::Fenced),
/// [`Hooked`](super::Hooked), or one of them inside [`Checked`](super::Checked).
///
/// Implemented by this crate only.
pub trait Mode: Readers {}

impl<R: Readers> Mode for R {}

/// The readers' counters, and how their accesses are ordered.
///
/// Every section adds one to a lock counter when it is entered and one to an unlock counter of the
/// same rank when it is left.
pub trait Readers: Send + Sync + 'static {
    /// An open section.
    type Section<'a>: Section;

    /// How a pointer is loaded inside a section, so that the load comes after the entry as far as
    /// updaters can see.
    const FOLLOW: Ordering;

    /// Enters a section of `rank`, which is 0 or 1.
    fn enter(&self, rank: usize) -> Self::Section<'_>;

    /// Whether no section of `ranks` is open that may have seen what was unpublished before the
    /// `SeqCst` fence that the caller has behind him. If so, every section of `ranks` that has been
    /// left happens before the return.
    ///
    /// Unlocks are summed before locks: a section whose unlock is counted has had its lock counted
    /// then, so a section that comes and goes between the sums can only make the sums differ. The
    /// other way round, its unlock could stand in for the missing unlock of an older section. For the
    /// same reason the sums of two ranks may be added up: neither can have more unlocks than locks.
    fn balanced(&self, ranks: &[usize], urgency: Urgency) -> bool;

    /// The counters of `rank` that do not balance, with the number of sections that are open there
    /// as far as counters that others are changing can tell.
    fn unbalanced(&self, rank: usize) -> Option<(Counters, usize)>;

    /// The context that asks, if the kernel has said how to tell contexts apart.
    fn context(&self) -> Option<NonZeroUsize> {
        None
    }

    /// Whether the context that asks is known to be inside a section.
    fn is_inside(&self) -> bool {
        false
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

/// An open section of [`Readers`].
pub trait Section {
    /// Leaves it. Called once.
    fn leave(&self);
}

/// Which counters of a domain a section was counted on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Counters {
    /// Fenced: a slot that sections own one after the other.
    Slot(usize),
    /// Fenced: the slot that sections share when they find none to own.
    Shared,
    /// Hooked: the counters of all CPUs, as a section may leave on another than it entered on.
    AllCpus,
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Counters::Slot(slot) => write!(f, "slot {slot}"),
            Counters::Shared => f.write_str("the shared slot"),
            Counters::AllCpus => f.write_str("all CPUs"),
        }
    }
}
