//! Arm SMMUv3: lets devices walk the CPU's page tables, by stage 1 translation.
//!
//! [`Unit`] brings one SMMU up and implements [`iommu_core::iommu::Iommu`]; an address space is
//! shared with a device by a context descriptor whose TTB0 is the CPU's own table.
//!
//! Section numbers are those of the Arm SMMU architecture specification, SMMUv3 (IHI 0070).
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod caps;
mod control;
pub mod faults;
pub mod firmware;
pub mod invalidate;
pub mod queue;
pub mod spec;
mod tables;
mod unit;

pub use unit::Unit;
