//! What a subscriber implements.

use crate::range::Range;

/// A subscriber to the changes of one address space.
///
/// Every method does nothing by default; implement those that the cached state calls for. There are
/// two kinds of subscriber, and one should be one kind only:
/// - who lets hardware walk the CPU's page table (an IOMMU) implements
///   [`invalidate_range`](Notifier::invalidate_range) and [`release`](Notifier::release);
/// - who keeps a copy of the translations (a hypervisor's second stage) implements
///   [`invalidate_range_start`](Notifier::invalidate_range_start) and
///   [`invalidate_range_end`](Notifier::invalidate_range_end), and `release`.
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
}
