//! The invalidations of an address space: how many are open, and in which period.

use crate::planted::{self, Fault};
use crate::primitive::{AtomicUsize, Ordering, fence};

/// Bits for the number of open invalidations: 16 million of them on a 64-bit machine, more than it
/// has threads; 4096 on a 32-bit one.
const ACTIVE_BITS: u32 = usize::BITS / 8 * 3;
const ACTIVE: usize = (1 << ACTIVE_BITS) - 1;
/// One step of the sequence, which takes the bits above and wraps around.
const STEP: usize = 1 << ACTIVE_BITS;

/// Periods until the first wrap-around: few, so that every kernel and every test crosses it.
const PERIODS_BEFORE_WRAP: usize = 16;

/// A point in the history of the invalidations of one address space.
///
/// Odd while a period is open, that is from the first invalidation that meets a subscription until
/// none is open; even otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sequence(usize);

impl Sequence {
    /// Even, so no period has it.
    pub(super) const NONE: Sequence = Sequence(0);

    pub(super) fn is_open(self) -> bool {
        self.0 & STEP != 0
    }

    pub(super) fn to_bits(self) -> usize {
        self.0
    }

    pub(super) fn from_bits(bits: usize) -> Self {
        Sequence(bits)
    }

    fn of(word: usize) -> Self {
        Sequence(word & !ACTIVE)
    }
}

/// Too many invalidations are open to count one more.
pub(super) struct Saturated;

/// The sequence and the number of open invalidations in one word, since a period must end in the
/// same instant in which the last invalidation does: a start that came between would tell its
/// subscribers of a period that is over.
pub(super) struct State(AtomicUsize);

impl State {
    pub(super) fn new() -> Self {
        State(AtomicUsize::new(
            (2 * PERIODS_BEFORE_WRAP * STEP).wrapping_neg(),
        ))
    }

    /// The present sequence.
    pub(super) fn sequence(&self) -> Sequence {
        // Acquire: who sees that a period is over sees what was changed during it.
        Sequence::of(self.0.load(Ordering::Acquire))
    }

    /// Counts one more open invalidation. `SeqCst`, and before the index is read: either that read
    /// finds a new subscription, or its insertion finds this invalidation in `after_insertion`.
    pub(super) fn enter(&self) -> Result<(), Saturated> {
        let entered = self
            .0
            .fetch_update(Ordering::SeqCst, Ordering::Relaxed, |word| {
                (word & ACTIVE != ACTIVE).then_some(word.wrapping_add(1))
            });
        entered.map(drop).map_err(|_| Saturated)
    }

    /// An invalidation that was counted has met a subscription: opens the period, if it is not open
    /// already, and returns its sequence.
    pub(super) fn collide(&self) -> Sequence {
        Sequence::of(self.0.fetch_or(STEP, Ordering::SeqCst) | STEP)
    }

    /// An invalidation has ended; the last one of a period ends it. Says whether one ended, or
    /// `None` if no invalidation was open.
    pub(super) fn leave(&self) -> Option<bool> {
        let released = planted::weaken(Ordering::SeqCst, Fault::EndNotReleased);
        let left = self.0.fetch_update(released, Ordering::Relaxed, |word| {
            let left = (word & ACTIVE).checked_sub(1)? | (word & !ACTIVE);
            let ends =
                left & ACTIVE == 0 && left & STEP != 0 && !planted::is(Fault::PeriodNeverEnds);
            Some(if ends { left.wrapping_add(STEP) } else { left })
        });
        left.ok().map(|word| word & ACTIVE == 1 && word & STEP != 0)
    }

    /// The sequence that a subscription begins with that was just put into the index.
    ///
    /// Invalidations that are open may have read the index before. Which ranges they concern is not
    /// known, so they count as met: their period is opened. If none is open, every later one finds
    /// the subscription, and it begins with the period before.
    pub(super) fn after_insertion(&self) -> Sequence {
        fence(Ordering::SeqCst);
        let opened = self
            .0
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |word| {
                let open = word & ACTIVE != 0 && !planted::is(Fault::InsertionMeetsNothing);
                open.then_some(word | STEP)
            });
        match opened {
            Ok(word) => Sequence::of(word | STEP),
            Err(word) => Sequence::of((word | STEP).wrapping_sub(2 * STEP)),
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_period_lasts_from_the_first_collision_to_the_last_end() {
        let state = State::new();
        let before = state.sequence();
        assert!(state.enter().is_ok() && state.enter().is_ok());
        assert_eq!(state.sequence(), before);
        let period = state.collide();
        assert!(period.is_open() && !before.is_open());
        assert_eq!(state.collide(), period);
        assert_eq!(state.leave(), Some(false));
        assert_eq!(state.sequence(), period);
        assert_eq!(state.leave(), Some(true));
        assert!(!state.sequence().is_open() && state.sequence() != before);
    }

    #[test]
    fn without_a_collision_there_is_no_period() {
        let state = State::new();
        let before = state.sequence();
        assert!(state.enter().is_ok());
        assert_eq!(state.leave(), Some(false));
        assert_eq!(state.sequence(), before);
    }

    #[test]
    fn an_end_without_a_start_changes_nothing() {
        let state = State::new();
        let before = state.sequence();
        assert_eq!(state.leave(), None);
        assert_eq!(state.sequence(), before);
    }

    #[test]
    fn n24_the_sequence_wraps_around_and_idle_is_never_odd() {
        let state = State::new();
        let mut last = state.sequence().to_bits();
        let mut wrapped = false;
        for _ in 0..3 * PERIODS_BEFORE_WRAP {
            assert!(state.enter().is_ok());
            let period = state.collide();
            assert_ne!(period, Sequence::NONE);
            assert_eq!(state.leave(), Some(true));
            let now = state.sequence();
            assert!(!now.is_open());
            wrapped |= now.to_bits() < last;
            last = now.to_bits();
        }
        assert!(wrapped);
    }

    #[test]
    fn as_many_can_be_open_as_can_be_counted() {
        let state = State(AtomicUsize::new(ACTIVE - 1));
        assert!(state.enter().is_ok());
        assert!(state.enter().is_err());
        assert_eq!(state.sequence(), Sequence::of(0));
        assert_eq!(state.leave(), Some(false));
        assert!(state.enter().is_ok());
    }

    #[test]
    fn an_insertion_collides_with_what_is_open_and_with_nothing_else() {
        let state = State::new();
        let idle = state.after_insertion();
        assert!(idle.is_open() && idle != state.sequence());
        assert!(!state.sequence().is_open());
        assert!(state.enter().is_ok());
        let open = state.after_insertion();
        assert_eq!(open, state.sequence());
        assert_ne!(open, idle);
        assert_eq!(state.leave(), Some(true));
        assert_eq!(state.after_insertion(), open);
    }
}
