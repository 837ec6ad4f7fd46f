//! Where sections announce themselves: a slot for one at a time, counters for those beside it.

use alloc::vec::Vec;
use core::marker::PhantomData;
use core::ops::Deref;
use core::ptr::{self, NonNull};

use super::mode::{Rank, Ranks};
use crate::planted::{self, Fault};
use crate::primitive::{AtomicPtr, AtomicUsize, Ordering, state_total_order};

const FREE: usize = 0;
const OWNED: usize = 1;

/// Where sections of one rank announce themselves.
#[repr(C, align(32))]
pub(super) struct Entrance {
    /// [`OWNED`] while a section is open that is announced here and nowhere else.
    slot: AtomicUsize,
    /// Sections entered and left that are counted, modulo the word size.
    locks: AtomicUsize,
    unlocks: AtomicUsize,
}

/// Entrances for both ranks, on a cache line of their own, so that readers on different lines share
/// none.
#[repr(C, align(64))]
struct Line([Entrance; 2]);

/// The lines of a domain, one for each CPU or a fixed number.
pub(super) struct Lines {
    /// The first line's entrance for the rank that new readers use, so that one load tells a reader
    /// both the rank and where the lines are.
    entrance: AtomicPtr<Entrance>,
    /// Neither grows nor shrinks.
    lines: Vec<Line>,
    /// Whether no section is to have an entrance for itself.
    #[cfg(loom)]
    shared_only: bool,
}

/// The way to an entrance, in two parts that a machine adds up in the access itself. As one address
/// it would cost every section an instruction more.
#[derive(Clone, Copy)]
pub(super) struct Way<'a> {
    /// The entrance for the same rank on the first line.
    first: NonNull<Entrance>,
    /// How many bytes behind that it lies.
    behind: usize,
    _lines: PhantomData<&'a Lines>,
}

/// Where an open section is announced.
#[derive(Clone, Copy)]
pub(super) enum Place<'a> {
    /// On an entrance that it has for itself.
    Own(Own<'a>),
    /// By the counters of the entrance that it was counted in on.
    Counter(Counter<'a>),
}

/// A [`Place`], in as much as an open section keeps: a way whose [`COUNTED`] bit says which it is.
#[derive(Clone, Copy)]
pub struct Announced<'a>(Way<'a>);

/// Free in every [`Way::behind`], as entrances are aligned.
const COUNTED: usize = 1;

/// An entrance that an open section has for itself: its slot or its `unlocks`, as its mode has it.
#[derive(Clone, Copy)]
pub struct Own<'a>(Way<'a>);

/// The entrance that an open section was counted in on.
#[derive(Clone, Copy)]
pub(super) struct Counter<'a>(Way<'a>);

impl Lines {
    pub(super) fn new(count: usize) -> Self {
        let entrance = || Entrance {
            slot: AtomicUsize::new(FREE),
            locks: AtomicUsize::new(0),
            unlocks: AtomicUsize::new(0),
        };
        let lines = Lines {
            entrance: AtomicPtr::new(ptr::null_mut()),
            lines: (0..count).map(|_| Line([entrance(), entrance()])).collect(),
            #[cfg(loom)]
            shared_only: false,
        };
        lines.set_rank(Rank::FIRST);
        lines
    }

    /// The same, on which no section has an entrance for itself.
    #[cfg(loom)]
    pub(super) fn shared_only(mut self) -> Self {
        self.shared_only = true;
        self
    }

    /// Whether no section is to have an entrance for itself, as in some models.
    #[inline]
    pub(super) fn is_shared_only(&self) -> bool {
        #[cfg(loom)]
        return self.shared_only;
        #[cfg(not(loom))]
        false
    }

    /// The rank that new readers use.
    pub(super) fn rank(&self) -> Rank {
        let first = self.entrance.load(Ordering::Relaxed).cast_const();
        Rank::from_index(usize::from(first != self.first_entrance(Rank::FIRST)))
    }

    /// Sets the rank that new readers use.
    pub(super) fn set_rank(&self, rank: Rank) {
        let first = self.first_entrance(rank).cast_mut();
        self.entrance.store(first, Ordering::Relaxed);
    }

    fn first_entrance(&self, rank: Rank) -> *const Entrance {
        let entrances = self.lines.as_ptr().cast::<Entrance>();
        entrances.wrapping_add(rank.index())
    }

    /// The way to the entrance for new readers on `line`.
    ///
    /// # Safety
    ///
    /// There is such a line.
    #[inline]
    pub(super) unsafe fn entrance(&self, line: usize) -> Way<'_> {
        debug_assert!(line < self.lines.len(), "no such line");
        let first = self.entrance.load(Ordering::Relaxed);
        Way {
            // SAFETY: `set_rank` stored a pointer to an entrance.
            first: unsafe { NonNull::new_unchecked(first) },
            behind: line * size_of::<Line>(),
            _lines: PhantomData,
        }
    }

    /// The way to the entrance on `line` for the rank of `counter`, which is one of these lines'.
    ///
    /// # Safety
    ///
    /// There is such a line.
    pub(super) unsafe fn entrance_like<'a>(&self, line: usize, counter: Counter<'a>) -> Way<'a> {
        debug_assert!(line < self.lines.len(), "no such line");
        Way {
            behind: line * size_of::<Line>(),
            ..counter.0
        }
    }

    /// The entrances of `ranks`, each with the number of its line.
    fn entrances(&self, ranks: Ranks) -> impl Iterator<Item = (usize, &Entrance)> {
        let left_out = usize::from(planted::is(Fault::LastLineNotLookedAt));
        let lines = &self.lines[..self.lines.len() - left_out];
        lines.iter().enumerate().flat_map(move |(number, line)| {
            ranks
                .iter()
                .map(move |rank| (number, &line.0[rank.index()]))
        })
    }

    /// Whether a section of `ranks` owns a slot. Acquire: sections that have freed theirs happen
    /// before.
    pub(super) fn is_any_owned(&self, ranks: Ranks) -> bool {
        let acquire = planted::weaken(Ordering::Acquire, Fault::SlotNotAcquired);
        self.entrances(ranks)
            .any(|(_, entrance)| entrance.slot.load(acquire) == OWNED)
            && !planted::is(Fault::SlotsNotLookedAt)
    }

    /// Sections of `ranks` that were counted in.
    pub(super) fn sum_locks(&self, ranks: Ranks) -> usize {
        self.entrances(ranks).fold(0, |sum, (_, entrance)| {
            sum.wrapping_add(entrance.locks.load(Ordering::Relaxed))
        })
    }

    /// Sections of `ranks` that were counted out.
    pub(super) fn sum_unlocks(&self, ranks: Ranks, ordering: Ordering) -> usize {
        self.entrances(ranks).fold(0, |sum, (_, entrance)| {
            sum.wrapping_add(entrance.unlocks.load(ordering))
        })
    }

    /// The number of the first line on which a section owns its slot.
    pub(super) fn find_owned(&self) -> Option<usize> {
        let owned =
            |&(_, entrance): &(usize, &Entrance)| entrance.slot.load(Ordering::Relaxed) == OWNED;
        self.entrances(Ranks::BOTH)
            .find(owned)
            .map(|(line, _)| line)
    }

    /// The number of the first line on which more sections were counted in than out, and how many
    /// more.
    pub(super) fn find_uneven(&self) -> Option<(usize, usize)> {
        self.entrances(Ranks::BOTH).find_map(|(line, entrance)| {
            let unlocks = entrance.unlocks.load(Ordering::Acquire);
            let open = entrance.locks.load(Ordering::Relaxed).wrapping_sub(unlocks);
            (open != 0).then_some((line, open))
        })
    }
}

impl Deref for Way<'_> {
    type Target = Entrance;

    #[inline]
    fn deref(&self) -> &Entrance {
        // SAFETY: `set_rank` stored a pointer to an entrance of the first line with the provenance
        // of all lines, which `_lines` borrows; who made the way says that there is a line so far
        // behind it.
        unsafe { self.first.byte_add(self.behind).as_ref() }
    }
}

impl<'a> Way<'a> {
    /// Takes the slot if nobody owns it, by an exchange; else that changes nothing.
    ///
    /// Acquire passes on, through this section's exit, what the previous owner released with its
    /// own. Without it a grace period would be ordered after the last owner only.
    #[inline]
    pub(super) fn claim(self) -> Option<Own<'a>> {
        if self.slot.swap(OWNED, Ordering::Acquire) != FREE {
            return None;
        }
        Some(Own(self))
    }

    /// As [`claim`](Way::claim), by a load and a store. The load feeds a branch that is
    /// predicted, so nothing waits for it.
    ///
    /// Only if nothing else claims this slot between the two.
    #[inline]
    pub(super) fn claim_alone(self) -> Option<Own<'a>> {
        let acquire = planted::weaken(Ordering::Acquire, Fault::ClaimNotAcquired);
        if self.slot.load(acquire) != FREE && !planted::is(Fault::ClaimWithoutLook) {
            return None;
        }
        self.slot.store(OWNED, Ordering::Relaxed);
        Some(Own(self))
    }

    /// Counts a section in if nobody else is counted here, so that it may leave by a store.
    ///
    /// `locks` less `unlocks` is how many are inside or asking, the asker included. If it is one,
    /// with the older look at `unlocks`, which only grows, then nobody else is inside; and who asks
    /// afterwards finds two. Two who ask at the same time may both be refused. Whoever is refused
    /// takes itself out of `locks` again.
    ///
    /// The addition is the section's one locked operation, and its place in the total order of
    /// `SeqCst` accesses. Its result is not used, but looked up: a locked operation that returns one
    /// takes longer on x86. Acquire as for [`claim`](Way::claim).
    #[inline]
    pub(super) fn count_in_alone(self) -> Option<Own<'a>> {
        let alone = self.unlocks.load(Ordering::Acquire).wrapping_add(1);
        self.locks.fetch_add(1, Ordering::SeqCst);
        if !planted::is(Fault::ClaimUnordered) {
            state_total_order();
        }
        if self.locks.load(Ordering::Relaxed) != alone && !planted::is(Fault::AloneAnyway) {
            self.take_back();
            return None;
        }
        Some(Own(self))
    }

    /// Takes back the addition of who is refused.
    #[cold]
    #[inline(never)]
    fn take_back(self) {
        self.locks.fetch_sub(1, Ordering::Relaxed);
    }

    /// Counts a section in, beside the slot's owner.
    pub(super) fn join(self, ordering: Ordering) -> Counter<'a> {
        self.locks.fetch_add(1, ordering);
        Counter(self)
    }

    /// As [`join`](Way::join), by a load and a store. Only if nothing else changes the counter
    /// between the two.
    pub(super) fn join_alone(self) -> Counter<'a> {
        increment(&self.locks);
        Counter(self)
    }

    /// Counts a section out here that was counted in here or elsewhere, by a load and a store. Only
    /// if nothing else changes the counter between the two.
    pub(super) fn leave_alone(self) {
        increment(&self.unlocks);
    }
}

impl<'a> From<Place<'a>> for Announced<'a> {
    #[inline]
    fn from(place: Place<'a>) -> Self {
        match place {
            Place::Own(Own(way)) => Announced(way),
            Place::Counter(Counter(way)) => Announced(Way {
                behind: way.behind | COUNTED,
                ..way
            }),
        }
    }
}

impl<'a> Announced<'a> {
    /// Where that is.
    #[inline]
    pub(super) fn place(self) -> Place<'a> {
        let Announced(way) = self;
        if way.behind & COUNTED == 0 {
            return Place::Own(Own(way));
        }
        Place::Counter(Counter(Way {
            behind: way.behind - COUNTED,
            ..way
        }))
    }
}

impl Own<'_> {
    /// Counts the section out; nobody else writes the counter meanwhile. Release: everything the
    /// section did happens before the grace period that counts this.
    #[inline]
    pub(super) fn count_out_alone(self) {
        let release = planted::weaken(Ordering::Release, Fault::OwnExitRelaxed);
        let count = self.0.unlocks.load(Ordering::Relaxed);
        self.0.unlocks.store(count.wrapping_add(1), release);
    }

    /// Frees the slot; nobody else writes it while it is owned. Release: everything the section did
    /// happens before the grace period that finds the slot free.
    #[inline]
    pub(super) fn free(self) {
        let release = planted::weaken(Ordering::Release, Fault::SlotExitRelaxed);
        self.0.slot.store(FREE, release);
    }
}

impl Counter<'_> {
    /// Counts the section out where it was counted in.
    pub(super) fn count_out(self, ordering: Ordering) {
        self.0.unlocks.fetch_add(1, ordering);
    }
}

/// One instruction where the machine has it.
#[inline]
fn increment(counter: &AtomicUsize) {
    let count = counter.load(Ordering::Relaxed);
    counter.store(count.wrapping_add(1), Ordering::Relaxed);
}
