//! What a kernel supplies: three small traits, taken by instance, and one observer.
//!
//! Nothing here is global, so two IOMMUs, or two tests, can have different platforms.

mod clock;
mod dma;
mod mmio;
mod observer;

pub use clock::{Clock, Deadline, wait_until};
pub use dma::{DmaBlock, DmaBuffer, DmaMemory, WalkerCoherency};
pub use mmio::Mmio;
pub use observer::Observer;

/// The types a kernel supplies for one IOMMU.
///
/// The trait names types only; the instances travel in [`Parts`].
pub trait Platform: Send + Sync + 'static {
    /// Access to the IOMMU's registers.
    type Mmio: Mmio;
    /// Memory that the IOMMU can read and write.
    type Memory: DmaMemory;
    /// Time, and what to do while waiting.
    type Clock: Clock;
    /// Who is told of commands, doorbells and waits; `()` for nobody, at no cost.
    type Observer: Observer;

    /// Runs `section` with interrupts off on this CPU, and restores them as they were.
    ///
    /// The ring takes its lock inside. A kernel that notifies from interrupt handlers must supply
    /// this, or a handler that interrupts the holder of the lock waits for it for ever; others may
    /// keep the default, which changes nothing.
    fn without_interrupts<T>(section: impl FnOnce() -> T) -> T {
        section()
    }
}

/// The instances of one IOMMU's [`Platform`].
///
/// A backend takes them at probe and keeps them for the IOMMU's life.
#[derive(Debug)]
pub struct Parts<P: Platform> {
    /// The IOMMU's register window; offset 0 is its first register.
    pub mmio: P::Mmio,
    /// Where tables and queues are allocated.
    pub memory: P::Memory,
    /// The clock for every deadline.
    pub clock: P::Clock,
    /// Told of each command, doorbell and wait.
    pub observer: P::Observer,
}
