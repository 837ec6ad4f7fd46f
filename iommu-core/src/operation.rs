//! The neutral invalidation operations.
//!
//! A backend's `invalidate` turns each into commands by a pure function of (operation,
//! capabilities).

use crate::Range;
use crate::ids::{DeviceId, Pasid, Tag};

/// What holds translations that a change of a page table makes stale.
///
/// The order is the order of invalidation: a device TLB refills itself from the IOTLB, so within
/// one IOMMU every IOTLB comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// The first-stage entries of an IOTLB, with the paging-structure caches beside it.
    Iotlb {
        /// The tag of the address space.
        tag: Tag,
        /// The PASID, for an IOTLB that is keyed by it
        /// ([`Features::iotlb_keyed_by_pasid`](crate::iommu::Features::iotlb_keyed_by_pasid));
        /// else [`Pasid::UNTAGGED`].
        pasid: Pasid,
    },
    /// The device TLB of one device.
    DeviceTlb {
        /// The device.
        device: DeviceId,
        /// The PASID, or [`Pasid::UNTAGGED`] for translations requested without one.
        pasid: Pasid,
    },
}

impl Target {
    /// Whether this is a device TLB, which is invalidated after the IOTLBs.
    pub const fn is_device_tlb(&self) -> bool {
        matches!(self, Self::DeviceTlb { .. })
    }

    /// Whose device TLB this is.
    pub const fn device(&self) -> Option<DeviceId> {
        match self {
            Self::Iotlb { .. } => None,
            Self::DeviceTlb { device, .. } => Some(*device),
        }
    }
}

/// Which levels of the page table changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Levels {
    /// Leaf entries only: no page-table page was freed or replaced.
    LeafOnly,
    /// Any level.
    All,
}

/// One range to be taken out of several caches of one IOMMU.
#[derive(Clone, Copy, Debug)]
pub struct Invalidation<'a> {
    /// The caches, IOTLBs first.
    pub targets: &'a [Target],
    /// The half-open range of virtual addresses, in bytes; never empty.
    pub range: Range,
    /// Which levels changed.
    pub levels: Levels,
}
