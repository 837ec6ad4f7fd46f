//! Atomics, and the lock of what loom model-checks: the ring, bindings, page requests.

#[cfg(not(loom))]
pub(crate) use core::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
#[cfg(not(loom))]
pub(crate) use spin::Mutex;

use core::ops::DerefMut;

/// Takes `mutex`. While somebody else holds it, calls `relax` again and again.
#[cfg(not(loom))]
pub(crate) fn lock<T>(mutex: &Mutex<T>, relax: impl Fn()) -> impl DerefMut<Target = T> {
    loop {
        if let Some(guard) = mutex.try_lock() {
            return guard;
        }
        while mutex.is_locked() {
            relax();
        }
    }
}

/// Whether somebody holds `mutex`: a look that does not take its line from the holder.
#[cfg(not(loom))]
pub(crate) fn is_taken<T>(mutex: &Mutex<T>) -> bool {
    mutex.is_locked()
}

/// loom has no such look; trying tells.
#[cfg(loom)]
pub(crate) fn is_taken<T>(_: &Mutex<T>) -> bool {
    false
}

/// Takes `mutex`; loom does the waiting.
#[cfg(loom)]
pub(crate) fn lock<T>(mutex: &Mutex<T>, _: impl Fn()) -> impl DerefMut<Target = T> {
    mutex.lock()
}

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
#[cfg(loom)]
pub(crate) use model::Mutex;

#[cfg(loom)]
mod model {
    /// loom's mutex with the interface of the spin lock.
    pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(loom::sync::Mutex::new(value))
        }
        pub(crate) fn lock(&self) -> loom::sync::MutexGuard<'_, T> {
            self.0.lock().expect("a panic ends the model")
        }
        pub(crate) fn try_lock(&self) -> Option<loom::sync::MutexGuard<'_, T>> {
            self.0.try_lock().ok()
        }
    }
}
