//! The queue of calls that wait for a grace period.

use alloc::boxed::Box;
use core::ptr;

use crate::primitive::{AtomicPtr, Ordering};

type Callback = Box<dyn FnOnce() + Send>;

struct Node {
    next: *mut Node,
    callback: Callback,
}

/// Callbacks in the order of their queueing. Queueing takes no lock.
pub(super) struct CallbackQueue {
    newest: AtomicPtr<Node>,
}

// SAFETY: the queue owns its nodes, a node holds a `Send` callback and is touched by one thread at
// a time: the one that pushes it until the exchange in `push`, the one that took it after `take`.
unsafe impl Send for CallbackQueue {}
// SAFETY: as above; the only shared state is the atomic pointer.
unsafe impl Sync for CallbackQueue {}

impl CallbackQueue {
    pub(super) fn new() -> Self {
        CallbackQueue {
            newest: AtomicPtr::new(ptr::null_mut()),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.newest.load(Ordering::Relaxed).is_null()
    }

    pub(super) fn push(&self, callback: Callback) {
        let node = Box::into_raw(Box::new(Node {
            next: ptr::null_mut(),
            callback,
        }));
        let mut newest = self.newest.load(Ordering::Relaxed);
        loop {
            // SAFETY: `node` came from `Box::into_raw` above and is not published yet.
            unsafe { (*node).next = newest };
            match self.newest.compare_exchange_weak(
                newest,
                node,
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                Ok(_) => return,
                Err(current) => newest = current,
            }
        }
    }

    /// Takes everything that is queued, oldest first.
    pub(super) fn take(&self) -> Batch {
        let mut newest = self.newest.swap(ptr::null_mut(), Ordering::Acquire);
        let mut oldest = ptr::null_mut();
        while !newest.is_null() {
            // SAFETY: the exchange made this thread the only owner of the chain; its nodes came
            // from `Box::into_raw` in `push` and were published with release.
            let next = unsafe { ptr::replace(&raw mut (*newest).next, oldest) };
            oldest = newest;
            newest = next;
        }
        Batch { oldest }
    }
}

impl Drop for CallbackQueue {
    /// Runs what is left. The domain is going away, so it has no reader and no reader to come:
    /// every grace period has passed.
    fn drop(&mut self) {
        while !self.is_empty() {
            self.take().for_each(|callback| callback());
        }
    }
}

/// The callbacks of one [`CallbackQueue::take`]. Those not iterated over are dropped uncalled.
pub(super) struct Batch {
    oldest: *mut Node,
}

impl Batch {
    pub(super) fn is_empty(&self) -> bool {
        self.oldest.is_null()
    }
}

impl Iterator for Batch {
    type Item = Callback;

    fn next(&mut self) -> Option<Callback> {
        if self.oldest.is_null() {
            return None;
        }
        // SAFETY: the batch owns its chain of nodes, each from `Box::into_raw`, and leaves none
        // reachable twice.
        let node = unsafe { Box::from_raw(self.oldest) };
        self.oldest = node.next;
        Some(node.callback)
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.for_each(drop);
    }
}
