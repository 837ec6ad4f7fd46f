//! Deferred invalidation: a choice for the DMA mappings of a kernel that trusts its devices.
//!
//! Strict is to [`flush`] after each unmap. A [`DeferredDomain`] instead keeps what the
//! unmap would have given back, gathers up to [`Bounds`] of it, and then one flush serves all.
//!
//! # What is given up
//!
//! Until the flush, a device can still read and write the unmapped frames. At most
//! [`Bounds::ranges`] unmapped ranges are in that state, and none longer than
//! [`Bounds::nanoseconds`], the lateness of [`poll`](DeferredDomain::poll) and one flush. What still
//! holds: neither frame nor I/O virtual address goes to anybody else before the hardware has
//! confirmed that no translation is left. So a device cannot reach what was never mapped for it; but
//! a driver must not take what it reads after an unmap for final, as the device may still write.
//!
//! Hence devices that are not trusted are refused, and there is no deferred shared virtual
//! addressing: a domain makes its invalidation set itself, and [`Sva`](crate::sva::Sva) never gives
//! away its own.

mod error;
mod pending;
#[cfg(all(test, not(loom)))]
mod tests;

pub use error::{Held, Refused};

use crate::Range;
use crate::error::QueueError;
use crate::flush::flush;
use crate::invalidation_set::{Attachment, InvalidationSet, Replaced};
use crate::iommu::Iommu;
use crate::operation::Levels;
use crate::planted::{self, Fault};
use crate::platform::Clock;
use alloc::sync::Arc;
use core::fmt;
use core::mem;
use core_notifier::Srcu;
use pending::{Batch, Entry, Pending};
use spin::Mutex;

/// How much may be unmapped and not yet invalidated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Ranges; values below 2 count as 2. A flush begins at half of them, which leaves room for
    /// what other CPUs unmap meanwhile; one that finds no room flushes at once.
    pub ranges: usize,
    /// Nanoseconds from an unmap to the time when [`poll`](DeferredDomain::poll) flushes.
    pub nanoseconds: u64,
}

impl Bounds {
    /// 256 ranges and 10 ms, as one CPU's queue in Linux.
    pub const DEFAULT: Self = Self {
        ranges: 256,
        nanoseconds: 10_000_000,
    };
}

/// Whether a device may be left with stale translations for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// The kernel relies on its driver and firmware anyway.
    Trusted,
    /// It could be an attack: an external port, or a guest's device.
    Untrusted,
}

/// Who owns what unmaps hold back.
///
/// Both methods are called without a lock of the domain, on the CPU whose unmap or poll completed the
/// flush, in its context: possibly with interrupts off. They must not call back into the domain.
pub trait Owner: Send + Sync {
    /// What one unmap holds back: frames, the I/O virtual address, page-table pages that were freed.
    type Item: Send;

    /// No device reaches `item` any more: it may be reused.
    fn reclaim(&self, item: Self::Item);

    /// The hardware did not confirm a flush. The `held` ranges that are pending stay so until a
    /// later flush succeeds, which every further unmap that finds the domain full and every poll
    /// tries; a kernel that resets or detaches the devices meanwhile makes it succeed.
    fn flush_failed(&self, error: QueueError, held: usize);
}

/// The DMA mappings of devices that share one I/O page table, with deferred invalidation.
///
/// All methods may be called from several CPUs at a time. [`unmapped`](Self::unmapped),
/// [`flush`](Self::flush) and [`poll`](Self::poll) allocate nothing and may run with interrupts
/// off; where one of them runs in an interrupt handler, all callers run with interrupts off.
///
/// Dropping it flushes; what the hardware does not confirm even then is leaked.
pub struct DeferredDomain<O: Owner, C: Clock> {
    set: InvalidationSet,
    bounds: Bounds,
    owner: O,
    clock: C,
    pending: Mutex<Pending<O::Item>>,
}

impl<O: Owner, C: Clock> DeferredDomain<O, C> {
    /// A domain without devices, with an invalidation set of its own whose readers enter `srcu`.
    /// This allocates for all of [`Bounds::ranges`].
    pub fn new(srcu: Arc<Srcu>, bounds: Bounds, owner: O, clock: C) -> Self {
        let ranges = bounds.ranges.max(2);
        Self {
            set: InvalidationSet::new(srcu),
            bounds: Bounds { ranges, ..bounds },
            owner,
            clock,
            pending: Mutex::new(Pending::new(ranges)),
        }
    }

    /// Adds what an attachment caches; before the device is programmed, as in
    /// [`InvalidationSet::add`].
    ///
    /// # Errors
    ///
    /// [`Refused`] if the device is not trusted, or if the IOMMU caches entries that are not
    /// present. Such a device belongs into a strict domain.
    pub fn add(
        &self,
        iommu: &Arc<dyn Iommu>,
        attachment: Attachment,
        trust: Trust,
    ) -> Result<Replaced, Refused> {
        if trust == Trust::Untrusted {
            return Err(Refused::Untrusted(attachment.device));
        }
        if iommu.features().caches_not_present {
            return Err(Refused::CachesNotPresent);
        }
        Ok(self.set.add(iommu, attachment))
    }

    /// Takes away what [`add`](Self::add) added; after the hardware holds nothing of it.
    pub fn remove(&self, iommu: &Arc<dyn Iommu>, attachment: Attachment) -> Replaced {
        self.set.remove(iommu, attachment)
    }

    /// `range` was taken out of the I/O page table; `item` is what may not be reused before the
    /// hardware has forgotten it.
    ///
    /// Flushes and waits if half of [`Bounds::ranges`] are reached, if there is no room at all, or if
    /// the oldest is due; else only takes a lock for a few stores.
    ///
    /// # Errors
    ///
    /// [`Held`] gives `item` back if there is no room and the flush failed: the range is not
    /// invalidated, and nothing of it may be reused. It is for the caller to keep, and to bring again.
    pub fn unmapped(
        &self,
        range: Range,
        levels: Levels,
        item: O::Item,
    ) -> Result<(), Held<O::Item>> {
        let since = self.clock.now();
        let entry = Entry {
            range,
            levels,
            since,
            item,
        };
        let mut pending = self.pending.lock();
        match pending.push(entry) {
            Ok(()) => {
                let is_due = pending.is_half_full() || self.is_overdue(&pending, since);
                drop(pending);
                if is_due {
                    // A failure was reported, and everything is still held.
                    let _ = self.flush();
                }
                Ok(())
            }
            Err(Entry { item, .. }) => {
                let batch = pending.seal().with(range, levels);
                drop(pending);
                match self.run(&batch) {
                    Ok(()) => {
                        self.owner.reclaim(item);
                        Ok(())
                    }
                    Err(error) => Err(Held { item, error }),
                }
            }
        }
    }

    /// Flushes if the oldest unmapped range is [`Bounds::nanoseconds`] old. The kernel's timer calls
    /// it, at the latest at [`deadline`](Self::deadline).
    ///
    /// # Errors
    ///
    /// As [`flush`](Self::flush).
    pub fn poll(&self) -> Result<(), QueueError> {
        let now = self.clock.now();
        let is_overdue = self.is_overdue(&self.pending.lock(), now);
        if is_overdue { self.flush() } else { Ok(()) }
    }

    /// When [`poll`](Self::poll) has something to do, by the domain's clock; `None` if nothing is
    /// pending.
    pub fn deadline(&self) -> Option<u64> {
        let oldest = self.pending.lock().oldest()?;
        Some(oldest.saturating_add(self.bounds.nanoseconds))
    }

    /// How many unmapped ranges are not given back yet.
    pub fn held(&self) -> usize {
        self.pending.lock().len()
    }

    /// Invalidates everything that was unmapped before the call, by one operation on every IOMMU,
    /// and gives it back to the owner.
    ///
    /// # Errors
    ///
    /// The first error of an IOMMU, after the owner was told. Everything stays held.
    pub fn flush(&self) -> Result<(), QueueError> {
        let batch = self.pending.lock().seal();
        self.run(&batch)
    }

    fn run(&self, batch: &Batch) -> Result<(), QueueError> {
        if planted::is(Fault::ReclaimedBeforeFlush) {
            self.pending.lock().complete(batch.end);
            self.reclaim(batch.end);
        }
        let result = flush(&self.set, batch.span, batch.levels);
        if let Err(error) = result
            && !planted::is(Fault::FailureReclaimed)
        {
            self.owner.flush_failed(error, self.held());
            return result;
        }
        let end = if planted::is(Fault::LaterUnmapsReclaimed) {
            self.pending.lock().seal().end
        } else {
            batch.end
        };
        self.pending.lock().complete(end);
        self.reclaim(end);
        Ok(())
    }

    /// Gives back what is complete before position `end`: this flush's part at most, so that no CPU
    /// works for others without end.
    fn reclaim(&self, end: u64) {
        loop {
            let Some(item) = self.pending.lock().take_complete(end) else {
                return;
            };
            self.owner.reclaim(item);
        }
    }

    fn is_overdue(&self, pending: &Pending<O::Item>, now: u64) -> bool {
        let age = |since| now.saturating_sub(since);
        pending
            .oldest()
            .is_some_and(|since| age(since) >= self.bounds.nanoseconds)
    }
}

impl<O: Owner, C: Clock> Drop for DeferredDomain<O, C> {
    fn drop(&mut self) {
        if self.flush().is_err() {
            // Dropping an item could free its frames.
            while let Some(item) = self.pending.get_mut().take_any() {
                mem::forget(item);
            }
        }
    }
}

impl<O: Owner, C: Clock> fmt::Debug for DeferredDomain<O, C> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("DeferredDomain")
            .field("bounds", &self.bounds)
            .field("held", &self.held())
            .finish_non_exhaustive()
    }
}
