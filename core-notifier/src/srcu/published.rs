//! A pointer that readers follow without a lock and writers swap.

use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use core::mem::ManuallyDrop;
use core::ops::Deref;
use core::ptr::{self, NonNull};

use super::{GracePeriod, Srcu, SrcuGuard};
use crate::primitive::{AtomicPtr, Ordering, state_total_order};

/// An immutable value, or none, that can be replaced while readers look at it.
///
/// Reading takes no lock and allocates nothing. A replaced value comes back as [`Retired`], which
/// cannot be taken apart before every reader that might have seen it has left.
pub struct Published<T> {
    pointer: AtomicPtr<T>,
    srcu: Arc<Srcu>,
}

// SAFETY: a `Published` owns its value and hands it to the thread that replaces it.
unsafe impl<T: Send + Sync> Send for Published<T> {}
// SAFETY: readers share the value (`Sync`), and any thread may come to own it by replacing it
// (`Send`).
unsafe impl<T: Send + Sync> Sync for Published<T> {}

impl<T: Send + Sync> Published<T> {
    /// Nothing published yet; readers will enter `srcu`.
    pub fn new(srcu: Arc<Srcu>) -> Self {
        Published {
            pointer: AtomicPtr::new(ptr::null_mut()),
            srcu,
        }
    }

    /// The domain whose grace periods decide when a replaced value may be dropped.
    pub fn srcu(&self) -> &Arc<Srcu> {
        &self.srcu
    }

    /// Whether anything is published: one relaxed load.
    #[inline]
    pub fn is_some(&self) -> bool {
        !self.pointer.load(Ordering::Relaxed).is_null()
    }

    /// Enters a read section and returns the present value.
    ///
    /// If nothing is published this is one relaxed load and no section is entered. Legal in any
    /// context, interrupts off included.
    #[inline]
    pub fn read(&self) -> Option<Reader<'_, T>> {
        if !self.is_some() {
            return None;
        }
        let section = self.srcu.read();
        // `SeqCst`, after the section's own `SeqCst` entry: a section that the updater does not
        // count finds the new pointer here. See the argument in `Srcu`.
        let value = NonNull::new(self.pointer.load(Ordering::SeqCst))?;
        Some(Reader {
            value,
            _section: section,
        })
    }

    /// Publishes `value` and returns what was published before.
    ///
    /// Never waits. Writers that derive the new value from the old one serialize among themselves.
    pub fn replace(&self, value: Option<Box<T>>) -> Option<Retired<T>> {
        let new = value.map_or(ptr::null_mut(), Box::into_raw);
        let old = self.pointer.swap(new, Ordering::SeqCst);
        state_total_order();
        NonNull::new(old).map(|value| Retired {
            value,
            srcu: Arc::downgrade(&self.srcu),
            grace_period: self.srcu.next_grace_period(),
        })
    }
}

impl<T> Drop for Published<T> {
    fn drop(&mut self) {
        let pointer = self.pointer.load(Ordering::Relaxed);
        if !pointer.is_null() {
            // SAFETY: every non-null pointer comes from `Box::into_raw` in `replace`, which would
            // have taken it away again. A `Reader` borrows `self`, so there is none.
            drop(unsafe { Box::from_raw(pointer) });
        }
    }
}

/// A read section together with the value that it protects.
///
/// One that is leaked ends no section: every later grace period of the domain waits for ever.
pub struct Reader<'a, T> {
    value: NonNull<T>,
    _section: SrcuGuard<'a>,
}

impl<T> Deref for Reader<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the pointer was loaded inside the section that this reader still holds, and
        // `Retired` frees a value only after a grace period that began after it was replaced.
        unsafe { self.value.as_ref() }
    }
}

/// A value that readers may still be looking at.
///
/// Dropping it drops the value, after waiting for a grace period if none has passed since the value
/// was replaced. So drop it where waiting is allowed, or inside a [`Srcu::call`].
#[must_use = "dropping it waits for a grace period; use `Srcu::call` where that is not allowed"]
pub struct Retired<T> {
    value: NonNull<T>,
    srcu: Weak<Srcu>,
    grace_period: GracePeriod,
}

// SAFETY: a `Retired` owns its value (`Send`); readers elsewhere may still share it (`Sync`).
unsafe impl<T: Send + Sync> Send for Retired<T> {}
// SAFETY: a shared `Retired` gives no access to the value.
unsafe impl<T: Send + Sync> Sync for Retired<T> {}

impl<T> Retired<T> {
    /// Whether the value can be dropped without waiting.
    pub fn is_reclaimable(&self) -> bool {
        self.srcu
            .upgrade()
            .is_none_or(|srcu| srcu.has_elapsed(self.grace_period))
    }

    /// Waits for the readers and returns the value. Same conditions as [`Srcu::synchronize`].
    pub fn reclaim(self) -> Box<T> {
        let mut this = ManuallyDrop::new(self);
        let value = this.wait_and_take();
        // SAFETY: `this` is not dropped, and its weak reference is not used again.
        unsafe { ptr::drop_in_place(&raw mut this.srcu) };
        value
    }

    /// Called once, from `reclaim` or from `drop`.
    fn wait_and_take(&mut self) -> Box<T> {
        // A domain that is gone has no readers: each borrows a `Published` that keeps it alive.
        if let Some(srcu) = self.srcu.upgrade() {
            srcu.wait_for(self.grace_period);
        }
        // SAFETY: from `Box::into_raw` in `replace`, which removed it from where readers find it;
        // those who had found it before have left since.
        unsafe { Box::from_raw(self.value.as_ptr()) }
    }
}

impl<T> Drop for Retired<T> {
    fn drop(&mut self) {
        drop(self.wait_and_take());
    }
}
