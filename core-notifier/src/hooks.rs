//! What a kernel may supply beside its locks.

/// A mistake of a notifier or of who notifies, which the core has put right as far as it can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Misuse {
    /// A notifier refused an invalidation during which it may sleep. It counts as done: the caller
    /// goes on to change the page table.
    RefusedBlockable,
    /// An end came without its start. Interval subscriptions ignore it.
    EndWithoutStart,
}

/// How an address space waits and whom it tells what.
///
/// Every method has a default. Waits without hooks call what the domain's waits call between two
/// looks ([`Srcu::with_relax`](crate::Srcu::with_relax)).
pub trait AddressSpaceHooks: Send + Sync {
    /// Waits until `done` says yes: a wait queue with the condition `done`.
    ///
    /// Looks at `done` again at the latest after a [`wake`](AddressSpaceHooks::wake) that came after the last
    /// look. May sleep. Not called on a path that only notifies, with one exception: a blockable
    /// start on an address space that has more invalidations open than can be counted.
    fn wait(&self, done: &dyn Fn() -> bool) {
        while !done() {
            crate::primitive::spin_loop();
        }
    }

    /// Somebody's condition may have come true: wakes whoever sleeps in [`wait`](AddressSpaceHooks::wait).
    ///
    /// Called by the end of an invalidation, so under its conditions.
    fn wake(&self) {}

    /// A callback begins that must not sleep, on this thread. Linux: `non_block_start`.
    fn enter_non_blocking(&self) {}

    /// That callback has returned. Linux: `non_block_end`.
    fn leave_non_blocking(&self) {}

    /// Somebody made a mistake; Linux prints a warning with a stack trace. Must not panic or sleep.
    fn report(&self, misuse: Misuse) {
        let _ = misuse;
    }
}
