//! Page requests and responses in neutral terms.

use crate::ids::{DeviceId, Pasid};

/// The permissions that a device asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Permissions {
    /// To read.
    pub read: bool,
    /// To write.
    pub write: bool,
    /// To fetch instructions.
    pub execute: bool,
    /// All of it with supervisor privilege.
    pub privileged: bool,
}

/// How a device came to ask, and so how it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A PCIe page request: the device asks ahead and waits for the response to its group.
    PageRequest,
    /// A transaction that the IOMMU holds back (SMMUv3 stall). It is a group by itself.
    Stall,
}

/// One page that a device asks for, as the hardware's record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRequest {
    /// Whose request.
    pub device: DeviceId,
    /// Its PASID; [`Pasid::UNTAGGED`] if it had none, or had PASID 0, which is nobody's.
    pub pasid: Pasid,
    /// The I/O virtual address in bytes; a page's first, except for a stall.
    pub address: u64,
    /// What the device asks for.
    pub permissions: Permissions,
    /// The group: for a page request its 9-bit page request group index, for a stall its tag.
    pub group: u16,
    /// Whether it is the last of its group, which the device expects a response to.
    pub last: bool,
    /// Where it comes from.
    pub origin: Origin,
}

/// Bits in a page request group index (PCIe 6.0 section 10.4.1).
pub(super) const GROUP_INDEX_BITS: u32 = 9;

impl PageRequest {
    /// Whether it is no request but a stop marker: last, neither read nor write, with a PASID. It
    /// belongs to no group and gets no response.
    pub const fn is_stop_marker(&self) -> bool {
        matches!(self.origin, Origin::PageRequest)
            && self.last
            && !self.asks_for_access()
            && !self.pasid.is_untagged()
    }

    /// Whether no address space can grant it: supervisor privilege for a user's table, execution
    /// together with a read, nothing at all, or a field out of its range.
    pub const fn is_malformed(&self) -> bool {
        let Permissions {
            read,
            execute,
            privileged,
            ..
        } = self.permissions;
        let in_group = match self.origin {
            Origin::PageRequest => self.group >> GROUP_INDEX_BITS == 0,
            Origin::Stall => self.last,
        };
        privileged || (read && execute) || !(execute || self.asks_for_access()) || !in_group
    }

    const fn asks_for_access(&self) -> bool {
        self.permissions.read || self.permissions.write
    }
}

/// What a device is told about a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Response {
    /// Every page is there with the permissions asked for: try again.
    Success,
    /// Some page is not there or must not be used so: do not try again.
    Invalid,
    /// Nothing works any more: the device turns its page-request interface off.
    Failure,
}

/// One response on its way to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageResponse {
    /// To whom.
    pub device: DeviceId,
    /// The PASID that the response message carries: the request's, if the device wants it there
    /// ([`PageFaults::PageRequests`](crate::iommu::PageFaults::PageRequests)).
    pub pasid: Option<Pasid>,
    /// Which group, as in [`PageRequest::group`].
    pub group: u16,
    /// Whether a page request or a stall is answered.
    pub origin: Origin,
    /// What is answered.
    pub response: Response,
}

/// Something that an IOMMU's page-request queue held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// A request or a stop marker.
    Request(PageRequest),
    /// The queue was full, and all that was in it has been handed over. Further requests were lost,
    /// among them perhaps the last of a group; the IOMMU answered those by itself, with
    /// [`Response::Success`]. It accepts requests again when this was returned from.
    Overflow,
}
