//! One wait: its deadline, and what to do when the hardware has stopped.

use super::lists::Lists;
use super::sequencer::{Sequencer, Slots};
use super::slots::RingSlots;
use super::{Config, Loss, QueueRegisters, Stop};
use crate::error::{QueueError, Timeout};
use crate::iommu::Ticket;
use crate::planted::{self, Fault};
use crate::platform::{Clock, Deadline, Platform};

pub(super) struct Watch<'a, const WORDS: usize, R: QueueRegisters<WORDS>, P: Platform> {
    sequencer: &'a Sequencer<RingSlots<WORDS, R, P>>,
    config: &'a Config,
    operation: &'static str,
    /// When to look at the error registers next, and when to give up.
    deadlines: Option<(Deadline, Deadline)>,
}

impl<'a, const WORDS: usize, R: QueueRegisters<WORDS>, P: Platform> Watch<'a, WORDS, R, P> {
    pub(super) fn new(
        sequencer: &'a Sequencer<RingSlots<WORDS, R, P>>,
        config: &'a Config,
        operation: &'static str,
    ) -> Self {
        Self {
            sequencer,
            config,
            operation,
            deadlines: None,
        }
    }

    /// One turn of a waiting loop. The clock is not read before the first turn, so a wait that is
    /// over at once costs nothing.
    pub(super) fn turn(&mut self, ticket: Option<&Ticket>) -> Result<(), QueueError> {
        let clock = &self.sequencer.slots.parts().clock;
        clock.relax();
        let look_later = || Deadline::after(clock, self.config.look_at_errors);
        let (look, give_up) = self
            .deadlines
            .get_or_insert_with(|| (look_later(), Deadline::after(clock, self.config.give_up)));
        if !look.has_passed(clock) {
            return Ok(());
        }
        *look = look_later();
        let timed_out = give_up.has_passed(clock);
        self.sequencer
            .inspect(ticket, |lists| self.look(lists, timed_out))
    }

    /// Finds out whether the hardware has stopped, marks the lists that it concerns, and returns how
    /// to restart it.
    fn look(
        &self,
        lists: &mut Lists,
        timed_out: bool,
    ) -> Option<impl FnOnce() + use<'a, WORDS, R, P>> {
        let slots = &self.sequencer.slots;
        let mmio = &slots.parts().mmio;
        let Some(stop) = slots.registers().read_stop(mmio) else {
            if timed_out {
                lists.die(QueueError::Timeout(Timeout {
                    operation: self.operation,
                    nanoseconds: self.config.give_up,
                }));
            }
            return None;
        };
        if timed_out || !self.mark(lists, stop) {
            lists.die(stop.error);
            return None;
        }
        let tail = lists.tail();
        Some(move || slots.registers().restart(mmio, stop, tail))
    }

    /// Marks what `stop` concerns; false if the hardware cannot go on.
    fn mark(&self, lists: &mut Lists, Stop { error, loss }: Stop) -> bool {
        let slots = &self.sequencer.slots;
        match loss {
            Loss::Command { slot } => {
                let Some(position) = lists.position(slot) else {
                    return false;
                };
                let Some(list) = lists.list(position) else {
                    return false;
                };
                // The ring's own syncs are legal; a machine that refuses them cannot be helped.
                if slots.is_bare_sync(position) || lists.is_sync(position) {
                    return false;
                }
                lists.fail(list, error);
                if !planted::is(Fault::IllegalCommandKept) {
                    slots.replace_by_bare_sync(position);
                }
            }
            Loss::Sync { slot } => {
                let Some(position) = lists.position(slot) else {
                    return false;
                };
                let Some(group) = lists.group(position) else {
                    return false;
                };
                lists.fail(group, error);
                // Hardware that waits in front of the command itself would only time out again.
                if !lists.is_sync(position) {
                    slots.replace_by_bare_sync(position);
                }
            }
            Loss::PendingSyncs => {
                let head = slots.consumed(lists);
                let end = lists
                    .list(head.saturating_sub(1))
                    .map_or(head, |(_, end)| end);
                lists.fail((lists.done(), end), error);
                lists.drop_syncs(head);
            }
            Loss::Queue => return false,
        }
        true
    }
}
