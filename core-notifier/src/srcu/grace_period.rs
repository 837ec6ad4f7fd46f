//! Waiting for the sections that are open.

use super::Srcu;
use super::mode::{Mode, Rank, Ranks, Urgency};
use super::try_lock::TryLockGuard;
use crate::error::{Stalled, WaitError};
use crate::planted::{self, Fault};
use crate::primitive::{Ordering, fence, spin_loop};

/// A grace period that may lie in the future: the first one to begin after
/// [`Srcu::next_grace_period`] was called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GracePeriod {
    /// The value of `Srcu::sequence` at its end.
    end: usize,
}

/// A wait was given up.
struct GaveUp;

impl<M: Mode> Srcu<M> {
    /// Waits until every section that was open at the call has ended.
    ///
    /// May sleep (see [`with_relax`](Srcu::with_relax)). Never returns inside a section of this
    /// domain, unless that is [`Checked`](crate::Checked). Calls that wait together share grace
    /// periods: each waits for two at most.
    ///
    /// # Errors
    ///
    /// [`WaitError::InsideSection`]; nothing was waited for.
    pub fn synchronize(&self) -> Result<(), WaitError> {
        self.wait_for(self.next_grace_period())
    }

    /// As [`synchronize`](Srcu::synchronize), as soon as possible: looks again at once instead of
    /// calling the domain's `relax`, and in hooked mode uses
    /// [`Hooks::barrier_expedited`](crate::Hooks::barrier_expedited). If another thread drives the
    /// grace period, it hurries too.
    ///
    /// For callers that hold up others. It burns the CPU for as long as a section lasts, so a
    /// section must not need this CPU to end: not on a single CPU without pre-emption.
    ///
    /// # Errors
    ///
    /// [`WaitError::InsideSection`]; nothing was waited for.
    pub fn synchronize_expedited(&self) -> Result<(), WaitError> {
        self.may_wait()?;
        self.wait(self.next_grace_period(), Urgency::Expedited);
        Ok(())
    }

    /// As [`synchronize`](Srcu::synchronize), but asks `patience` between two looks whether to go on,
    /// in the place of the domain's `relax`: a section that never ends, such as a leaked guard or one
    /// of this very context, is then reported and not waited for.
    ///
    /// # Errors
    ///
    /// [`Stalled`] if `patience` said no: no grace period has passed for certain.
    pub fn synchronize_within(&self, mut patience: impl FnMut() -> bool) -> Result<(), Stalled> {
        let period = self.next_grace_period();
        self.wait_while(period, Urgency::Normal, &mut || {
            patience() || planted::is(Fault::NeverGivesUp)
        })
        .map_err(|GaveUp| self.stalled())
    }

    /// Names the grace period that [`synchronize`](Srcu::synchronize) would wait for now, without
    /// waiting.
    pub fn next_grace_period(&self) -> GracePeriod {
        // Orders what the caller took out before the look at the sequence. Partner: the fence in
        // `drive`. If the look misses a period's beginning, that fence comes after this one, and
        // the period counts whoever may have seen what was taken out.
        if !planted::is(Fault::RequestUnfenced) {
            fence(Ordering::SeqCst);
        }
        let sequence = self.sequence.load(Ordering::Relaxed);
        // One under way may have counted already; the one after it has not.
        let steps = if planted::is(Fault::PeriodUnderWayJoined) {
            2
        } else {
            3
        };
        GracePeriod {
            end: sequence.wrapping_add(steps) & !1,
        }
    }

    /// Whether `period` has ended. `period` comes from this domain.
    pub fn has_elapsed(&self, period: GracePeriod) -> bool {
        // Acquire what the driver acquired from the readers.
        let since = self
            .sequence
            .load(planted::weaken(Ordering::Acquire, Fault::EndNotAcquired))
            .wrapping_sub(period.end);
        since.cast_signed() >= 0
    }

    /// Waits until `period` has ended, driving it if nobody else does. Same conditions as
    /// [`synchronize`](Srcu::synchronize).
    ///
    /// # Errors
    ///
    /// [`WaitError::InsideSection`]; nothing was waited for. Not if the period has ended already.
    pub fn wait_for(&self, period: GracePeriod) -> Result<(), WaitError> {
        if !self.has_elapsed(period) {
            self.may_wait()?;
            self.wait(period, Urgency::Normal);
        }
        Ok(())
    }

    pub(crate) fn may_wait(&self) -> Result<(), WaitError> {
        if self.is_inside() {
            return Err(WaitError::InsideSection);
        }
        Ok(())
    }

    /// Waits, however long it takes.
    pub(super) fn wait(&self, period: GracePeriod, urgency: Urgency) {
        let hurry = urgency == Urgency::Expedited && !planted::is(Fault::ExpeditedNotRecorded);
        if hurry {
            self.expedited.fetch_add(1, Ordering::Relaxed);
        }
        let mut relax = || {
            if self.expedited.load(Ordering::Relaxed) == 0 {
                (self.relax)();
            } else {
                spin_loop();
            }
            true
        };
        // Never gives up.
        let _ = self.wait_while(period, urgency, &mut relax);
        if hurry {
            self.expedited.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn wait_while(
        &self,
        period: GracePeriod,
        urgency: Urgency,
        patience: &mut dyn FnMut() -> bool,
    ) -> Result<(), GaveUp> {
        while !self.has_elapsed(period) {
            match self.driver.try_lock() {
                Some(driver) => {
                    if !self.has_elapsed(period) {
                        self.drive(&driver, urgency, patience)?;
                    }
                }
                None if patience() => {}
                None => return Err(GaveUp),
            }
        }
        Ok(())
    }

    /// Runs one grace period from beginning to end. One that was given up begins anew.
    fn drive(
        &self,
        _driver: &TryLockGuard<'_>,
        urgency: Urgency,
        patience: &mut dyn FnMut() -> bool,
    ) -> Result<(), GaveUp> {
        // Odd already if an earlier driver gave up, or unwound out of `relax`.
        let under_way = self.sequence.load(Ordering::Relaxed) | 1;
        self.sequence.store(under_way, Ordering::Relaxed);
        // Partners: the entry of each section, and the fence in `next_grace_period`.
        if !planted::is(Fault::DriverUnfenced) {
            fence(Ordering::SeqCst);
        }
        let rank = self.mode.rank();
        let both = if planted::is(Fault::OneRankLookedAt) {
            Ranks::only(rank)
        } else {
            Ranks::BOTH
        };
        if !self.mode.balanced(both, urgency) {
            // Readers that chose their rank before the last change of rank.
            if !planted::is(Fault::IdleRankNotAwaited) {
                self.wait_for_rank(rank.other(), urgency, patience)?;
            }
            if !planted::is(Fault::RankNeverChanges) {
                self.mode.set_rank(rank.other());
            }
            if !planted::is(Fault::CurrentRankNotAwaited) {
                self.wait_for_rank(rank, urgency, patience)?;
            }
        }
        self.sequence
            .store(under_way.wrapping_add(1), Ordering::Release);
        Ok(())
    }

    fn wait_for_rank(
        &self,
        rank: Rank,
        urgency: Urgency,
        patience: &mut dyn FnMut() -> bool,
    ) -> Result<(), GaveUp> {
        while !self.mode.balanced(Ranks::only(rank), urgency) {
            if !patience() {
                return Err(GaveUp);
            }
        }
        Ok(())
    }

    /// What is open now, as far as one look can tell.
    fn stalled(&self) -> Stalled {
        match self.mode.find_open() {
            Some((counters, sections)) => Stalled {
                counters: Some(counters),
                sections,
            },
            None => Stalled {
                counters: None,
                sections: 0,
            },
        }
    }
}
