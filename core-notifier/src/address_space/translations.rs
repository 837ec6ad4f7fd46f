//! Announcing what has changed: to the TLBs behind the notifiers, and to their copies.

use super::AddressSpace;
use crate::list::{List, Subscriber};
use crate::notifier::Notifier;
use crate::passes::{Passes, Token};
use crate::planted::{self, Fault};
use crate::range::Range;
use crate::srcu::Mode;

impl<M: Mode> AddressSpace<M> {
    /// Asks every notifier whether `range` was accessed, makes the translations old and flushes
    /// them. Returns whether any said yes; the caller combines that with the CPU's own answer by OR.
    #[must_use = "an access that is not counted makes a page look unused"]
    pub fn clear_flush_young(&self, range: Range) -> bool {
        self.any_of_all(range, &|notifier| notifier.clear_flush_young(range))
    }

    /// As [`clear_flush_young`](AddressSpace::clear_flush_young); notifiers may leave out the flush.
    #[must_use = "an access that is not counted makes a page look unused"]
    pub fn clear_young(&self, range: Range) -> bool {
        self.any_of_all(range, &|notifier| notifier.clear_young(range))
    }

    /// Whether any notifier says that `address` was accessed. Stops at the first that does.
    pub fn test_young(&self, address: u64) -> bool {
        let mut young = false;
        self.for_each(&mut |notifier| young = young || notifier.test_young(address));
        young
    }

    /// Announces that the page-table entry of `address` is about to become `entry`.
    ///
    /// Called under the page-table lock, in this order: clear the entry, flush the CPUs' TLBs,
    /// [`invalidate_range`](AddressSpace::invalidate_range), `change_pte`, write the new entry.
    /// Linux's `set_pte_at_notify` does the last two.
    pub fn change_pte(&self, address: u64, entry: u64) {
        self.for_each(&mut |notifier| notifier.change_pte(address, entry));
    }

    /// Announces that the translations in `range` have been removed or changed and flushed from the
    /// CPUs' TLBs. When it returns, no device reads or writes through the old ones.
    ///
    /// Called after the store to the page table and before the page behind it is freed, and, if the
    /// page changes, before the new entry is written; whether or not any CPU has the address space
    /// loaded. Takes no lock, allocates nothing, legal with interrupts off. Without a subscriber it
    /// costs one relaxed load. An empty range is ignored.
    #[inline]
    pub fn invalidate_range(&self, range: Range) {
        let passed_on = !range.is_empty() || planted::is(Fault::EmptyRangePassedOn);
        if passed_on && self.has_notifiers() {
            self.dispatch_one(range);
        }
    }

    /// Announces that the rights of translations in `range` have been raised, and nothing else
    /// about them: for notifiers that say that their hardware
    /// [`caches_refusals`](Notifier::caches_refusals) this is
    /// [`invalidate_range`](AddressSpace::invalidate_range).
    ///
    /// Called after the store to the page table, also when a fault turns out to be spurious: a
    /// device that keeps the old rights would fault for ever. Same conditions.
    pub fn raise_permissions(&self, range: Range) {
        if !range.is_empty() && self.has_notifiers() {
            self.dispatch(core::slice::from_ref(&range), Change::Rise);
        }
    }

    /// One round for several ranges, none of them empty.
    pub(super) fn invalidate_ranges(&self, ranges: &[Range]) {
        if self.has_notifiers() {
            self.dispatch(ranges, Change::Any);
        }
    }

    /// One round for one range. Inlined where everybody hears of ranges, in one pass, as is usual.
    #[inline]
    fn dispatch_one(&self, range: Range) {
        self.subscriptions.visit(move |list| {
            if !list.is_plain() {
                return tell_listeners(list, range);
            }
            let (first, rest) = list.first_and_rest();
            first.invalidate_range(range);
            if !rest.is_empty() {
                invalidate_each(rest, range);
            }
        });
    }

    /// One round for any number of ranges.
    #[inline(never)]
    fn dispatch(&self, ranges: &[Range], change: Change) {
        self.subscriptions
            .read(&mut |list| dispatch_in_two_passes(list, ranges, change));
    }

    /// ORs the answers of all; a yes does not end the round.
    fn any_of_all(&self, range: Range, ask: &dyn Fn(&dyn Notifier) -> bool) -> bool {
        let mut young = false;
        if !range.is_empty() {
            self.for_each(&mut |notifier| {
                young = young && planted::is(Fault::YoungShortCircuits) || ask(notifier) | young;
            });
        }
        young
    }
}

/// What has happened to the translations.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Change {
    /// Anything: concerns everyone.
    Any,
    /// Their rights were raised: concerns who caches refusals.
    Rise,
}

impl Change {
    fn concerns(self, subscriber: &Subscriber) -> bool {
        self == Change::Any || subscriber.caches_refusals() && !planted::is(Fault::RiseNotPassedOn)
    }
}

/// Not inlined: a loop would cost those who have one subscriber, or none, their registers.
#[inline(never)]
fn invalidate_each(subscribers: &[Subscriber], range: Range) {
    for subscriber in subscribers {
        subscriber.invalidate_range(range);
    }
}

/// One round for one range where some do not hear of ranges, or work in two passes.
#[cold]
#[inline(never)]
fn tell_listeners(list: &List, range: Range) {
    if list.has_two_passes() {
        return dispatch_in_two_passes(list, core::slice::from_ref(&range), Change::Any);
    }
    list.visit(&mut |subscriber| {
        if subscriber.hears_ranges() {
            subscriber.invalidate_range(range);
        }
    });
}

/// Begins everywhere, then waits. Those of one pass do their work in the first, while the hardware
/// of the others is at work.
#[inline(never)]
fn dispatch_in_two_passes(list: &List, ranges: &[Range], change: Change) {
    let finish = |subscriber: &Subscriber, token: &mut Token| {
        if !planted::is(Fault::FinishSkipped) {
            subscriber.finish_invalidate_ranges(ranges, token);
        }
    };
    let mut passes = Passes::new();
    list.visit(&mut |subscriber| {
        if !subscriber.hears_ranges() || !change.concerns(subscriber) {
            return;
        }
        if subscriber.has_two_passes() {
            let begin = |subscriber: &Subscriber, token: &mut Token| {
                subscriber.begin_invalidate_ranges(ranges, token)
            };
            passes.begin(subscriber, begin, finish);
        } else {
            ranges
                .iter()
                .for_each(|range| subscriber.invalidate_range(*range));
        }
    });
    passes.finish(finish);
}
