//! Intel VT-d for shared virtual addressing: scalable mode, first-stage translation, queued
//! invalidation with descriptors of 256 bits.
//!
//! [`firmware`] finds the units in the ACPI DMAR table, [`Unit::probe`] brings one up, and from
//! then on it is an [`Iommu`](iommu_core::iommu::Iommu):
//!
//! ```no_run
//! use iommu_core::error::ProbeError;
//! use iommu_core::ids::DeviceId;
//! use iommu_core::iommu::{DeviceConfig, Iommu};
//! use iommu_core::platform::{Parts, Platform};
//! use iommu_vtd::Unit;
//!
//! fn bring_up<P: Platform>(parts: Parts<P>) -> Result<Unit<P>, ProbeError> {
//!     let unit = Unit::probe(parts)?;
//!     let config = DeviceConfig { pasid_bits: 20, device_tlb: unit.features().device_tlb, ..DeviceConfig::default() };
//!     if let Err(error) = unit.enable_device(DeviceId::from_bdf(0, 4, 0), config) {
//!         // The device stays blocked.
//!         drop(error);
//!     }
//!     Ok(unit)
//! }
//! ```
//!
//! One way through the crate: [`Unit`] changes `tables`, asks [`invalidate`] what the hardware must
//! forget, and posts that to [`queue`]. [`spec`] holds the encodings, [`caps`] what each capability
//! obliges to, [`faults`] what a fault record means, [`page_requests`] what a device asks for,
//! [`guest`] which descriptors of a guest are executed for it.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod caps;
mod control;
pub mod faults;
pub mod firmware;
pub mod guest;
pub mod invalidate;
pub mod page_requests;
#[cfg(not(planted))]
mod planted;
#[cfg(planted)]
pub mod planted;
mod quarantine;
pub mod queue;
pub mod spec;
mod tables;
pub mod unit;

pub use unit::Unit;
