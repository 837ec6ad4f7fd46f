//! Who is told of what goes to the hardware.

use alloc::sync::Arc;

/// Told of every command, doorbell and wait of one IOMMU, in the order in which they happen.
///
/// It is for tests, tracing and counting. The calls come from under the ring's lock and may come
/// with interrupts off: they must be short and must not call back into the framework.
pub trait Observer: Send + Sync + 'static {
    /// Whether anything is done with what it is told; if not, nothing is spent on telling.
    const LISTENS: bool = true;

    /// A command was posted: its little-endian 64-bit words.
    fn command(&self, words: &[u64]) {
        let _ = words;
    }
    /// The tail register was written.
    fn doorbell(&self) {}
    /// A completion is about to be waited for.
    fn wait(&self) {}
}

impl Observer for () {
    const LISTENS: bool = false;
}

impl<T: Observer> Observer for Arc<T> {
    const LISTENS: bool = T::LISTENS;

    fn command(&self, words: &[u64]) {
        (**self).command(words);
    }
    fn doorbell(&self) {
        (**self).doorbell();
    }
    fn wait(&self) {
        (**self).wait();
    }
}
