//! RISC-V IOMMU driver for shared virtual addressing in `no_std` kernels.
//!
//! [`Unit`] is one IOMMU of the RISC-V IOMMU Architecture Specification 1.0. It gives each device a
//! process directory, whose contexts let the device's requests walk a CPU's Sv39, Sv48 or Sv57 page
//! table: process context 0 for requests without a PASID, the others by PASID. It implements
//! [`iommu_core::iommu::Iommu`], through which address spaces are bound and kept coherent.
//!
//! ```no_run
//! use iommu_core::ids::{DeviceId, Pasid, PhysicalAddress};
//! use iommu_core::iommu::{DeviceConfig, Iommu};
//! use iommu_core::page_table::{Format, PageTable};
//! use iommu_core::platform::{Parts, Platform};
//! use iommu_riscv::Unit;
//!
//! fn bring_up<P: Platform>(parts: Parts<P>) -> Result<Unit<P>, Box<dyn core::error::Error>> {
//!     let iommu = Unit::probe(parts)?;
//!     let device = DeviceId::from_bdf(0, 2, 0);
//!     iommu.enable_device(device, DeviceConfig { pasid_bits: 8, device_tlb: false, ..DeviceConfig::default() })?;
//!
//!     let table = PageTable {
//!         root: PhysicalAddress(0x8040_0000),
//!         format: Format::Riscv64 { levels: 3 },
//!         written_back: false,
//!     };
//!     let tag = iommu.allocate_tag()?;
//!     iommu.attach(device, Pasid::UNTAGGED, tag, &table)?;
//!     Ok(iommu)
//! }
//! ```
//!
//! The rooms: [`spec`] has the encodings, [`caps`] what each capability means, [`queue`] the command
//! queue, `tables` the directories, [`invalidate`] the commands of each operation, [`faults`] the
//! fault queue, [`guest`] which commands of a guest are executed for it, [`mod@unit`] the whole, [`debug`] the IOMMU's own answer to a request, and [`firmware`]
//! what firmware says of where IOMMUs and devices are.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod caps;
mod control;
pub mod debug;
pub mod faults;
pub mod firmware;
pub mod guest;
pub mod invalidate;
mod memory;
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

pub use caps::Config;
pub use unit::Unit;
