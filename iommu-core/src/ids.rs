//! The ids that all IOMMUs share, under their neutral names.

use core::fmt;

/// A physical address, in bytes, as the IOMMU uses it for its own accesses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PhysicalAddress(pub u64);

/// Which device a request comes from, as the IOMMU sees it.
///
/// VT-d: source-id (bus, device, function; 16 bits). SMMUv3: StreamID. RISC-V: device_id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceId(pub u32);

impl DeviceId {
    /// The requester id of a PCIe function; on VT-d this is the source-id.
    pub const fn from_bdf(bus: u8, device: u8, function: u8) -> Self {
        Self((bus as u32) << 8 | (device as u32 & 0x1f) << 3 | function as u32 & 0x7)
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(id) = *self;
        write!(
            formatter,
            "{:02x}:{:02x}.{}",
            id >> 8,
            id >> 3 & 0x1f,
            id & 7
        )
    }
}

/// A process address space id of 20 bits (PCIe 6.0 section 6.20).
///
/// Arm: SubstreamID. RISC-V: process_id. [`Pasid::UNTAGGED`] (0) names the requests that carry no
/// PASID: it is never given to an address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pasid(u32);

impl Pasid {
    /// Requests without a PASID.
    pub const UNTAGGED: Self = Self(0);
    /// The largest PASID that PCIe can carry.
    pub const MAX: Self = Self((1 << 20) - 1);

    /// A PASID, if `value` fits 20 bits.
    pub const fn new(value: u32) -> Option<Self> {
        if value <= Self::MAX.0 {
            Some(Self(value))
        } else {
            None
        }
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// Whether this stands for requests without a PASID.
    pub const fn is_untagged(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for Pasid {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, formatter)
    }
}

/// The tag under which an IOTLB keeps the translations of one address space.
///
/// VT-d: domain-id. SMMUv3: ASID. RISC-V: PSCID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(pub u32);
