//! A device of QEMU's machines that has a TLB of its own, and uses it.
//!
//! QEMU shows the machine a PCIe function with ATS (`vhost-user-test-device-pci`); what the function
//! does is done here, in the vhost-user protocol (QEMU's docs/interop/vhost-user.rst). A translation
//! is asked of QEMU's IOMMU once (`MISS`, answered by `UPDATE`) and then kept: nothing takes it away
//! but an invalidation request that QEMU's IOMMU was commanded to send (`INVALIDATE`). Memory is
//! accessed by it without asking again. So an invalidation that is missing, too small, for another
//! device, or sent while the IOMMU's own TLB still has what is to go, is a visible stale access.
//!
//! Requests carry no PASID: vhost-user has none.
//!
//! QEMU waits for the device's answer to an invalidation inside the register write that commands it,
//! so the hardware's completion cannot come before the answer. [`Device::set_answer_delay`] and
//! [`Device::never_answer`] put the answer off.
//!
//! The `vhost` crate supplies the protocol's numbers and structures. Its message loop knows no
//! IOTLB messages, so reading and writing messages is done here.

#![forbid(unsafe_code)]
// A test-side crate has std; only the library crates must not need it.
#![allow(clippy::std_instead_of_alloc, clippy::std_instead_of_core)]

mod answers;
mod device;
pub mod function;
mod history;
mod memory;
mod service;
mod tlb;
mod wire;

pub use device::{Device, Done, Refused};
pub use history::{Access, Direction, Event, What};
pub use tlb::{Block, Translation};
