//! Faults, decoded into one neutral record.

use crate::ids::{DeviceId, Pasid};
use core::fmt;

/// What the device wanted to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// A read.
    Read,
    /// A write or an atomic operation.
    Write,
    /// An instruction fetch.
    Execute,
    /// The record does not say.
    Unknown,
}

/// Why the IOMMU refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// No valid translation at the address.
    NotPresent,
    /// A translation that does not permit the access.
    Permission,
    /// No translation that permits the access; the record does not say whether there is one at all.
    PageFault,
    /// An address outside what the table translates.
    AddressSize,
    /// No entry for the device.
    DeviceNotConfigured,
    /// No entry for the PASID.
    PasidNotConfigured,
    /// A device, PASID or page-table entry that breaks the rules of its format.
    MalformedEntry,
    /// A table could not be read.
    TableAccess,
    /// The interrupt or message path.
    Interrupt,
    /// A code without a neutral meaning; [`Fault::code`] has it.
    Other,
}

/// One refused request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Whose request.
    pub device: DeviceId,
    /// Its PASID; [`Pasid::UNTAGGED`] if it had none.
    pub pasid: Pasid,
    /// The I/O virtual address in bytes, where the record has one. Some IOMMUs report the page only.
    pub address: Option<u64>,
    /// What the device wanted to do.
    pub access: Access,
    /// Why it was refused.
    pub reason: Reason,
    /// The backend's own code for the reason, as its specification numbers it.
    pub code: u32,
}

/// What a look at the fault queue found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultSummary {
    /// How many faults were handed over.
    pub reported: usize,
    /// Whether the hardware says that it lost others.
    pub lost: bool,
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let access = match self.access {
            Access::Read => "read",
            Access::Write => "write",
            Access::Execute => "instruction fetch",
            Access::Unknown => "access",
        };
        write!(formatter, "{access} by device {}", self.device)?;
        if !self.pasid.is_untagged() {
            write!(formatter, " PASID {}", self.pasid)?;
        }
        if let Some(address) = self.address {
            write!(formatter, " at {address:#x}")?;
        }
        let reason = match self.reason {
            Reason::NotPresent => "no translation",
            Reason::Permission => "not permitted",
            Reason::PageFault => "no translation that permits it",
            Reason::AddressSize => "address too wide",
            Reason::DeviceNotConfigured => "device not configured",
            Reason::PasidNotConfigured => "PASID not configured",
            Reason::MalformedEntry => "malformed table entry",
            Reason::TableAccess => "table not accessible",
            Reason::Interrupt => "interrupt refused",
            Reason::Other => "refused",
        };
        write!(formatter, ": {reason} (code {:#x})", self.code)
    }
}
