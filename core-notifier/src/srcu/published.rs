//! A pointer that readers follow without a lock and writers swap.

use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use core::mem::ManuallyDrop;
use core::ops::Deref;
use core::ptr::{self, NonNull};

use super::{Fenced, GracePeriod, Mode, Srcu, SrcuGuard};
use crate::planted::{self, Fault};
use crate::primitive::{AtomicPtr, Ordering, state_total_order};

/// An immutable value, or none, that can be replaced while readers look at it.
///
/// Reading takes no lock and allocates nothing. A replaced value comes back as [`Retired`], which
/// cannot be taken apart before every reader that might have seen it has left.
pub struct Published<T, M: Mode = Fenced> {
    pointer: AtomicPtr<T>,
    srcu: Arc<Srcu<M>>,
}

// SAFETY: a `Published` owns its value and hands it to the thread that replaces it.
unsafe impl<T: Send + Sync, M: Mode> Send for Published<T, M> {}
// SAFETY: readers share the value (`Sync`), and any thread may come to own it by replacing it
// (`Send`).
unsafe impl<T: Send + Sync, M: Mode> Sync for Published<T, M> {}

impl<T: Send + Sync + 'static, M: Mode> Published<T, M> {
    /// Nothing published yet; readers will enter `srcu`.
    pub fn new(srcu: Arc<Srcu<M>>) -> Self {
        Published {
            pointer: AtomicPtr::new(ptr::null_mut()),
            srcu,
        }
    }

    /// The domain whose grace periods decide when a replaced value may be dropped.
    pub fn srcu(&self) -> &Arc<Srcu<M>> {
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
    pub fn read(&self) -> Option<Reader<'_, T, M>> {
        if self.is_some() { self.follow() } else { None }
    }

    /// As [`read`](Published::read), for who has asked already whether [anything is
    /// published](Published::is_some): enters a section in any case.
    #[inline]
    pub(crate) fn follow(&self) -> Option<Reader<'_, T, M>> {
        let section = self.srcu.read();
        // A section that the updater does not count finds the new pointer here. See `Srcu`.
        let follow = planted::weaken(M::FOLLOW, Fault::HookedFollowRelaxed);
        let value = NonNull::new(self.pointer.load(follow))?;
        Some(Reader {
            value,
            _section: section,
        })
    }

    /// Calls `visit` with the present value, if there is one, inside a section, for who has asked
    /// already whether [anything is published](Published::is_some).
    ///
    /// The usual way in is written out apart: while `visit` runs, one register says how to leave.
    #[inline]
    pub(crate) fn visit(&self, visit: impl Fn(&T)) {
        let Some(section) = self.srcu.claim() else {
            return self.visit_beside(visit);
        };
        let follow = planted::weaken(M::FOLLOW, Fault::HookedFollowRelaxed);
        // SAFETY: as for `Reader::deref`; the section is still open.
        if let Some(value) = unsafe { self.pointer.load(follow).as_ref() } {
            visit(value);
        }
        drop(section);
    }

    #[cold]
    #[inline(never)]
    fn visit_beside(&self, visit: impl Fn(&T)) {
        if let Some(value) = self.follow() {
            visit(&value);
        }
    }

    /// Publishes `value` and returns what was published before.
    ///
    /// Never waits. Writers that derive the new value from the old one serialize among themselves.
    pub fn replace(&self, value: Option<Box<T>>) -> Option<Retired<T, M>> {
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

impl<T, M: Mode> Drop for Published<T, M> {
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
pub struct Reader<'a, T, M: Mode = Fenced> {
    value: NonNull<T>,
    _section: SrcuGuard<'a, M>,
}

impl<T, M: Mode> Deref for Reader<'_, T, M> {
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
/// was replaced. So drop it where waiting is allowed, or inside a [`Srcu::call`]. Dropped inside a
/// section of a [`Checked`](crate::Checked) domain, it does not wait but queues such a call.
#[must_use = "dropping it waits for a grace period; use `Srcu::call` where that is not allowed"]
pub struct Retired<T: Send + Sync + 'static, M: Mode = Fenced> {
    value: NonNull<T>,
    srcu: Weak<Srcu<M>>,
    grace_period: GracePeriod,
}

// SAFETY: a `Retired` owns its value (`Send`); readers elsewhere may still share it (`Sync`).
unsafe impl<T: Send + Sync + 'static, M: Mode> Send for Retired<T, M> {}
// SAFETY: a shared `Retired` gives no access to the value.
unsafe impl<T: Send + Sync + 'static, M: Mode> Sync for Retired<T, M> {}

impl<T: Send + Sync + 'static, M: Mode> Retired<T, M> {
    /// Whether the value can be dropped without waiting.
    pub fn is_reclaimable(&self) -> bool {
        self.srcu
            .upgrade()
            .is_none_or(|srcu| srcu.has_elapsed(self.grace_period))
    }

    /// Waits for the readers and returns the value. Same conditions as [`Srcu::synchronize`].
    ///
    /// # Errors
    ///
    /// Itself, where [`Srcu::synchronize`] fails.
    pub fn reclaim(self) -> Result<Box<T>, Self> {
        if self.wait().is_err() {
            return Err(self);
        }
        let mut this = ManuallyDrop::new(self);
        // SAFETY: it has been waited for, and `this` is not dropped.
        let value = unsafe { this.take() };
        // SAFETY: `this` is not dropped, and its weak reference is not used again.
        unsafe { ptr::drop_in_place(&raw mut this.srcu) };
        Ok(value)
    }

    /// If not all readers have left and waiting is refused, the domain that they are in.
    fn wait(&self) -> Result<(), Arc<Srcu<M>>> {
        // A domain that is gone has no readers: each borrows a `Published` that keeps it alive.
        let Some(srcu) = self.srcu.upgrade() else {
            return Ok(());
        };
        if planted::is(Fault::RetiredNotAwaited) {
            return Ok(());
        }
        match srcu.wait_for(self.grace_period) {
            Err(_) if !planted::is(Fault::RetiredInsideDropped) => Err(srcu),
            _ => Ok(()),
        }
    }

    /// # Safety
    ///
    /// Called once, after [`wait`](Self::wait) has succeeded.
    unsafe fn take(&mut self) -> Box<T> {
        // SAFETY: from `Box::into_raw` in `replace`, which removed it from where readers find it;
        // those who had found it before have left since.
        unsafe { Box::from_raw(self.value.as_ptr()) }
    }
}

impl<T: Send + Sync + 'static, M: Mode> Drop for Retired<T, M> {
    fn drop(&mut self) {
        match self.wait() {
            // SAFETY: it has been waited for, and is not used again.
            Ok(()) => drop(unsafe { self.take() }),
            Err(srcu) => {
                let later = Retired {
                    value: self.value,
                    srcu: self.srcu.clone(),
                    grace_period: self.grace_period,
                };
                srcu.call(move || drop(later));
            }
        }
    }
}
