//! Why a function's services cannot be used.

use super::spec::AccessControlBits;
use core::error::Error;
use core::fmt;

/// Why PASID, ATS or page requests of a function were not enabled. Those that were enabled before
/// are disabled again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PcieError {
    /// The function reads as ones: it was removed.
    NotPresent,
    /// The function lacks the capability.
    MissingCapability {
        /// Its name in the specification.
        capability: &'static str,
    },
    /// The function cannot send PASIDs of that width.
    PasidWidth {
        /// What was asked for, in bits.
        wanted: u8,
        /// What the function has, in bits.
        has: u8,
    },
    /// The function asks for parts of pages, which the IOMMU would answer for the page of another
    /// owner: its Page Aligned Request bit is clear.
    UnalignedRequests,
    /// A port on the way to the root complex does not pass requests with a PASID.
    PrefixNotPassed {
        /// Which port, counted from the function upwards.
        port: usize,
    },
    /// A port on the way to the root complex may send a request with a PASID to a peer, who would
    /// take its address for a physical one.
    PeersNotShut {
        /// Which port, counted from the function upwards.
        port: usize,
        /// What it cannot do.
        missing: AccessControlBits,
    },
    /// The smallest translation unit of a virtual function is its physical function's, and that one
    /// has another.
    TranslationUnit {
        /// The exponent that is wanted: pages of 2^(12 + unit) bytes.
        wanted: u8,
        /// The exponent of the physical function.
        has: u8,
    },
    /// Virtual functions share the page requests and the PASIDs of their physical function, and
    /// there it is not enabled.
    PhysicalFunctionDisabled,
    /// The device is not trusted with translated addresses.
    NotTrusted,
    /// The service is enabled already.
    AlreadyEnabled,
    /// Earlier page requests of the function are not answered yet.
    PageRequestsOutstanding,
}

impl fmt::Display for PcieError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotPresent => write!(formatter, "the function does not answer"),
            Self::MissingCapability { capability } => {
                write!(formatter, "the function has no {capability}")
            }
            Self::PasidWidth { wanted, has } => write!(
                formatter,
                "PASIDs of {wanted} bits are wanted, the function sends {has}"
            ),
            Self::UnalignedRequests => {
                write!(
                    formatter,
                    "the function does not align its requests to pages"
                )
            }
            Self::PrefixNotPassed { port } => write!(
                formatter,
                "port {port} above the function does not pass PASIDs"
            ),
            Self::PeersNotShut { port, missing } => write!(
                formatter,
                "port {port} above the function lacks access control {missing:?}"
            ),
            Self::TranslationUnit { wanted, has } => write!(
                formatter,
                "the physical function's smallest translation unit is 2^{}, wanted is 2^{}",
                12 + has,
                12 + wanted
            ),
            Self::PhysicalFunctionDisabled => {
                write!(formatter, "the physical function has the service disabled")
            }
            Self::NotTrusted => {
                write!(
                    formatter,
                    "the device is not trusted with physical addresses"
                )
            }
            Self::AlreadyEnabled => write!(formatter, "the service is enabled already"),
            Self::PageRequestsOutstanding => {
                write!(formatter, "earlier page requests are not answered yet")
            }
        }
    }
}

impl Error for PcieError {}
