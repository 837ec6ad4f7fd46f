//! Why a guest's command is not executed.

use crate::ids::DeviceId;
use core::error::Error;
use core::fmt;

/// Why a guest's command is not executed. Nothing of it reaches the hardware.
///
/// What an IOMMU would say to the first three groups of cases is a stopped queue; the hypervisor's
/// emulation shows that to the guest. Device ids are the guest's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// The specification has no command with this opcode.
    UnknownOpcode {
        /// VT-d: the type, its upper part in bits 6:4. RISC-V: opcode and func3, as in bits 9:0.
        opcode: u16,
    },
    /// A command that the hypervisor executes for the guest, if at all: a sync, whose completion
    /// goes to the guest's memory; a response to a page request; an invalidation of a structure
    /// that the host keeps for the guest.
    HostOnly {
        /// As in [`UnknownOpcode`](Self::UnknownOpcode).
        opcode: u16,
    },
    /// Bits that are reserved, on this hardware, are set.
    ReservedBits {
        /// The 64-bit word.
        word: u8,
        /// Those bits.
        bits: u64,
    },
    /// A field has a value that the specification reserves or leaves open.
    ReservedValue {
        /// The field, by its name in the specification.
        field: &'static str,
        /// The value.
        value: u64,
    },
    /// The hardware cannot do that.
    Unsupported {
        /// What it lacks, by its name in the specification.
        capability: &'static str,
    },
    /// The guest has no such device, or the device is not enabled on this IOMMU.
    UnknownDevice(DeviceId),
    /// The device was enabled without a device TLB: an invalidation would never be answered.
    NoDeviceTlb(DeviceId),
    /// The device's TLB did not answer before, and the device was not cut off since.
    DeviceSilent(DeviceId),
    /// The PASID is wider than the guest may use or than the hardware allows.
    PasidTooWide {
        /// The PASID.
        pasid: u32,
        /// The width in bits; 0 if there are no PASIDs.
        bits: u8,
    },
    /// The address lies outside what the hardware translates.
    AddressOutside {
        /// The virtual address, in bytes.
        address: u64,
        /// How wide addresses are, in bits, before they are sign-extended.
        bits: u8,
    },
    /// The guest's own tag does not fit the hardware: the hypervisor's mistake, not the guest's.
    TagTooWide {
        /// The tag.
        tag: u16,
        /// The width in bits; 0 if the hardware has no second stage.
        bits: u8,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownOpcode { opcode } => {
                write!(formatter, "no command has opcode {opcode:#x}")
            }
            Self::HostOnly { opcode } => {
                write!(
                    formatter,
                    "command {opcode:#x} is the hypervisor's to execute"
                )
            }
            Self::ReservedBits { word, bits } => {
                write!(formatter, "reserved bits {bits:#x} of word {word} are set")
            }
            Self::ReservedValue { field, value } => {
                write!(formatter, "{field} has the reserved value {value:#x}")
            }
            Self::Unsupported { capability } => write!(formatter, "the IOMMU lacks {capability}"),
            Self::UnknownDevice(device) => write!(formatter, "the guest has no device {device}"),
            Self::NoDeviceTlb(device) => {
                write!(formatter, "the guest's device {device} has no device TLB")
            }
            Self::DeviceSilent(device) => {
                write!(
                    formatter,
                    "the guest's device {device} did not answer before"
                )
            }
            Self::PasidTooWide { pasid, bits } => {
                write!(formatter, "PASID {pasid} does not fit {bits} bits")
            }
            Self::AddressOutside { address, bits } => {
                write!(formatter, "address {address:#x} does not fit {bits} bits")
            }
            Self::TagTooWide { tag, bits } => {
                write!(formatter, "the guest's tag {tag} does not fit {bits} bits")
            }
        }
    }
}

impl Error for Refusal {}
