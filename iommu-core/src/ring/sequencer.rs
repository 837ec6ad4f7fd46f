//! Who posts what, and when it is complete: the part of the ring that several CPUs share.
//!
//! A list is written and its doorbell rung under one short lock; nothing is held over a wait. As
//! long as few syncs are in flight, each list gets a sync of its own. When there are as many as the
//! ring allows, a list goes into an *open group* without sync and doorbell, and whoever waits for it
//! closes the group, by one sync and one doorbell for all of it, once a sync in flight is complete.
//! So waiters share syncs exactly when there are many of them.

use super::lists::Lists;
use crate::error::QueueError;
use crate::iommu::Ticket;
use crate::planted::{self, Fault};
use crate::primitive::{AtomicBool, AtomicU64, Mutex, Ordering, is_taken, lock};

/// The queue's memory and registers.
pub(super) trait Slots {
    /// A command.
    type Command: Copy;

    /// Runs `section` so that no interrupt handler of this CPU posts meanwhile.
    fn without_interrupts<T>(section: impl FnOnce() -> T) -> T;
    /// A turn of waiting for the lock.
    fn relax(&self);
    /// Writes `command` at `position`; the hardware does not see it yet.
    fn write(&self, position: u64, command: Self::Command);
    /// Tells the observer of the commands from `start` to `end`.
    fn tell(&self, start: u64, end: u64);
    /// Makes everything from `start` to `end` visible to the hardware and rings the doorbell.
    fn publish(&self, start: u64, end: u64);
    /// The sync that reports the completion of everything before `position`, where it goes.
    fn sync(&self, position: u64) -> Self::Command;
    /// Whether each sync reports by a completion word of its own.
    fn has_words(&self) -> bool;
    /// Whether the completion word of the sync that ends at `end` was written.
    fn is_written(&self, end: u64) -> bool;
    /// Up to where the hardware has consumed, by its head register. The lock is held.
    fn consumed(&self, lists: &Lists) -> u64;
}

/// When a list's doorbell is rung.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doorbell {
    /// With the list, or if many syncs are in flight, by whoever waits.
    Shared,
    /// With the list: nobody may ever wait for it.
    AtOnce,
}

/// No sync is in flight.
const NONE: u64 = u64::MAX;

/// The shared part of a ring.
pub(super) struct Sequencer<S> {
    pub(super) slots: S,
    lists: Mutex<Lists>,
    /// [`Lists::done`], for who does not hold the lock.
    done: AtomicU64,
    /// Whether any list ever failed.
    any_failure: AtomicBool,
    /// The position just past the oldest sync in flight, or [`NONE`]; changed under the lock. Before it
    /// is complete, a waiter need not take the lock.
    oldest: AtomicU64,
    /// Where what was not published yet begins; changed under the lock.
    published: AtomicU64,
    most_syncs: usize,
}

impl<S: Slots> Sequencer<S> {
    /// A sequencer of a ring of `count` slots with at most `most_syncs` syncs in flight.
    pub(super) fn new(slots: S, count: usize, most_syncs: usize) -> Self {
        Self {
            slots,
            lists: Mutex::new(Lists::new(count)),
            done: AtomicU64::new(0),
            any_failure: AtomicBool::new(false),
            oldest: AtomicU64::new(NONE),
            published: AtomicU64::new(0),
            most_syncs,
        }
    }

    /// Posts the list that `emit` produces, which may be asked for it again. `None` if there is no room
    /// for it and a sync now.
    pub(super) fn post(
        &self,
        doorbell: Doorbell,
        emit: impl Fn(&mut dyn FnMut(S::Command)),
    ) -> Result<Option<Ticket>, QueueError> {
        let stale = planted::is(Fault::SlotsNotReserved).then(|| self.with(|lists| lists.tail()));
        self.with(|lists| {
            if let Some(error) = lists.dead() {
                return Err(error);
            }
            if self.is_crowded(lists) {
                self.reclaim(lists);
            }
            let start = stale.unwrap_or(lists.tail());
            let mut commands = self.write(lists, start, &emit);
            if !lists.has_room(commands + 1) {
                self.reclaim(lists);
                if !lists.has_room(commands + 1) {
                    return lists.check_length(commands + 1).map(|()| None);
                }
                commands = self.write(lists, start, &emit);
            }
            let end = lists.tail() + commands as u64;
            self.slots.tell(lists.tail(), end);
            if doorbell == Doorbell::Shared && self.is_crowded(lists) {
                lists.add(commands, false);
                let early = planted::is(Fault::SharedSyncTooEarly);
                return Ok(Some(Ticket {
                    end: if early { start } else { end },
                    has_sync: false,
                }));
            }
            self.close(lists, commands);
            let end = lists.tail();
            Ok(Some(Ticket {
                end,
                has_sync: true,
            }))
        })
    }

    /// Writes the list that `emit` produces from `start` on, as far as there is room, and says how
    /// long it is. Nobody reads it before the tail has moved.
    fn write(&self, lists: &Lists, start: u64, emit: impl Fn(&mut dyn FnMut(S::Command))) -> usize {
        let room = lists.room();
        let mut commands = 0;
        emit(&mut |command| {
            if commands < room {
                self.slots.write(start + commands as u64, command);
            }
            commands += 1;
        });
        commands
    }

    /// Whether everything that `ticket` stands for is complete, or why it will not be.
    pub(super) fn poll(&self, ticket: &Ticket) -> Result<bool, QueueError> {
        let complete = if planted::is(Fault::CompletionByHead) {
            self.with(|lists| self.slots.consumed(lists)) >= ticket.end
        } else if ticket.has_sync && self.slots.has_words() {
            self.slots.is_written(ticket.end)
        } else {
            self.is_done(ticket.end)
        };
        if planted::is(Fault::ErrorEndsWaitAsSuccess) {
            return Ok(complete || self.is_done(ticket.end));
        }
        if complete && self.any_failure.load(Ordering::Acquire) {
            let failure = self.with(|lists| lists.failure(ticket.end));
            return failure.map_or(Ok(true), Err);
        }
        Ok(complete)
    }

    /// Whether a sync at or after `end` is complete. Closes the open group if it is time.
    fn is_done(&self, end: u64) -> bool {
        let acquire = if planted::is(Fault::DoneNotAcquired) {
            Ordering::Relaxed
        } else {
            Ordering::Acquire
        };
        if self.done.load(acquire) >= end {
            return true;
        }
        self.may_progress()
            && S::without_interrupts(|| {
                let Some(mut lists) = self.lists.try_lock() else {
                    return false;
                };
                self.reclaim(&mut lists);
                if lists.is_open() && !self.is_crowded(&lists) && lists.dead().is_none() {
                    self.close(&mut lists, 0);
                }
                lists.done() >= end
            })
    }

    /// Whether who takes the lock now may find that more is complete, or close the open group. A look
    /// at memory, so that many waiters do not pass the lock around for nothing.
    fn may_progress(&self) -> bool {
        let oldest = self.oldest.load(Ordering::Acquire);
        let is_time = oldest == NONE || !self.slots.has_words() || self.slots.is_written(oldest);
        is_time && !is_taken(&self.lists)
    }

    /// Lets `look` find out what went wrong, mark lists as failed and say how to restart the
    /// hardware; then says why there is no waiting for `ticket` any longer, or for room without
    /// one.
    pub(super) fn inspect<F: FnOnce()>(
        &self,
        ticket: Option<&Ticket>,
        look: impl FnOnce(&mut Lists) -> Option<F>,
    ) -> Result<(), QueueError> {
        self.with(|lists| {
            self.reclaim(lists);
            if let Some(restart) = look(lists) {
                // Before the hardware completes a sync behind the failure.
                self.any_failure.store(true, Ordering::Release);
                if !planted::is(Fault::QueueNotRestarted) {
                    restart();
                }
            }
            self.reclaim(lists);
            if let Some(Ticket { end, .. }) = ticket {
                if let Some(error) = lists.failure(*end)
                    && !planted::is(Fault::ErrorEndsWaitAsSuccess)
                {
                    return Err(error);
                }
                if lists.done() >= *end {
                    return Ok(());
                }
            }
            lists.dead().map_or(Ok(()), Err)
        })
    }

    fn is_crowded(&self, lists: &Lists) -> bool {
        lists.syncs() >= self.most_syncs
    }

    /// Ends a list of `commands`, written at the tail, with a sync, and rings the doorbell for
    /// everything since the last time. There is room for the sync.
    fn close(&self, lists: &mut Lists, commands: usize) {
        let position = lists.tail() + commands as u64;
        self.slots.write(position, self.slots.sync(position));
        self.slots.tell(position, position + 1);
        lists.add(commands + 1, true);
        if lists.syncs() == 1 {
            self.oldest.store(lists.tail(), Ordering::Release);
        }
        let start = self.published.load(Ordering::Relaxed);
        self.published.store(lists.tail(), Ordering::Relaxed);
        self.slots.publish(start, lists.tail());
    }

    fn reclaim(&self, lists: &mut Lists) {
        let oldest = if self.slots.has_words() {
            lists.reclaim(|end| self.slots.is_written(end))
        } else {
            let consumed = self.slots.consumed(lists);
            lists.reclaim(|end| end <= consumed)
        };
        self.oldest.store(oldest.unwrap_or(NONE), Ordering::Release);
        self.done.store(lists.done(), Ordering::Release);
    }

    fn with<T>(&self, section: impl FnOnce(&mut Lists) -> T) -> T {
        S::without_interrupts(|| section(&mut lock(&self.lists, || self.slots.relax())))
    }
}
