//! Arm SMMUv3 for shared virtual addressing: stage 1 translation through context descriptors whose
//! TTB0 is the CPU's own page table.
//!
//! [`firmware`] finds the SMMUs in the ACPI IORT, [`Unit::probe`] brings one up, and from then on it
//! is an [`Iommu`](iommu_core::iommu::Iommu):
//!
//! ```no_run
//! use iommu_core::error::ProbeError;
//! use iommu_core::ids::DeviceId;
//! use iommu_core::iommu::{DeviceConfig, Iommu};
//! use iommu_core::platform::{Parts, Platform};
//! use iommu_smmuv3::Unit;
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
//! obliges to, [`faults`] what an event means, [`guest`] which commands of a guest are executed for
//! it, and `control` the handshakes that turn parts on and off.
//!
//! Section numbers are those of the Arm SMMU architecture specification, SMMUv3 (IHI 0070).
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

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
mod unit;

pub use unit::Unit;
