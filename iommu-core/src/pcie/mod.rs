//! The PCI Express side of shared virtual addressing: PASID, ATS and page requests of a function,
//! and whether the way to the root complex can carry them.
//!
//! A kernel reads a [`Function`] at enumeration, and calls [`Services::enable`] after the IOMMU has
//! the device's entry ([`Iommu::enable_device`](crate::iommu::Iommu::enable_device)): a device may
//! ask for translations only when the IOMMU answers them. It calls [`Services::disable`] before
//! [`Iommu::disable_device`](crate::iommu::Iommu::disable_device). For a device that is reset now and
//! then, [`ResetHandshake`](crate::sva::ResetHandshake) holds them.
//!
//! Configuration space is what a device says of itself: nothing here trusts it. A chain of
//! capabilities ends after as many steps as configuration space has room for, and a function that
//! was removed reads as ones and has no capabilities.

mod config_space;
mod error;
mod function;
mod path;
mod services;
mod spec;
#[cfg(all(test, not(loom)))]
pub(crate) mod tests;

pub use config_space::ConfigSpace;
pub use error::PcieError;
pub use function::{
    AccessControl, Function, PageRequests, PasidService, PortType, TranslationService,
};
pub use path::Path;
pub use services::{Services, Wanted};
pub use spec::AccessControlBits;
