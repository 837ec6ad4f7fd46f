//! The interval subscriptions of one address space.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::ops::ControlFlow;

use super::index::Index;
use super::state::{Sequence, State};
use super::{IntervalNotifier, IntervalSubscription, Shared, Waiting};
use crate::error::{InsertError, RemoveError, WouldBlock};
use crate::event::Invalidation;
use crate::hooks::Misuse;
use crate::passes::{Progress, Token};
use crate::planted::{self, Fault};
use crate::primitive::{AtomicBool, Mutex, Ordering, fence};
use crate::range::Range;
use crate::retired::Retirement;
use crate::srcu::{Mode, Published, Reader, Retired, Srcu};

/// The subscriptions, by their intervals.
pub(crate) type Members = Index<Arc<IntervalSubscription>>;

/// The callback of one subscription would have slept.
pub(crate) struct Refused;

/// The interval subscriptions of one address space, and its open invalidations.
///
/// The algorithm is the one of Linux's interval notifiers, over an immutable array instead of a
/// tree. Linux must not change its tree while a start walks it, and puts off insertions and removals
/// until the end. Nobody changes an array that others may be walking, so here an insertion is
/// published at once and counts as met until the end, and a removal takes effect at once and waits.
pub(crate) struct Intervals<M: Mode> {
    shared: Arc<Shared>,
    /// Never empty until exit, so that finding nothing published is no race with an insertion.
    members: Published<Members, M>,
    /// Held by who changes `members`. Under it nobody sleeps, allocates, or calls a notifier.
    writer: Mutex<Writer>,
    retired: Retirement<Members, M>,
}

struct Writer {
    count: usize,
    released: bool,
}

impl<M: Mode> Intervals<M> {
    pub(crate) fn new(srcu: Arc<Srcu<M>>, waiting: Waiting) -> Self {
        let members = Published::new(srcu);
        let nothing_before = members.replace(Some(Box::new(Index::with_capacity(0))));
        debug_assert!(nothing_before.is_none());
        Intervals {
            shared: Arc::new(Shared {
                state: State::new(),
                waiting,
            }),
            members,
            writer: Mutex::new(Writer {
                count: 0,
                released: false,
            }),
            retired: Retirement::new(),
        }
    }

    fn srcu(&self) -> &Arc<Srcu<M>> {
        self.members.srcu()
    }

    fn state(&self) -> &State {
        &self.shared.state
    }

    /// Counts an invalidation as open, waiting for another to end if too many are and it may wait.
    pub(crate) fn enter(&self, invalidation: &Invalidation) -> Result<(), WouldBlock> {
        let entered = AtomicBool::new(self.state().enter().is_ok());
        if !entered.load(Ordering::Relaxed) {
            if !invalidation.is_blockable() {
                return Err(WouldBlock);
            }
            self.shared.waiting.wait(&|| {
                // Not twice, whatever the waiting does with an answer.
                entered.load(Ordering::Relaxed) || {
                    entered.store(self.state().enter().is_ok(), Ordering::Relaxed);
                    entered.load(Ordering::Relaxed)
                }
            });
        }
        // `State::enter` comes before the next load of the pointer; in fenced mode both are `SeqCst`
        // already.
        if !matches!(M::FOLLOW, Ordering::SeqCst) && !planted::is(Fault::EnterUnfenced) {
            fence(Ordering::SeqCst);
        }
        Ok(())
    }

    /// An invalidation has ended.
    pub(crate) fn leave(&self) -> Result<(), Misuse> {
        match self.state().leave() {
            Some(true) => self.shared.waiting.wake(),
            Some(false) => {}
            None => return Err(Misuse::EndWithoutStart),
        }
        Ok(())
    }

    /// The subscriptions as they are now.
    pub(crate) fn read(&self) -> Option<Reader<'_, Members, M>> {
        self.members.read()
    }

    /// Visits the subscriptions that `range`, of an invalidation that was counted, meets. They have
    /// been told before they are visited.
    pub(crate) fn visit_met<'a>(
        &self,
        members: &'a Members,
        range: Range,
        mut visit: impl FnMut(&'a IntervalSubscription) -> Result<(), Refused>,
    ) -> Result<(), Refused> {
        let mut period: Option<Sequence> = None;
        let visited = members.visit_overlapping(range, |subscription| {
            let period = *period.get_or_insert_with(|| self.state().collide());
            subscription.note(period);
            match visit(subscription) {
                Ok(()) => ControlFlow::Continue(()),
                Err(Refused) => ControlFlow::Break(()),
            }
        });
        match visited {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Refused),
        }
    }

    /// Subscribes `notifier` to `range`.
    pub(crate) fn insert(
        &self,
        range: Range,
        notifier: Arc<dyn IntervalNotifier>,
    ) -> Result<Arc<IntervalSubscription>, InsertError> {
        let last = range.last().ok_or(InsertError::EmptyRange)?;
        let subscription = Arc::new(IntervalSubscription::new(
            self.shared.clone(),
            range,
            notifier,
        ));
        loop {
            let mut draft = Box::new(Index::with_capacity(self.writer.lock().count + 1));
            let mut writer = self.writer.lock();
            if writer.released && !planted::is(Fault::InsertedAfterExit) {
                return Err(InsertError::Released);
            }
            let old = self.read();
            if draft.capacity() <= old.as_ref().map_or(0, |old| old.len()) {
                continue;
            }
            draft.fill_with(old.as_deref(), range.start(), last, subscription.clone());
            drop(old);
            writer.count = draft.len();
            let old = self.members.replace(Some(draft));
            drop(writer);
            let begin = self.state().after_insertion();
            subscription.note_insertion(begin);
            self.retired.retire(self.srcu(), old);
            return Ok(subscription);
        }
    }

    /// Ends `subscription`: when this returns, no callback of it runs or will run.
    pub(crate) fn remove(
        &self,
        subscription: &Arc<IntervalSubscription>,
    ) -> Result<(), RemoveError> {
        self.srcu().may_wait()?;
        if !Arc::ptr_eq(&self.shared, &subscription.shared)
            || subscription.removed.swap(true, Ordering::Relaxed)
        {
            return Err(RemoveError::NotInserted);
        }
        let old = self.take_out(subscription);
        // Who met the interval goes on until the period ends. An insertion of the same period
        // cancels out: nobody met it who had not begun before.
        let period = self.state().sequence();
        let inserted_in = Sequence::from_bits(subscription.inserted_in.load(Ordering::Relaxed));
        let cancels_out = period == inserted_in && !planted::is(Fault::CancelledNotNoticed);
        let waits = period.is_open() && !cancels_out && !planted::is(Fault::RemovalDoesNotSleep);
        if old.is_some() && waits {
            let over = || self.state().sequence() != period;
            self.shared.waiting.wait(&over);
        }
        if planted::is(Fault::RemovalNotAwaited) {
            self.retired.retire(self.srcu(), old);
            return Ok(());
        }
        self.srcu().synchronize()?;
        drop(old);
        self.reclaim();
        Ok(())
    }

    /// What had held `subscription`; nothing if exit took it out.
    fn take_out(&self, subscription: &Arc<IntervalSubscription>) -> Option<Retired<Members, M>> {
        loop {
            let mut draft = Box::new(Index::with_capacity(self.writer.lock().count));
            let mut writer = self.writer.lock();
            let old = self.read()?;
            if draft.capacity() < old.len() {
                continue;
            }
            draft.fill_without(&old, |other| Arc::ptr_eq(other, subscription));
            drop(old);
            writer.count = draft.len();
            return self.members.replace(Some(draft));
        }
    }

    /// Refuses insertions from now on.
    pub(crate) fn close(&self) {
        self.writer.lock().released = true;
    }

    /// Takes everyone out, after [`close`](Self::close). They still owe their removal.
    pub(crate) fn take_all(&self) -> Option<Retired<Members, M>> {
        let mut writer = self.writer.lock();
        writer.count = 0;
        self.members.replace(None)
    }

    /// Drops the replaced arrays that nobody walks any more.
    pub(crate) fn reclaim(&self) {
        self.retired.reclaim();
    }
}

impl IntervalSubscription {
    pub(crate) fn begin(
        &self,
        invalidation: &Invalidation,
        token: &mut Token,
    ) -> Result<Progress, WouldBlock> {
        self.notifier.begin_invalidate(self, invalidation, token)
    }

    pub(crate) fn finish(&self, invalidation: &Invalidation, token: &mut Token) {
        self.notifier.finish_invalidate(self, invalidation, token);
    }
}
