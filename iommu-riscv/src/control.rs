//! Turning the IOMMU's parts on and off. Each change is acknowledged by the hardware, with a deadline.

use crate::caps::Capabilities;
use crate::queue::{self, Registers};
use crate::spec::registers::fields::DDTP;
use crate::spec::registers::{self, DirectoryMode, FeaturesControl, InterruptsPending};
use iommu_core::error::{ProbeError, Timeout};
use iommu_core::platform::{Mmio, Parts, Platform};
use tock_registers::LocalRegisterCopy;

/// Refuses all requests, turns the queues off, clears errors and pending interrupts.
pub(crate) fn turn_off<P: Platform>(
    parts: &Parts<P>,
    capabilities: &Capabilities,
) -> Result<(), Timeout> {
    turn_directory_off(parts)?;
    Registers::disable(parts)?;
    queue::disable_event_queue(parts, registers::FQCSR, "turning the fault queue off")?;
    if capabilities.has_ats() {
        let operation = "turning the page-request queue off";
        queue::disable_event_queue(parts, registers::PQCSR, operation)?;
    }
    let pending = InterruptsPending::CIP
        .union(InterruptsPending::FIP)
        .union(InterruptsPending::PMIP)
        .union(InterruptsPending::PIP);
    parts.mmio.write32(registers::IPSR, pending.bits());
    Ok(())
}

/// `ddtp` to Off, which is legal from every mode; the root stays as it is, as the specification
/// demands.
pub(crate) fn turn_directory_off<P: Platform>(parts: &Parts<P>) -> Result<(), Timeout> {
    let operation = "turning the device directory off";
    let read = || LocalRegisterCopy::<u64, DDTP::Register>::new(parts.mmio.read64(registers::DDTP));
    queue::wait_register(parts, operation, || !read().is_set(DDTP::BUSY))?;
    let root = read().get() & (DDTP::PPN.mask << DDTP::PPN.shift);
    let off = u64::from(DirectoryMode::OFF.0);
    parts.mmio.write64(registers::DDTP, root | off);
    queue::wait_register(parts, operation, || {
        let ddtp = read();
        !ddtp.is_set(DDTP::BUSY) && ddtp.read(DDTP::MODE) == off
    })
}

/// Writes `ddtp`, which is Off and not busy, and says what it holds when it is not busy any more.
pub(crate) fn write_ddtp<P: Platform>(parts: &Parts<P>, value: u64) -> Result<u64, Timeout> {
    let mut found = 0;
    parts.mmio.write64(registers::DDTP, value);
    queue::wait_register(parts, "turning the device directory on", || {
        found = parts.mmio.read64(registers::DDTP);
        found & (DDTP::BUSY.mask << DDTP::BUSY.shift) == 0
    })?;
    Ok(found)
}

/// `fctl`, which may be written only while everything is off.
pub(crate) fn set_control<P: Platform>(
    parts: &Parts<P>,
    capabilities: &Capabilities,
) -> Result<(), ProbeError> {
    let wanted = capabilities.wanted_control().bits();
    parts.mmio.write32(registers::FCTL, wanted);
    let found = parts.mmio.read32(registers::FCTL);
    capabilities.accept_control(FeaturesControl::from_bits_retain(found))
}
