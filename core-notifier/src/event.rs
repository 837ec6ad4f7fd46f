//! What is announced: a range, why it changes, on whose behalf, and whether a notifier may sleep.

use core::fmt;

use crate::range::Range;

/// Why translations change. A notifier may ignore an event only if it can prove that what its
/// device sees does not change; [`Event::Unmap`] is the one to use when in doubt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Event {
    /// A mapping goes away or moves (`munmap`, `mremap`). What the 2017 interface means.
    Unmap,
    /// The entries are cleared, the mapping stays (reclaim, `madvise`, a huge page that is split).
    Clear,
    /// The access rights of a whole mapping change (`mprotect`).
    ProtectionVma,
    /// Single pages are write-protected.
    ProtectionPage,
    /// Writes are to be noticed again; rights and pages stay.
    SoftDirty,
    /// The address space goes away. Only interval notifiers are given this one; the others have
    /// [`Notifier::release`](crate::Notifier::release).
    Release,
    /// Pages move to or from device memory. The owner is the driver that moves them, which need not
    /// be told what it does itself.
    Migrate,
    /// One device gets exclusive access. The owner is that device's driver.
    Exclusive,
}

/// Who causes an invalidation, as far as its own notifier needs to know it again.
///
/// An opaque number: the address of something that the driver owns is a good one.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Owner(usize);

impl Owner {
    /// The owner that `object` stands for. Two objects of size zero may stand for the same.
    pub fn of<T>(object: &T) -> Owner {
        Owner(core::ptr::from_ref(object).addr())
    }

    /// The owner with a number that the caller keeps unique.
    pub const fn from_number(number: usize) -> Owner {
        Owner(number)
    }
}

impl fmt::Debug for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Owner({:#x})", self.0)
    }
}

/// One announcement: what Linux calls `mmu_notifier_range`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Invalidation {
    range: Range,
    event: Event,
    owner: Option<Owner>,
    blockable: bool,
}

impl Invalidation {
    /// `range` changes because of `event`; nobody's in particular, and notifiers may sleep.
    pub const fn new(range: Range, event: Event) -> Invalidation {
        Invalidation {
            range,
            event,
            owner: None,
            blockable: true,
        }
    }

    /// The same on behalf of `owner`.
    pub const fn with_owner(mut self, owner: Owner) -> Invalidation {
        self.owner = Some(owner);
        self
    }

    /// The same with notifiers that may not sleep.
    pub(crate) const fn non_blockable(mut self) -> Invalidation {
        self.blockable = false;
        self
    }

    pub(crate) const fn blockable(mut self) -> Invalidation {
        self.blockable = true;
        self
    }

    /// The virtual addresses whose translations change; never empty where a notifier sees it.
    pub const fn range(&self) -> Range {
        self.range
    }

    /// Why they change.
    pub const fn event(&self) -> Event {
        self.event
    }

    /// On whose behalf, if anybody's.
    pub const fn owner(&self) -> Option<Owner> {
        self.owner
    }

    /// Whether the notifier may sleep. If it may not, it may refuse instead.
    pub const fn is_blockable(&self) -> bool {
        self.blockable
    }

    /// Whether this is what `owner` itself does to its device's pages, and has dealt with:
    /// [`Event::Migrate`] or [`Event::Exclusive`] on its behalf. Its notifier may ignore that.
    pub fn is_own(&self, owner: Owner) -> bool {
        matches!(self.event, Event::Migrate | Event::Exclusive) && self.owner == Some(owner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_migration_and_exclusive_access_are_an_owner_s_own() {
        let (mine, other) = (Owner::from_number(1), Owner::from_number(2));
        for event in [
            Event::Unmap,
            Event::Clear,
            Event::ProtectionVma,
            Event::ProtectionPage,
            Event::SoftDirty,
            Event::Release,
            Event::Migrate,
            Event::Exclusive,
        ] {
            let anonymous = Invalidation::new(Range::ALL, event);
            let owned = anonymous.with_owner(mine);
            let expected = matches!(event, Event::Migrate | Event::Exclusive);
            assert_eq!(owned.is_own(mine), expected);
            assert!(!owned.is_own(other) && !anonymous.is_own(mine));
        }
    }

    #[test]
    fn owners_are_told_apart_by_their_objects() {
        let objects = [0_u8, 0_u8];
        assert_eq!(Owner::of(&objects[0]), Owner::of(&objects[0]));
        assert_ne!(Owner::of(&objects[0]), Owner::of(&objects[1]));
    }
}
