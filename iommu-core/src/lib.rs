//! What all IOMMUs share, so that each backend is only what its specification adds.
//!
//! A kernel supplies a [`Platform`](platform::Platform): register access, device-visible memory and
//! a clock. A backend turns it into an [`Iommu`](iommu::Iommu). [`Sva`](sva::Sva) joins an address
//! space's notifiers to it, so that one call from the kernel's unmap path
//! ([`AddressSpace::invalidate_range`](core_notifier::AddressSpace::invalidate_range)) takes the
//! translation away from every device bound to that address space.
//!
//! The way of one range: the address space's notifiers → [`sva`] → [`flush`] (the
//! [`invalidation_set`] says where, [`cover`] says what) → the backend's `invalidate` → [`ring`] →
//! doorbell. The way back is one completion.
#![no_std]
#![deny(
    missing_docs,
    unsafe_op_in_unsafe_fn,
    clippy::undocumented_unsafe_blocks
)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod cover;
pub mod deferred;
pub mod error;
pub mod fault;
pub mod firmware;
pub mod flush;
pub mod guest;
pub mod ids;
pub mod invalidation_set;
pub mod iommu;
pub mod operation;
pub mod page_request;
pub mod page_table;
pub mod pasid;
pub mod pcie;
#[cfg(not(planted))]
mod planted;
#[cfg(planted)]
pub mod planted;
pub mod platform;
mod primitive;
pub mod quarantine;
pub mod ring;
pub mod sva;
pub mod tag;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use core_notifier::Range;
#[doc(hidden)]
pub use core_notifier::planted_faults;
