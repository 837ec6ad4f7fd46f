//! The errors that all backends share.

use crate::ids::{DeviceId, Pasid};
use core::error::Error;
use core::fmt;

/// No device-visible memory was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfMemory {
    /// How much was asked for, in bytes.
    pub bytes: usize,
}

/// The hardware did not do what was asked within the time limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeout {
    /// What was waited for.
    pub operation: &'static str,
    /// The limit, in nanoseconds.
    pub nanoseconds: u64,
}

/// Why an IOMMU cannot be brought up. Nothing is left enabled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProbeError {
    /// A capability that shared virtual addressing needs is missing.
    MissingCapability {
        /// Its name in the specification.
        capability: &'static str,
        /// The register that would show it.
        register: &'static str,
        /// What that register says.
        value: u64,
    },
    /// The registers answer all ones: the IOMMU is gone, or the address is wrong.
    NotPresent,
    /// The hardware did not answer in time.
    Timeout(Timeout),
    /// No memory for queues and tables.
    OutOfMemory(OutOfMemory),
    /// The invalidation queue failed while the IOMMU was brought up.
    Queue(QueueError),
}

/// Why a queue does not take or complete commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum QueueError {
    /// The hardware stopped at a command it does not accept.
    IllegalCommand {
        /// The queue slot.
        slot: usize,
    },
    /// The hardware could not read the queue or write the completion.
    MemoryFault,
    /// A device did not answer a device-TLB invalidation in time.
    DeviceTimeout {
        /// The device, where the hardware says which.
        device: Option<DeviceId>,
    },
    /// Nothing was completed in time, and no error was reported.
    Timeout(Timeout),
    /// A list longer than the queue.
    ListTooLong {
        /// Commands in the list, the final sync included.
        commands: usize,
        /// Commands that fit.
        capacity: usize,
    },
    /// The hardware dropped the list because of an error of somebody else's. It may be posted again.
    Aborted,
    /// An error code that the specification does not define.
    Unknown {
        /// The code.
        code: u32,
    },
}

/// Why a device or one of its PASIDs cannot be set up. The state is as before the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AttachError {
    /// The device has no entry: `enable_device` was not called.
    UnknownDevice(DeviceId),
    /// The device id is wider than the IOMMU or its tables allow.
    DeviceIdTooWide(DeviceId),
    /// The device already has an entry.
    DeviceInUse(DeviceId),
    /// The PASID already has an entry.
    PasidInUse(DeviceId, Pasid),
    /// The PASID has no entry.
    UnknownPasid(DeviceId, Pasid),
    /// The PASID is wider than the IOMMU, or the device's table, allows.
    PasidTooWide {
        /// The PASID.
        pasid: Pasid,
        /// The width in bits.
        bits: u8,
    },
    /// The IOMMU cannot walk this page table.
    Incompatible(Incompatible),
    /// The device asks for a device TLB, and the IOMMU has no ATS.
    NoDeviceTlb,
    /// The device asks for page requests, and has no device TLB or the IOMMU does not take them; or
    /// it asks for stalls, and the IOMMU cannot.
    NoPageRequests,
    /// No memory for a table.
    OutOfMemory(OutOfMemory),
    /// The queue failed.
    Queue(QueueError),
}

/// Why an IOMMU cannot walk a CPU's page table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Incompatible {
    /// The format belongs to another architecture.
    Architecture,
    /// The number of levels or the width of a virtual address.
    VirtualAddressBits {
        /// What the CPU uses.
        cpu: u8,
        /// What the IOMMU can walk, at most.
        iommu: u8,
    },
    /// The width of a physical address.
    PhysicalAddressBits {
        /// What the CPU uses.
        cpu: u8,
        /// What the IOMMU can emit.
        iommu: u8,
    },
    /// The size of the smallest page.
    PageSize,
    /// The walks do not snoop the CPU's caches, and the CPU does not clean its page tables.
    NonCoherentWalk,
    /// The root lies where the IOMMU cannot address it.
    Root,
}

/// Every tag of the IOMMU is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TagsExhausted;

impl fmt::Display for OutOfMemory {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "no device-visible memory for {} bytes",
            self.bytes
        )
    }
}

impl fmt::Display for Timeout {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{} took more than {} ns",
            self.operation, self.nanoseconds
        )
    }
}

impl fmt::Display for ProbeError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MissingCapability {
                capability,
                register,
                value,
            } => {
                write!(
                    formatter,
                    "the IOMMU lacks {capability} ({register} is {value:#x})"
                )
            }
            Self::NotPresent => write!(formatter, "no IOMMU answers at this address"),
            Self::Timeout(error) => error.fmt(formatter),
            Self::OutOfMemory(error) => error.fmt(formatter),
            Self::Queue(error) => error.fmt(formatter),
        }
    }
}

impl fmt::Display for QueueError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::IllegalCommand { slot } => {
                write!(
                    formatter,
                    "the queue stopped at an illegal command in slot {slot}"
                )
            }
            Self::MemoryFault => write!(formatter, "the IOMMU could not access its queue"),
            Self::DeviceTimeout {
                device: Some(device),
            } => {
                write!(
                    formatter,
                    "device {device} did not answer a device-TLB invalidation"
                )
            }
            Self::DeviceTimeout { device: None } => {
                write!(
                    formatter,
                    "a device did not answer a device-TLB invalidation"
                )
            }
            Self::Timeout(error) => error.fmt(formatter),
            Self::ListTooLong { commands, capacity } => {
                write!(
                    formatter,
                    "{commands} commands do not fit a queue of {capacity}"
                )
            }
            Self::Aborted => write!(formatter, "the list was dropped because of another's error"),
            Self::Unknown { code } => write!(formatter, "undefined queue error {code:#x}"),
        }
    }
}

impl fmt::Display for AttachError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownDevice(device) => write!(formatter, "device {device} is not enabled"),
            Self::DeviceIdTooWide(device) => {
                write!(formatter, "device {device} lies outside the device table")
            }
            Self::DeviceInUse(device) => write!(formatter, "device {device} is already enabled"),
            Self::PasidInUse(device, pasid) => {
                write!(
                    formatter,
                    "PASID {pasid} of device {device} is already attached"
                )
            }
            Self::UnknownPasid(device, pasid) => {
                write!(
                    formatter,
                    "PASID {pasid} of device {device} is not attached"
                )
            }
            Self::PasidTooWide { pasid, bits } => {
                write!(formatter, "PASID {pasid} does not fit {bits} bits")
            }
            Self::Incompatible(error) => error.fmt(formatter),
            Self::NoDeviceTlb => write!(formatter, "the IOMMU does not support ATS"),
            Self::NoPageRequests => {
                write!(formatter, "page faults of the device cannot be resolved")
            }
            Self::OutOfMemory(error) => error.fmt(formatter),
            Self::Queue(error) => error.fmt(formatter),
        }
    }
}

impl fmt::Display for Incompatible {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Architecture => {
                write!(
                    formatter,
                    "the page table has another architecture's format"
                )
            }
            Self::VirtualAddressBits { cpu, iommu } => write!(
                formatter,
                "the CPU uses {cpu}-bit virtual addresses, the IOMMU walks at most {iommu}"
            ),
            Self::PhysicalAddressBits { cpu, iommu } => write!(
                formatter,
                "the CPU uses {cpu}-bit physical addresses, the IOMMU emits at most {iommu}"
            ),
            Self::PageSize => write!(formatter, "the IOMMU does not support the CPU's page size"),
            Self::NonCoherentWalk => write!(formatter, "the IOMMU's walks do not snoop CPU caches"),
            Self::Root => write!(
                formatter,
                "the IOMMU cannot address the root of the page table"
            ),
        }
    }
}

impl fmt::Display for TagsExhausted {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "every address-space tag of the IOMMU is in use")
    }
}

impl Error for OutOfMemory {}
impl Error for Timeout {}
impl Error for ProbeError {}
impl Error for QueueError {}
impl Error for AttachError {}
impl Error for Incompatible {}
impl Error for TagsExhausted {}

macro_rules! from {
    ($($source:ident => $target:ident),* $(,)?) => {$(
        impl From<$source> for $target {
            fn from(error: $source) -> Self {
                Self::$source(error)
            }
        }
    )*};
}

from! {
    Timeout => ProbeError,
    OutOfMemory => ProbeError,
    Timeout => QueueError,
    OutOfMemory => AttachError,
    Incompatible => AttachError,
}

impl From<QueueError> for ProbeError {
    fn from(error: QueueError) -> Self {
        Self::Queue(error)
    }
}

impl From<QueueError> for AttachError {
    fn from(error: QueueError) -> Self {
        Self::Queue(error)
    }
}
