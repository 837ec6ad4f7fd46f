//! Replaced values that may still be looked at.

use alloc::collections::LinkedList;
use alloc::sync::Arc;

use crate::primitive::Mutex;
use crate::srcu::{Mode, Retired, Srcu};

/// Lets go of replaced values after a grace period, without waiting for it.
pub(crate) struct Retirement<T: Send + Sync + 'static, M: Mode>(Arc<Values<T, M>>);

type Values<T, M> = Mutex<LinkedList<Retired<T, M>>>;

impl<T: Send + Sync + 'static, M: Mode> Retirement<T, M> {
    pub(crate) fn new() -> Self {
        Retirement(Arc::new(Mutex::new(LinkedList::new())))
    }

    /// Drops `value` after a grace period of `srcu`, where it was replaced.
    ///
    /// Whoever waits for a grace period anyway may be first, by [`reclaim`](Self::reclaim);
    /// otherwise a queued callback does it.
    pub(crate) fn retire(&self, srcu: &Srcu<M>, value: Option<Retired<T, M>>) {
        let Some(value) = value else { return };
        let mut node = LinkedList::from([value]);
        self.0.lock().append(&mut node);
        let values = self.0.clone();
        srcu.call(move || reclaim(&values));
    }

    /// Drops the values that nobody looks at any more.
    pub(crate) fn reclaim(&self) {
        reclaim(&self.0);
    }
}

/// Drops values from the front as long as their grace period has passed. They hold references to
/// notifiers, whose destructors run here, outside the lock.
fn reclaim<T: Send + Sync + 'static, M: Mode>(values: &Values<T, M>) {
    let next = || {
        let mut values = values.lock();
        values
            .front()?
            .is_reclaimable()
            .then(|| values.pop_front())?
    };
    while let Some(value) = next() {
        drop(value);
    }
}
