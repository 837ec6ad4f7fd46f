//! Subscribing to a part of the address space.

use alloc::sync::Arc;

use super::{AddressSpace, AddressSpaceLock};
use crate::error::{InsertError, RemoveError};
use crate::interval::{IntervalNotifier, IntervalSubscription, Intervals, Waiting};
use crate::planted::{self, Fault};
use crate::range::Range;
use crate::srcu::Mode;

impl<M: Mode> AddressSpace<M> {
    /// Subscribes `notifier` to the changes of translations in `range`.
    ///
    /// Never waits for an invalidation. If some are open, they count as overlapping, since their
    /// ranges are not known: until they end, [`IntervalSubscription::read_begin`] waits.
    ///
    /// The first time, `lock` is taken, so that no invalidation is open that was not counted; later
    /// it is not touched. Allocates, and copies the array of subscriptions. May sleep. The address
    /// space is alive (Linux: `mm_users` is not zero). Legal inside callbacks except for the first
    /// time. The same notifier may have any number of intervals, overlapping ones too.
    ///
    /// Every insertion is paired with one [removal](AddressSpace::remove_interval), also after exit.
    ///
    /// # Errors
    ///
    /// [`InsertError`]; nothing has changed.
    pub fn insert_interval(
        &self,
        lock: &impl AddressSpaceLock,
        range: Range,
        notifier: Arc<dyn IntervalNotifier>,
    ) -> Result<Arc<IntervalSubscription>, InsertError> {
        self.insert_under(|| lock.lock(), range, notifier)
    }

    /// As [`insert_interval`](AddressSpace::insert_interval), for a caller who already holds what
    /// [`AddressSpaceLock`] describes.
    ///
    /// # Errors
    ///
    /// [`InsertError`]; nothing has changed.
    pub fn insert_interval_locked(
        &self,
        range: Range,
        notifier: Arc<dyn IntervalNotifier>,
    ) -> Result<Arc<IntervalSubscription>, InsertError> {
        self.insert_under(|| (), range, notifier)
    }

    fn insert_under<G>(
        &self,
        lock: impl FnOnce() -> G,
        range: Range,
        notifier: Arc<dyn IntervalNotifier>,
    ) -> Result<Arc<IntervalSubscription>, InsertError> {
        if range.is_empty() {
            return Err(InsertError::EmptyRange);
        }
        let intervals = match self.intervals.get() {
            Some(intervals) => intervals,
            None => {
                let new = Intervals::new(self.srcu().clone(), self.waiting());
                let _nothing_is_open = lock();
                self.intervals.call_once(|| new)
            }
        };
        // After they can be found, so that exit either closes them or is seen here.
        if self.subscriptions.is_released() && !planted::is(Fault::InsertedAfterExit) {
            return Err(InsertError::Released);
        }
        intervals.insert(range, notifier)
    }

    /// Ends a subscription to an interval: when this returns, no callback of it runs or will run.
    ///
    /// Begins to take effect at once. If an invalidation is open that met some interval, waits for
    /// its end, unless the subscription was inserted while it was open; waits for a grace period in
    /// any case. The address space's references to the notifier are dropped before this returns, or
    /// by whatever insertion or removal of others is still under way.
    ///
    /// May sleep. Never returns between a start and its end of the same thread, nor inside a
    /// callback or any other section of the same domain, unless that is
    /// [`Checked`](crate::Checked); not under the user lock.
    ///
    /// # Errors
    ///
    /// [`RemoveError::NotInserted`]; [`RemoveError::Wait`] inside a section of a
    /// [`Checked`](crate::Checked) domain. Nothing has changed.
    pub fn remove_interval(
        &self,
        subscription: &Arc<IntervalSubscription>,
    ) -> Result<(), RemoveError> {
        self.intervals
            .get()
            .ok_or(RemoveError::NotInserted)?
            .remove(subscription)
    }

    fn waiting(&self) -> Waiting {
        Waiting {
            relax: self.srcu().relax(),
            hooks: self.hooks,
        }
    }
}
