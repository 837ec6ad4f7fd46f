//! A lock that nobody waits for.

use crate::primitive::{AtomicBool, Ordering};

/// Who does not get it finds something else to do.
pub(super) struct TryLock(AtomicBool);

pub(super) struct TryLockGuard<'a>(&'a AtomicBool);

impl TryLock {
    pub(super) fn new() -> Self {
        TryLock(AtomicBool::new(false))
    }

    pub(super) fn try_lock(&self) -> Option<TryLockGuard<'_>> {
        self.0
            .compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
            .then(|| TryLockGuard(&self.0))
    }
}

impl Drop for TryLockGuard<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}
