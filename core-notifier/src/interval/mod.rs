//! Subscriptions to a part of an address space, with collision-retry.

mod index;
mod state;
mod subscriptions;

use alloc::sync::Arc;

use self::state::{Sequence, State};
use crate::error::WouldBlock;
use crate::event::Invalidation;
use crate::hooks::AddressSpaceHooks;
use crate::passes::{Progress, Token};
use crate::planted::{self, Fault};
use crate::primitive::{AtomicBool, AtomicUsize, Ordering};
use crate::range::Range;

pub(crate) use self::subscriptions::{Intervals, Members, Refused};

/// A subscriber to the changes of one interval of an address space: who keeps a copy of its
/// translations and makes that copy without excluding changes.
///
/// # Making a copy
///
/// 1. [`read_begin`](IntervalSubscription::read_begin).
/// 2. Look the translations up (this may sleep, take the address-space lock, fault pages in).
/// 3. Take the *user lock*, a lock of the subscriber's own.
/// 4. If [`read_retry`](IntervalSubscription::read_retry) says yes, let go of the lock and begin
///    again; otherwise write the copy, and let go.
///
/// [`invalidate`](IntervalNotifier::invalidate) takes the same user lock and removes what the copy
/// has of the range. The core has told the subscription by then, so whoever takes the lock
/// afterwards with an older lookup retries.
///
/// # Duties of every implementation
///
/// As of every [`Notifier`](crate::Notifier): may be called on several CPUs at once, must not wait
/// for a grace period of the domain, must not panic, returns in bounded time. In particular it must
/// not insert into an address space for the first time or
/// [remove](crate::AddressSpace::remove_interval).
pub trait IntervalNotifier: Send + Sync {
    /// The translations of a range that overlaps the interval are about to change: removes the
    /// copies of the range, under the user lock.
    ///
    /// Called for [`Event::Release`](crate::Event::Release) with the whole address space at exit,
    /// and not any more after that.
    ///
    /// # Errors
    ///
    /// [`WouldBlock`] if the invalidation is not blockable and the work cannot be done without
    /// sleeping (the user lock is taken, for example); nothing was removed then, as far as a copy
    /// may still be used. In a blockable one a refusal is reported as
    /// [`Misuse::RefusedBlockable`](crate::Misuse::RefusedBlockable) and counts as success.
    fn invalidate(
        &self,
        subscription: &IntervalSubscription,
        invalidation: &Invalidation,
    ) -> Result<(), WouldBlock>;

    /// The first of two passes: as [`invalidate`](IntervalNotifier::invalidate), but need not wait
    /// for hardware; what it notes in `token` is handed to
    /// [`finish_invalidate`](IntervalNotifier::finish_invalidate) if it says
    /// [`Progress::Pending`]. By default everything is done in this pass.
    ///
    /// # Errors
    ///
    /// As [`invalidate`](IntervalNotifier::invalidate).
    fn begin_invalidate(
        &self,
        subscription: &IntervalSubscription,
        invalidation: &Invalidation,
        token: &mut Token,
    ) -> Result<Progress, WouldBlock> {
        let _ = token;
        self.invalidate(subscription, invalidation)?;
        Ok(Progress::Complete)
    }

    /// The second pass: waits. Called once for each [`Progress::Pending`], after the first pass of
    /// everyone, also if somebody refused meanwhile.
    fn finish_invalidate(
        &self,
        subscription: &IntervalSubscription,
        invalidation: &Invalidation,
        token: &mut Token,
    ) {
        let _ = (subscription, invalidation, token);
    }
}

/// What [`IntervalSubscription::read_begin`] returned, for the retry question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a copy made without asking whether to retry may be stale"]
pub struct ReadSequence(Sequence);

/// How an address space waits for the end of a period.
#[derive(Clone, Copy)]
pub(crate) struct Waiting {
    pub(crate) relax: fn(),
    pub(crate) hooks: Option<&'static dyn AddressSpaceHooks>,
}

impl Waiting {
    pub(crate) fn wait(self, done: &dyn Fn() -> bool) {
        match self.hooks {
            Some(hooks) => hooks.wait(done),
            None => {
                while !done() {
                    (self.relax)();
                }
            }
        }
    }

    fn wake(self) {
        if let Some(hooks) = self.hooks {
            hooks.wake();
        }
    }
}

/// What the subscriptions of an address space share; lives as long as any of them.
struct Shared {
    state: State,
    waiting: Waiting,
}

/// One subscription to an interval. Made by
/// [`AddressSpace::insert_interval`](crate::AddressSpace::insert_interval); outlives the address
/// space if somebody keeps it.
pub struct IntervalSubscription {
    shared: Arc<Shared>,
    range: Range,
    notifier: Arc<dyn IntervalNotifier>,
    /// The period of the last invalidation that met the interval; [`Sequence::NONE`] until the
    /// insertion has found what to begin with.
    sequence: AtomicUsize,
    /// The period that the insertion began with.
    inserted_in: AtomicUsize,
    removed: AtomicBool,
}

impl IntervalSubscription {
    fn new(shared: Arc<Shared>, range: Range, notifier: Arc<dyn IntervalNotifier>) -> Self {
        IntervalSubscription {
            shared,
            range,
            notifier,
            sequence: AtomicUsize::new(Sequence::NONE.to_bits()),
            inserted_in: AtomicUsize::new(Sequence::NONE.to_bits()),
            removed: AtomicBool::new(false),
        }
    }

    /// The interval.
    pub fn range(&self) -> Range {
        self.range
    }

    /// Begins a lookup of translations in the interval.
    ///
    /// If an invalidation that met the interval is under way, waits for the end of all that overlap
    /// with it in time, once: the result may be out of date already when it is returned, which
    /// bounds the time. May sleep. Not for who is between a start and its end himself, nor for
    /// callbacks, nor under the user lock. An invalidation that is never ended is waited for for
    /// ever.
    pub fn read_begin(&self) -> ReadSequence {
        let begun = self.noted();
        let over = || self.shared.state.sequence() != begun;
        if !over() && !planted::is(Fault::ReadDoesNotWait) {
            self.shared.waiting.wait(&over);
        }
        ReadSequence(begun)
    }

    /// As [`read_begin`](IntervalSubscription::read_begin), or `None` where that would wait. Legal
    /// in any context.
    pub fn try_read_begin(&self) -> Option<ReadSequence> {
        let begun = self.noted();
        (self.shared.state.sequence() != begun).then_some(ReadSequence(begun))
    }

    fn noted(&self) -> Sequence {
        // Acquire: the period that this names has begun as far as the next look can tell.
        Sequence::from_bits(self.sequence.load(Ordering::Acquire))
    }

    /// Whether the lookup that began with `begun` must be repeated: some invalidation of the
    /// interval has started since. Called under the user lock.
    #[must_use = "a copy of a lookup that is to be retried is stale"]
    pub fn read_retry(&self, begun: ReadSequence) -> bool {
        // The user lock orders this: `invalidate` took it after the sequence had been noted.
        self.sequence.load(Ordering::Relaxed) != begun.0.to_bits()
    }

    /// As [`read_retry`](IntervalSubscription::read_retry) without the lock. A yes is final, a no is
    /// a hint: for who wants to give up a long lookup early.
    pub fn check_retry(&self, begun: ReadSequence) -> bool {
        self.read_retry(begun)
    }

    /// Notes that an invalidation of `period` meets the interval. Before the callback, so that the
    /// user lock passes it on to readers.
    fn note(&self, period: Sequence) {
        if !planted::is(Fault::PeriodNotNoted) {
            // loom does not place a store behind an exchange that the storing thread has not seen.
            #[cfg(loom)]
            self.sequence.swap(period.to_bits(), Ordering::Release);
            #[cfg(not(loom))]
            self.sequence.store(period.to_bits(), Ordering::Release);
        }
    }

    /// Notes what the insertion begins with, unless an invalidation was faster.
    fn note_insertion(&self, begin: Sequence) {
        self.inserted_in.store(begin.to_bits(), Ordering::Relaxed);
        if planted::is(Fault::InsertionNotedLate) {
            return self.note(begin);
        }
        // Losing the exchange is as good: what is there is the period of an invalidation that found
        // the subscription, so later ones find it too, and those that did not have ended or share
        // that period.
        let _ = self.sequence.compare_exchange(
            Sequence::NONE.to_bits(),
            begin.to_bits(),
            Ordering::AcqRel,
            Ordering::Acquire,
        );
    }
}
