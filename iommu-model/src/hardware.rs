//! What all three models are.

use crate::bus::{PageRequest, Port, Refusal, Request, Translation};
use std::sync::Arc;

/// A modelled IOMMU. Every method may be called from any thread; each is one indivisible event.
pub trait Hardware: Send + Sync + 'static {
    /// A register read of `width` bytes (4 or 8).
    fn read(&self, offset: usize, width: usize) -> u64;

    /// A register write of `width` bytes (4 or 8).
    fn write(&self, offset: usize, width: usize, value: u64);

    /// Does one piece of the work that the hardware does by itself: executes one command, ends one
    /// that waits, writes one event. False if there was none.
    fn step(&self) -> bool;

    /// Fetches something that it may fetch without being asked: walks again what it walked before,
    /// into its caches.
    fn speculate(&self);

    /// Translates an untranslated request. A refusal that is to be reported is recorded.
    fn translate(&self, request: &Request) -> Result<Translation, Refusal>;

    /// Answers an ATS translation request. A translation without the wanted permission is a
    /// [`Refusal::NotPresent`]; neither it nor a success is recorded as a fault.
    fn translate_for_device(&self, request: &Request) -> Result<Translation, Refusal>;

    /// Whether a request of `device` with a translated address is let through.
    fn admits_translated(&self, device: u32) -> bool;

    /// Connects the device with this id.
    fn connect(&self, device: u32, port: Arc<dyn Port>);

    /// Invalidation completions: one bit of `itags` for each tag that is answered.
    fn invalidation_completed(&self, device: u32, itags: u32);

    /// A page request message arrives. The hardware queues it, or answers it itself.
    fn page_request(&self, request: PageRequest);

    /// Takes the interrupts raised since the last call, named as the specification names their
    /// source.
    fn take_interrupts(&self) -> Vec<&'static str>;

    /// Lets the device-TLB invalidations that wait for an answer time out now, as the hardware's
    /// own time limit would.
    fn time_out_devices(&self);

    /// Takes the next command that is no sync for an illegal one.
    fn reject_next(&self);

    /// From now on every register reads as ones and nothing is executed: the IOMMU is gone.
    fn remove(&self);
}
