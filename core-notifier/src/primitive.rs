//! The atomics, the lock and the waiting hint, replaced by loom's under `cfg(loom)`.

#[cfg(not(loom))]
pub(crate) use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, fence};
#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, fence};

pub(crate) use core::sync::atomic::Ordering;

/// What a wait does between two looks if its caller gave nothing better.
#[cfg(not(loom))]
pub(crate) fn spin_loop() {
    core::hint::spin_loop();
}

/// Lets another thread of the model run.
#[cfg(loom)]
pub(crate) fn spin_loop() {
    loom::thread::yield_now();
}

/// Stands after a `SeqCst` access that later `SeqCst` accesses rely on.
///
/// loom gives `SeqCst` accesses the strength of acquire and release only, so the model states the
/// place in the total order with a fence. Compilers get nothing from here: the access itself is
/// enough, and on x86 the fence would be a second locked operation.
#[inline]
pub(crate) fn state_total_order() {
    #[cfg(loom)]
    fence(Ordering::SeqCst);
}

/// A lock for short sections that neither sleep nor notify.
pub(crate) struct Mutex<T>(Inner<T>);

#[cfg(not(loom))]
type Inner<T> = spin::Mutex<T>;
#[cfg(loom)]
type Inner<T> = loom::sync::Mutex<T>;

#[cfg(not(loom))]
type MutexGuard<'a, T> = spin::MutexGuard<'a, T>;
#[cfg(loom)]
type MutexGuard<'a, T> = loom::sync::MutexGuard<'a, T>;

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Mutex(Inner::new(value))
    }

    #[cfg(not(loom))]
    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock()
    }

    #[cfg(loom)]
    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().expect("a model thread panicked")
    }
}
