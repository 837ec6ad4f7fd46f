//! A counted reference to a notifier that points at it.

use alloc::sync::{Arc, Weak};
use core::mem::ManuallyDrop;
use core::ops::Deref;
use core::ptr::{self, NonNull};

use crate::notifier::Notifier;

/// As an `Arc`, which points at its counters: before a call through that can be made, how far behind
/// them the notifier lies has to be looked up and added, while everyone behind waits.
pub(crate) struct SharedNotifier(NonNull<dyn Notifier>);

// SAFETY: as an `Arc` of what is `Send` and `Sync`.
unsafe impl Send for SharedNotifier {}
// SAFETY: as above.
unsafe impl Sync for SharedNotifier {}

impl SharedNotifier {
    pub(crate) fn new(notifier: &Arc<dyn Notifier>) -> Self {
        let pointer = Arc::into_raw(notifier.clone()).cast_mut();
        // SAFETY: it points at a notifier.
        SharedNotifier(unsafe { NonNull::new_unchecked(pointer) })
    }

    /// Whether this is `notifier`: the same allocation.
    pub(crate) fn is(&self, notifier: &Arc<dyn Notifier>) -> bool {
        ptr::addr_eq(self.0.as_ptr(), Arc::as_ptr(notifier))
    }

    pub(crate) fn downgrade(&self) -> Weak<dyn Notifier> {
        // SAFETY: from `Arc::into_raw`; the count that stands for it is not given up here.
        let counted = ManuallyDrop::new(unsafe { Arc::from_raw(self.0.as_ptr()) });
        Arc::downgrade(&counted)
    }
}

impl Clone for SharedNotifier {
    fn clone(&self) -> Self {
        // SAFETY: from `Arc::into_raw`, and counted as long as `self` is.
        unsafe { Arc::increment_strong_count(self.0.as_ptr()) };
        SharedNotifier(self.0)
    }
}

impl Drop for SharedNotifier {
    fn drop(&mut self) {
        // SAFETY: from `Arc::into_raw`; this gives up the count that stands for `self`.
        drop(unsafe { Arc::from_raw(self.0.as_ptr()) });
    }
}

impl Deref for SharedNotifier {
    type Target = dyn Notifier;

    #[inline]
    fn deref(&self) -> &(dyn Notifier + 'static) {
        // SAFETY: counted as long as `self` is.
        unsafe { self.0.as_ref() }
    }
}
