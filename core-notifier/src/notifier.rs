//! What a subscriber implements.

use crate::error::WouldBlock;
use crate::event::Invalidation;
use crate::passes::{Progress, Token};
use crate::range::Range;

/// What a notifier keeps, and so what it has to hear of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NotifierKind {
    /// Hears of everything, as every notifier did in 2017. For notifiers written to that contract:
    /// it may sleep in every start, so a start that must not sleep fails without asking it.
    #[default]
    Interface2017,
    /// Hardware walks the CPU's page table (an IOMMU): hears of ranges that have been removed, and
    /// not of starts and ends. A start is too early, since the hardware refills its TLB from the
    /// entry that is still there; an end is too late, since the page may be somebody else's by then.
    SecondaryTlb,
    /// A copy of the translations (a hypervisor's second stage): hears of starts and ends, and not
    /// of ranges that have been removed in between.
    ShadowTable,
}

impl NotifierKind {
    /// Whether it hears of ranges that have been removed from the page table.
    #[inline]
    pub(crate) fn hears_ranges(self) -> bool {
        self != NotifierKind::ShadowTable
    }

    /// Whether it hears of starts and ends.
    pub(crate) fn hears_sections(self) -> bool {
        self != NotifierKind::SecondaryTlb
    }
}

/// A subscriber to the changes of one address space.
///
/// Every method does nothing by default, or what an older method does; implement those that the
/// cached state calls for. There are two kinds of subscriber, and [`kind`](Notifier::kind) says
/// which one this is:
/// - [`NotifierKind::SecondaryTlb`] implements [`invalidate_range`](Notifier::invalidate_range) and
///   [`release`](Notifier::release), and
///   [`begin_invalidate_ranges`](Notifier::begin_invalidate_ranges) with its second pass if it can
///   start its hardware and wait later;
/// - [`NotifierKind::ShadowTable`] implements [`start_invalidation`](Notifier::start_invalidation),
///   [`end_invalidation`](Notifier::end_invalidation) and `release`.
///
/// Methods of the other kind are never called. The interface of 2017 knew no kinds; a notifier that
/// declares none hears of everything by the methods of 2017.
///
/// # Duties of every implementation
///
/// Each method runs inside a read section of the address space's [`Srcu`](crate::Srcu) domain. It
/// - may be called on several CPUs at once, also together with `release`;
/// - must not wait for a grace period of that domain, directly or by waiting for a lock whose
///   holder does: [`unregister`](crate::AddressSpace::unregister),
///   [`AddressSpace::release`](crate::AddressSpace::release), `synchronize` and `barrier` would
///   never return. [`unregister_no_release`](crate::AddressSpace::unregister_no_release) does not
///   wait and is legal wherever the caller may allocate;
/// - must not panic, and must return in bounded time: it holds up every grace period of the domain.
///
/// Methods get no address space: a notifier that needs it reaches it through its own data. A counted
/// reference there is a cycle that lasts until the notifier is unregistered or the address space is
/// released.
///
/// "May sleep" below means that the caller holds no spinlock and has interrupts on.
pub trait Notifier: Send + Sync {
    /// What the notifier keeps. Asked once, at registration; must not call into the address space.
    fn kind(&self) -> NotifierKind {
        NotifierKind::Interface2017
    }

    /// Whether [`begin_invalidate_ranges`](Notifier::begin_invalidate_ranges) is implemented. Asked
    /// once, at registration, where declaring this and [`NotifierKind::ShadowTable`] is an error.
    fn has_two_passes(&self) -> bool {
        false
    }

    /// Whether the hardware may keep a refusal, or rights that are lower than those in the page
    /// table, and fault again and again on them. If so, it has to hear of every rise
    /// ([`AddressSpace::raise_permissions`](crate::AddressSpace::raise_permissions)).
    fn caches_refusals(&self) -> bool {
        true
    }

    /// The address space is going away, or this notifier is being unregistered from it.
    ///
    /// Called before any page of the address space is freed. When it returns, the hardware behind
    /// the notifier uses the page table no more: block it and invalidate, because after exit no
    /// further callback comes although the page table is only then torn down. Quiet faults are part
    /// of the answer, since threads of the device may still run.
    ///
    /// May sleep and allocate. Must be idempotent: if exit and unregistration race, both may call
    /// it, at the same time even, and both wait for both. May race with every other method.
    fn release(&self) {}

    /// Reports whether any address in the (never empty) range was accessed through the notifier's
    /// translations since the last such call, makes them old, and flushes them from its TLB.
    ///
    /// Called after the CPU's page table was asked the same; the answers are combined by OR, and
    /// every notifier is asked. May be called under the page-table lock: must not sleep or
    /// allocate.
    fn clear_flush_young(&self, range: Range) -> bool {
        let _ = range;
        false
    }

    /// As [`clear_flush_young`](Notifier::clear_flush_young), but the flush may be left out: a later
    /// answer may then miss accesses that went through a TLB. Must not sleep or allocate.
    fn clear_young(&self, range: Range) -> bool {
        let _ = range;
        false
    }

    /// Reports whether `address` was accessed through the notifier's translations, and changes
    /// nothing. The first notifier to say yes ends the question. Must not sleep or allocate.
    fn test_young(&self, address: u64) -> bool {
        let _ = address;
        false
    }

    /// The page-table entry of `address` is about to become `entry`, in the encoding of the CPU.
    ///
    /// Called under the page-table lock *before* the entry is written and after the old one was
    /// cleared and flushed (and announced by
    /// [`invalidate_range`](Notifier::invalidate_range)), so that a copy of the translation can be
    /// replaced without a fault. Doing nothing is correct for who caches only what hardware found
    /// in the page table itself. Must not sleep or allocate.
    fn change_pte(&self, address: u64, entry: u64) {
        let _ = (address, entry);
    }

    /// The translations of the (never empty) range are about to change.
    ///
    /// Called before the page table changes; when it returns, the notifier has dropped its copies
    /// of the range and makes no new one until the matching end. Starts and ends nest and overlap,
    /// on several CPUs too; each start gets one end as long as the notifier stays registered. One
    /// that is unregistered in between sees a start without an end. One that is registered never
    /// sees an end without a start. May sleep and allocate.
    fn invalidate_range_start(&self, range: Range) {
        let _ = range;
    }

    /// The translations of the range have changed; the pages behind the old ones may be freed
    /// already. Called once for each start, with the same range. May sleep and allocate.
    fn invalidate_range_end(&self, range: Range) {
        let _ = range;
    }

    /// The translations of the (never empty) range have been removed or changed in the page table
    /// and flushed from the CPUs' TLBs; the pages behind the old ones are not freed yet.
    ///
    /// When it returns, no device reads or writes through a translation that was removed before the
    /// call. Called under the page-table lock and with interrupts off: must not sleep, allocate, or
    /// take a lock that is ever held over a wait. Also called by
    /// [`AddressSpace::invalidate_range_end`](crate::AddressSpace::invalidate_range_end), there
    /// without locks.
    fn invalidate_range(&self, range: Range) {
        let _ = range;
    }

    /// The first of two passes over one or several ranges, none of them empty: as
    /// [`invalidate_range`](Notifier::invalidate_range) of each, under the same conditions, but need
    /// not wait for hardware. What it notes in `token` is handed to
    /// [`finish_invalidate_ranges`](Notifier::finish_invalidate_ranges) if it says
    /// [`Progress::Pending`]. The section of the domain in which it is called stays open until then,
    /// so what it found under the same domain is still there in the second pass.
    ///
    /// Only called if the notifier [`has_two_passes`](Notifier::has_two_passes); its
    /// `invalidate_range` is not called by anybody then. By default everything is done in this pass.
    fn begin_invalidate_ranges(&self, ranges: &[Range], token: &mut Token) -> Progress {
        let _ = token;
        for range in ranges {
            self.invalidate_range(*range);
        }
        Progress::Complete
    }

    /// The second pass: waits until no device uses a translation of `ranges` that was removed before
    /// the first. Called once for each [`Progress::Pending`], by the same thread, after the first
    /// pass of everyone. Same conditions: must not sleep or allocate.
    fn finish_invalidate_ranges(&self, ranges: &[Range], token: &mut Token) {
        let _ = (ranges, token);
    }

    /// The translations of a (never empty) range are about to change: as
    /// [`invalidate_range_start`](Notifier::invalidate_range_start), which is what it calls by
    /// default, with the reason. The first of two passes; the second,
    /// [`finish_start`](Notifier::finish_start), follows if it says [`Progress::Pending`].
    ///
    /// # Errors
    ///
    /// [`WouldBlock`] if the invalidation is not
    /// [blockable](Invalidation::is_blockable) and the work cannot be done without sleeping. Nothing
    /// has changed then, and no end follows for this notifier. A notifier of 2017 may sleep, so by
    /// default that is the answer. In a blockable one a refusal is reported as
    /// [`Misuse::RefusedBlockable`](crate::Misuse::RefusedBlockable) and counts as success.
    fn start_invalidation(
        &self,
        invalidation: &Invalidation,
        token: &mut Token,
    ) -> Result<Progress, WouldBlock> {
        let _ = token;
        if !invalidation.is_blockable() {
            return Err(WouldBlock);
        }
        self.invalidate_range_start(invalidation.range());
        Ok(Progress::Complete)
    }

    /// The second pass of a start. Called once for each [`Progress::Pending`], by the same thread,
    /// after the first pass of everyone, also if somebody refused meanwhile (an end follows then).
    fn finish_start(&self, invalidation: &Invalidation, token: &mut Token) {
        let _ = (invalidation, token);
    }

    /// The translations of the range have changed, or will not change after all since somebody
    /// refused. Called once for each successful start, with the same invalidation; may sleep if that
    /// is blockable. By default [`invalidate_range_end`](Notifier::invalidate_range_end).
    fn end_invalidation(&self, invalidation: &Invalidation) {
        self.invalidate_range_end(invalidation.range());
    }
}
