//! The command queues of Linux 7.3's three IOMMU drivers, as far as submitting a list and waiting for
//! it goes.
//!
//! Written for comparison from a description of the algorithms; no line is Linux's. Errors, time-outs
//! and interrupts are left out, which is to the peers' advantage.

mod device;
mod floor;
mod riscv;
mod smmuv3;
mod vtd;

pub use device::SpinLock;
pub use floor::Floor;
pub use riscv::RiscvQueue;
pub use smmuv3::SmmuQueue;
pub use vtd::VtdQueue;

/// A queue that many CPUs post to.
pub trait Queue: Sync {
    /// Posts so many commands and a sync, and waits until they are complete.
    fn invalidate(&self, commands: usize);
}

/// Slots of each queue.
const SLOTS: u32 = 1024;

/// A command that is no sync, as the device sees it.
const COMMAND: u64 = 1;
/// A sync, likewise.
const SYNC: u64 = 2;
