//! Commands that a guest wrote for its own IOMMU, on the host's queue.
//!
//! A hypervisor that gives a guest a device behind a second stage lets it have an IOMMU of its own,
//! whose commands it traps. Those that invalidate what the hardware cached for the guest have to
//! reach the hardware; but a queue that all guests and the host share stops at an illegal command,
//! and a tag or a device id in the guest's words may be another guest's. So nothing is passed on:
//! each backend's `guest` module decodes a command against a list of what a guest may ask for and
//! against its reserved bits, and makes a new one out of the fields that it understood, under the
//! guest's tag and for the guest's devices. What it cannot understand it refuses ([`Refusal`]).
//!
//! | What the guest wrote | What the host sends |
//! |---|---|
//! | an invalidation under any tag, or under none | the same under the guest's tag |
//! | an invalidation of everything | an invalidation of everything under the guest's tag |
//! | a command that names a device | the same for the host's device id, if the device is the guest's |
//! | a sync, a response, an invalidation of what the hypervisor emulates | nothing: [`Refusal::HostOnly`] |
//!
//! `Unit::invalidate_for_guest` of each backend takes a [`Guest`] and [`GuestCommand`]s, posts what is
//! legal with one doorbell and waits once; [`Executed`] says how far it came. The hypervisor acts on
//! the command at which it stopped, for instance writes what the guest's sync asks for, and goes on
//! behind it.

mod batch;
mod command;
mod devices;
mod refusal;
#[cfg(all(test, not(loom)))]
mod tests;

pub use batch::{Batch, Executed, MOST_COMMANDS, SilentDevices};
pub use command::{GuestCommand, HostCommand, check_reserved, check_sign_extended, sized_block};
pub use devices::{DeviceLookup, DeviceMap, MapError};
pub use refusal::Refusal;

use crate::ids::{DeviceId, Pasid};
use core::fmt;
use core::num::NonZeroU16;

/// The tag by which an IOMMU tells the translations of one guest from those of the host and of other
/// guests.
///
/// VT-d: domain-id. SMMUv3: VMID. RISC-V: GSCID. Never 0, which on SMMUv3 is the host's own VMID and
/// on VT-d stands for what is not present.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GuestTag(NonZeroU16);

impl GuestTag {
    /// A tag, unless it is 0.
    pub const fn new(value: u16) -> Option<Self> {
        match NonZeroU16::new(value) {
            Some(value) => Some(Self(value)),
            None => None,
        }
    }

    /// The number.
    pub const fn get(self) -> u16 {
        self.0.get()
    }
}

/// A device of a guest, under both its ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestDevice {
    /// As the guest names it.
    pub guest: DeviceId,
    /// As the host names it.
    pub host: DeviceId,
}

/// What one guest owns of one IOMMU.
///
/// The hypervisor vouches for it: `tag` is in the entries of this guest's devices and in no other,
/// and each device that `devices` knows is the guest's alone. On VT-d, where domain-ids are also the
/// tags of address spaces of the host, `tag` comes from
/// [`Iommu::allocate_tag`](crate::iommu::Iommu::allocate_tag).
#[derive(Clone, Copy)]
pub struct Guest<'a> {
    /// The tag of its translations.
    pub tag: GuestTag,
    /// Its devices.
    pub devices: &'a dyn DeviceLookup,
    /// Width in bits of the PASIDs that it may use; the hardware may allow fewer.
    pub pasid_bits: u8,
}

impl Guest<'_> {
    /// The tag, for hardware whose tags have `bits` bits.
    ///
    /// # Errors
    ///
    /// [`Refusal::TagTooWide`].
    pub fn tag_of(&self, bits: u8) -> Result<u16, Refusal> {
        let tag = self.tag.get();
        if u32::from(tag) >> bits.min(16) != 0 {
            return Err(Refusal::TagTooWide { tag, bits });
        }
        Ok(tag)
    }

    /// The device that the guest calls `guest`.
    ///
    /// # Errors
    ///
    /// [`Refusal::UnknownDevice`].
    pub fn device(&self, guest: DeviceId) -> Result<GuestDevice, Refusal> {
        let host = self.devices.host(guest);
        let host = host.ok_or(Refusal::UnknownDevice(guest))?;
        Ok(GuestDevice { guest, host })
    }

    /// The PASID in a field of a command, on hardware whose PASIDs have `hardware_bits` bits.
    ///
    /// # Errors
    ///
    /// [`Refusal::PasidTooWide`]. Without PASIDs, none fits.
    pub fn pasid(&self, value: u32, hardware_bits: u8) -> Result<Pasid, Refusal> {
        let widest = Pasid::MAX.get().trailing_ones() as u8;
        let bits = self.pasid_bits.min(hardware_bits).min(widest);
        match Pasid::new(value) {
            Some(pasid) if bits > 0 && value >> bits == 0 => Ok(pasid),
            _ => Err(Refusal::PasidTooWide { pasid: value, bits }),
        }
    }
}

impl fmt::Debug for Guest<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Guest")
            .field("tag", &self.tag)
            .field("pasid_bits", &self.pasid_bits)
            .finish_non_exhaustive()
    }
}
