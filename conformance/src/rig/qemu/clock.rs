//! The rig's clock, by which every history of a rig with QEMU is written.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// A clock that begins with 0.
pub struct Clock {
    start: Instant,
    last: AtomicU64,
}

impl Default for Clock {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            last: AtomicU64::new(0),
        }
    }
}

impl Clock {
    /// The time in nanoseconds, of which no two moments are the same.
    pub fn now(&self) -> u64 {
        let elapsed = self.start.elapsed().as_nanos() as u64;
        let later = |last: u64| Some(elapsed.max(last + 1));
        let before = self
            .last
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, later);
        elapsed.max(before.unwrap_or_else(|last| last) + 1)
    }
}
