//! I/O page faults that can be resolved: from the hardware's queue to the address space and back.
//!
//! A device that finds no translation asks for the page (PCIe page requests), or the IOMMU holds its
//! transaction back (SMMUv3 stall). [`PageRequests`] serves the queue of one IOMMU: it assembles
//! groups, hands each complete one to the [`PageRequestHandler`] of its device and PASID, and posts
//! the responses, many for one doorbell and without waiting.
//!
//! The way of one page request: the backend's queue → [`PageRequests::serve`] → the group's pool →
//! the handler → [`Responses`] → [`Iommu::respond`](crate::iommu::Iommu::respond) → ring → doorbell.
//!
//! # What a device can rely on
//!
//! Each group whose last request was accepted is answered exactly once: by the handler, or else, if
//! nobody handles it, if it is malformed, if its handler drops it or its PASID is unbound, with
//! [`Response::Invalid`].
//!
//! # What a device cannot do
//!
//! Each device has its own share of requests, allocated by [`PageRequests::add_device`]; nothing is
//! allocated after that. Who floods the queue, never ends its groups, uses their indices twice or
//! asks for addresses and PASIDs that are not its own loses its own requests. Complete groups are
//! handled by turns between devices.

mod devices;
mod group;
mod list;
mod pool;
mod queue;
mod request;
mod responses;
mod service;
#[cfg(all(test, not(loom)))]
mod tests;

pub use group::{PageGroup, PageRequestHandler, Pages, Resolve};
pub use pool::Page;
pub use queue::GroupQueue;
pub use request::{Origin, PageRequest, PageResponse, Permissions, Response, Taken};
pub use responses::Responses;
pub use service::{AddError, DeviceShare, PageRequests, RouteError, Served};
