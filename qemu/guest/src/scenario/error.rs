//! What can go wrong in the scenario.

use crate::devices::DeviceError;
use crate::machine::MachineError;
use crate::page_table::MapError;
use core::error::Error;
use core::fmt;
use core_notifier::InvertedRange;
use iommu_core::error::{AttachError, ProbeError};
use iommu_core::sva::{BindError, JoinError, UnbindError};

/// Why the scenario did not go as it should.
#[derive(Debug)]
#[non_exhaustive]
pub enum ScenarioError {
    /// The machine has no IOMMU, or lacks a device.
    Machine(MachineError),
    /// Firmware describes an IOMMU of another architecture.
    OtherIommu,
    /// The DMAR table.
    #[cfg(target_arch = "x86_64")]
    Dmar(iommu_vtd::firmware::DmarError),
    /// The DMAR table describes no remapping unit.
    #[cfg(target_arch = "x86_64")]
    NoUnit,
    /// The IOMMU cannot be used.
    Probe(ProbeError),
    /// A device's entry.
    Attach(AttachError),
    /// The address space was not joined.
    Join(JoinError),
    /// A device was not bound.
    Bind(BindError),
    /// A device was not unbound.
    Unbind(UnbindError),
    /// A DMA master.
    Device(DeviceError),
    /// The page table.
    Map(MapError),
    /// A range.
    Range(InvertedRange),
    /// No frame is left.
    OutOfFrames,
    /// Something is not as it should be.
    Unexpected {
        /// What was looked at.
        what: &'static str,
        /// What it should be.
        expected: u64,
        /// What it is.
        found: u64,
    },
    /// A refused access was not reported.
    NoFault {
        /// What the device did.
        what: &'static str,
    },
}

impl fmt::Display for ScenarioError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Machine(error) => error.fmt(formatter),
            Self::OtherIommu => write!(formatter, "firmware describes another IOMMU"),
            #[cfg(target_arch = "x86_64")]
            Self::Dmar(error) => error.fmt(formatter),
            #[cfg(target_arch = "x86_64")]
            Self::NoUnit => write!(formatter, "the DMAR table describes no remapping unit"),
            Self::Probe(error) => error.fmt(formatter),
            Self::Attach(error) => error.fmt(formatter),
            Self::Join(error) => error.fmt(formatter),
            Self::Bind(error) => error.fmt(formatter),
            Self::Unbind(error) => error.fmt(formatter),
            Self::Device(error) => error.fmt(formatter),
            Self::Map(error) => error.fmt(formatter),
            Self::Range(error) => error.fmt(formatter),
            Self::OutOfFrames => write!(formatter, "no frame left"),
            Self::Unexpected {
                what,
                expected,
                found,
            } => write!(formatter, "{what}: {found:#x} instead of {expected:#x}"),
            Self::NoFault { what } => write!(formatter, "{what} was refused but not reported"),
        }
    }
}

impl Error for ScenarioError {}

macro_rules! from {
    ($($variant:ident: $error:ty,)*) => {
        $(impl From<$error> for ScenarioError {
            fn from(error: $error) -> Self {
                Self::$variant(error)
            }
        })*
    };
}

from! {
    Machine: MachineError,
    Attach: AttachError,
    Join: JoinError,
    Bind: BindError,
    Unbind: UnbindError,
    Device: DeviceError,
    Map: MapError,
}
