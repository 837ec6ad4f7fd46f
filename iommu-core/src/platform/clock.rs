//! Time, and what to do while waiting.

use crate::error::Timeout;
use alloc::sync::Arc;

/// A monotonic clock. Every wait of the framework ends by it.
///
/// The implementer promises that [`now`](Clock::now) never goes backwards on one CPU, is at most a
/// few microseconds apart between CPUs, and keeps moving while interrupts are off.
pub trait Clock: Send + Sync + 'static {
    /// Nanoseconds since an arbitrary moment.
    fn now(&self) -> u64;

    /// Called on each turn of a waiting loop, whether for the hardware or for the ring's lock. It may
    /// run with interrupts off and under the caller's spin locks, so it must not sleep.
    fn relax(&self) {
        core::hint::spin_loop();
    }
}

impl<T: Clock> Clock for Arc<T> {
    fn now(&self) -> u64 {
        (**self).now()
    }
    fn relax(&self) {
        (**self).relax();
    }
}

/// The end of a wait.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    start: u64,
    limit: u64,
}

impl Deadline {
    /// A deadline `limit` nanoseconds from now.
    pub fn after(clock: &impl Clock, limit: u64) -> Self {
        Self {
            start: clock.now(),
            limit,
        }
    }

    /// Whether the time is over.
    pub fn has_passed(&self, clock: &impl Clock) -> bool {
        clock.now().saturating_sub(self.start) >= self.limit
    }
}

/// Waits until `condition` holds, at most `limit` nanoseconds, and says in the error what was
/// waited for. The condition is looked at once more after the time is over.
pub fn wait_until(
    clock: &impl Clock,
    limit: u64,
    operation: &'static str,
    mut condition: impl FnMut() -> bool,
) -> Result<(), Timeout> {
    let deadline = Deadline::after(clock, limit);
    loop {
        let over = deadline.has_passed(clock);
        if condition() {
            return Ok(());
        }
        if over {
            return Err(Timeout {
                operation,
                nanoseconds: limit,
            });
        }
        clock.relax();
    }
}
