//! Announcing changes before and after: starts and ends.

use super::AddressSpace;
use crate::error::WouldBlock;
use crate::event::{Event, Invalidation};
use crate::hooks::Misuse;
use crate::interval::{IntervalSubscription, Intervals, Refused};
use crate::list::{List, Subscriber};
use crate::passes::{Passes, Progress, Token};
use crate::planted::{self, Fault};
use crate::range::Range;
use crate::srcu::Mode;

/// A change of translations that has been announced. Dropping it, or [`end`](Self::end), announces
/// that the change has been made.
///
/// May move to another thread. Open ones nest and overlap. One that is leaked (`mem::forget`) never
/// ends: notifiers go on refusing to make copies of the range, and
/// [`IntervalSubscription::read_begin`] of an interval that it met waits for ever, as does the
/// removal of one. Nothing stale is ever used.
#[must_use = "the end is announced when this is dropped; change the page table before"]
pub struct OpenInvalidation<'a, M: Mode> {
    space: &'a AddressSpace<M>,
    invalidation: Invalidation,
}

impl<M: Mode> OpenInvalidation<'_, M> {
    /// What was announced.
    pub fn invalidation(&self) -> &Invalidation {
        &self.invalidation
    }

    /// The translations have changed. Secondary TLBs are not told: the caller has done that where it
    /// changed the page table ([`AddressSpace::invalidate_range`] or a
    /// [`Batch`](crate::Batch)). May sleep if the start could.
    pub fn end(self) {}
}

impl<M: Mode> Drop for OpenInvalidation<'_, M> {
    fn drop(&mut self) {
        self.space.close(&self.invalidation);
    }
}

impl<M: Mode> AddressSpace<M> {
    /// Announces a change of translations, waiting for whatever the notifiers wait for. Never fails.
    ///
    /// When it returns, nobody uses a copy of a translation in the range, and nobody makes a new one
    /// before the end. Interval notifiers come first, then the list; all begin before any is waited
    /// for. An empty range is ignored. May sleep.
    pub fn start_invalidation(&self, invalidation: Invalidation) -> OpenInvalidation<'_, M> {
        let invalidation = invalidation.blockable();
        // Refusals are reported, and count as success.
        let _ = self.open(&invalidation);
        OpenInvalidation {
            space: self,
            invalidation,
        }
    }

    /// As [`start_invalidation`](AddressSpace::start_invalidation), but nobody sleeps: for who must
    /// make progress, as a kernel that is out of memory.
    ///
    /// # Errors
    ///
    /// [`WouldBlock`] if any notifier would have to sleep. All of the list were asked nevertheless,
    /// unless an interval notifier refused before. The start has been undone, on both sides: the
    /// caller changes no translation in the range and announces no end. More than 256 notifiers of
    /// starts and ends are too many to do this for: those beyond count as refusing, unasked.
    pub fn try_start_invalidation(
        &self,
        invalidation: Invalidation,
    ) -> Result<OpenInvalidation<'_, M>, WouldBlock> {
        let invalidation = invalidation.non_blockable();
        self.open(&invalidation)?;
        Ok(OpenInvalidation {
            space: self,
            invalidation,
        })
    }

    /// Announces that translations in `range` are about to change, in the manner of 2017: as
    /// [`start_invalidation`](AddressSpace::start_invalidation) with [`Event::Unmap`]. The caller
    /// announces the end with the same range, by one of the two below. An empty range is ignored,
    /// here and there. May sleep as the notifiers do.
    #[inline]
    pub fn invalidate_range_start(&self, range: Range) {
        let _ = self.open(&Invalidation::new(range, Event::Unmap));
    }

    /// Announces that translations in `range` have changed.
    ///
    /// This is [`invalidate_range`](AddressSpace::invalidate_range) and then the end, as in 2017: a
    /// caller that does not notify under the page-table lock still gets its devices' TLBs flushed,
    /// at the latest here.
    #[inline]
    pub fn invalidate_range_end(&self, range: Range) {
        if !planted::is(Fault::EndWithoutInvalidate) {
            self.invalidate_range(range);
        }
        self.invalidate_range_only_end(range);
    }

    /// As [`invalidate_range_end`](AddressSpace::invalidate_range_end) without the second
    /// [`invalidate_range`](AddressSpace::invalidate_range): for a caller that has called that under
    /// the page-table lock already, and need not pay twice.
    #[inline]
    pub fn invalidate_range_only_end(&self, range: Range) {
        self.close(&Invalidation::new(range, Event::Unmap));
    }

    #[inline]
    fn open(&self, invalidation: &Invalidation) -> Result<(), WouldBlock> {
        if invalidation.range().is_empty() && !planted::is(Fault::EmptyRangePassedOn) {
            return Ok(());
        }
        if !self.has_notifiers() && !self.intervals.is_completed() {
            return Ok(());
        }
        self.open_for_all(invalidation)
    }

    #[inline(never)]
    fn open_for_all(&self, invalidation: &Invalidation) -> Result<(), WouldBlock> {
        let intervals = self.intervals.get();
        if let Some(intervals) = intervals {
            intervals.enter(invalidation)?;
        }
        let members = intervals.and_then(Intervals::read);
        let list = self.subscriptions.hold();
        let mut opening = Opening::new(self, invalidation);
        let met = match (intervals, &members) {
            (Some(intervals), Some(members)) => {
                intervals.visit_met(members, invalidation.range(), |subscription| {
                    opening.begin(Who::Interval(subscription))
                })
            }
            _ => Ok(()),
        };
        let mut refusals = Refusals::default();
        if let (Ok(()), Some(list)) = (&met, &list) {
            opening.begin_list(list, &mut refusals);
        }
        opening.finish();
        if met.is_ok() && refusals.count == 0 {
            return Ok(());
        }
        if let (Ok(()), Some(list)) = (&met, &list) {
            self.end_those_that_began(list, invalidation, &refusals);
        }
        if let Some(intervals) = intervals
            && !planted::is(Fault::IntervalsNotUndone)
        {
            self.leave(intervals);
        }
        Err(WouldBlock)
    }

    /// Tells interval notifiers only, and ends at once.
    pub(super) fn invalidate_intervals(&self, invalidation: &Invalidation) {
        let Some(intervals) = self.intervals.get() else {
            return;
        };
        if intervals.enter(invalidation).is_err() {
            return;
        }
        if let Some(members) = intervals.read() {
            let mut opening = Opening::new(self, invalidation);
            // Nobody refuses what is blockable.
            let _ = intervals.visit_met(&members, invalidation.range(), |subscription| {
                opening.begin(Who::Interval(subscription))
            });
            opening.finish();
        }
        self.leave(intervals);
    }

    fn end_those_that_began(&self, list: &List, invalidation: &Invalidation, refusals: &Refusals) {
        let mut place = 0;
        list.visit(&mut |subscriber| {
            if subscriber.hears_sections() {
                if !refusals.contains(place) || planted::is(Fault::EndAfterRefusal) {
                    self.end_for(subscriber, invalidation);
                }
                place += 1;
            }
        });
    }

    #[inline]
    fn close(&self, invalidation: &Invalidation) {
        if invalidation.range().is_empty() && !planted::is(Fault::EmptyRangePassedOn) {
            return;
        }
        if let Some(intervals) = self.intervals.get() {
            self.leave(intervals);
        }
        if self.has_notifiers() {
            self.close_for_list(invalidation);
        }
    }

    #[inline(never)]
    fn close_for_list(&self, invalidation: &Invalidation) {
        self.subscriptions.read(&mut |list| {
            list.visit(&mut |subscriber| {
                if subscriber.hears_sections() {
                    self.end_for(subscriber, invalidation);
                }
            });
        });
    }

    fn end_for(&self, subscriber: &Subscriber, invalidation: &Invalidation) {
        self.bracket(invalidation, || subscriber.end_invalidation(invalidation));
    }

    fn leave(&self, intervals: &Intervals<M>) {
        if let Err(misuse) = intervals.leave() {
            self.report(misuse);
        }
    }

    fn report(&self, misuse: Misuse) {
        if let Some(hooks) = self.hooks {
            hooks.report(misuse);
        }
    }

    /// Calls a callback, telling the kernel if it must not sleep.
    fn bracket<R>(&self, invalidation: &Invalidation, callback: impl FnOnce() -> R) -> R {
        let hooks = self.hooks.filter(|_| !invalidation.is_blockable());
        let Some(hooks) = hooks.filter(|_| !planted::is(Fault::NonBlockingNotTold)) else {
            return callback();
        };
        hooks.enter_non_blocking();
        let answer = callback();
        hooks.leave_non_blocking();
        answer
    }
}

/// Whom a start is announced to.
#[derive(Clone, Copy)]
enum Who<'a> {
    Interval(&'a IntervalSubscription),
    Notifier(&'a Subscriber),
}

/// A start under way.
struct Opening<'a, 'b, M: Mode> {
    space: &'a AddressSpace<M>,
    invalidation: &'a Invalidation,
    passes: Passes<Who<'b>>,
}

impl<'a, 'b, M: Mode> Opening<'a, 'b, M> {
    fn new(space: &'a AddressSpace<M>, invalidation: &'a Invalidation) -> Self {
        Opening {
            space,
            invalidation,
            passes: Passes::new(),
        }
    }

    /// Runs the first pass of `who`. What refuses a blockable invalidation is reported and counts
    /// as success, since its caller cannot do without.
    fn begin(&mut self, who: Who<'b>) -> Result<(), Refused> {
        let (space, invalidation) = (self.space, self.invalidation);
        let mut refused = false;
        let begin = |who: Who<'_>, token: &mut Token| {
            let began = space.bracket(invalidation, || match who {
                Who::Interval(subscription) => subscription.begin(invalidation, token),
                Who::Notifier(notifier) => notifier.start_invalidation(invalidation, token),
            });
            began.unwrap_or_else(|WouldBlock| {
                refused = true;
                Progress::Complete
            })
        };
        self.passes.begin(who, begin, |who, token| {
            finish(space, invalidation, who, token)
        });
        if !refused {
            return Ok(());
        }
        if invalidation.is_blockable() {
            space.report(Misuse::RefusedBlockable);
            return Ok(());
        }
        Err(Refused)
    }

    /// Asks everyone, also after somebody has refused.
    fn begin_list(&mut self, list: &'b List, refusals: &mut Refusals) {
        let mut place = 0;
        list.visit(&mut |subscriber| {
            if !subscriber.hears_sections() {
                return;
            }
            let unasked = !self.invalidation.is_blockable() && place >= Refusals::LIMIT
                || refusals.count != 0 && planted::is(Fault::RefusalEndsTheRound);
            if unasked || self.begin(Who::Notifier(subscriber)).is_err() {
                refusals.insert(place);
            }
            place += 1;
        });
    }

    fn finish(&mut self) {
        let (space, invalidation) = (self.space, self.invalidation);
        self.passes
            .finish(|who, token| finish(space, invalidation, who, token));
    }
}

fn finish<M: Mode>(
    space: &AddressSpace<M>,
    invalidation: &Invalidation,
    who: Who<'_>,
    token: &mut Token,
) {
    if planted::is(Fault::StartFinishSkipped) {
        return;
    }
    space.bracket(invalidation, || match who {
        Who::Interval(subscription) => subscription.finish(invalidation, token),
        Who::Notifier(notifier) => notifier.finish_start(invalidation, token),
    });
}

/// Which places of the list have refused.
#[derive(Default)]
struct Refusals {
    places: [u64; Refusals::LIMIT / 64],
    count: usize,
}

impl Refusals {
    const LIMIT: usize = 256;

    fn insert(&mut self, place: usize) {
        if let Some(word) = self.places.get_mut(place / 64) {
            *word |= 1 << (place % 64);
        }
        self.count += 1;
    }

    fn contains(&self, place: usize) -> bool {
        self.places
            .get(place / 64)
            .is_none_or(|word| word & (1 << (place % 64)) != 0)
    }
}
