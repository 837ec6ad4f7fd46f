//! Which devices are behind which IOMMU.
//!
//! A device tree says so with the properties that [`device_tree`] reads, and describes the IOMMU
//! itself by a node compatible with `riscv,iommu` or `riscv,pci-iommu`. ACPI says so with the
//! RISC-V IO Mapping Table ([`Rimt`]; RISC-V IO Mapping Table Specification 1.0), whose layout
//! Linux's `struct acpi_table_rimt` confirms.
//!
//! The table is untrusted: nothing here allocates, panics, reads outside the slice or runs longer
//! than the table is.

pub use iommu_core::firmware::device_tree;

use core::error::Error;
use core::fmt;
use iommu_core::ids::{DeviceId, PhysicalAddress};

const HEADER: usize = 48;
const NODE_HEADER: usize = 8;
const IOMMU_NODE: usize = 40;
const ROOT_COMPLEX_NODE: usize = 20;
const PLATFORM_DEVICE_NODE: usize = 12;
const ID_MAPPING: usize = 20;
const INTERRUPT_WIRE: usize = 8;

/// Why a table cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RimtError {
    /// The signature is not `RIMT`.
    Signature([u8; 4]),
    /// The length field does not fit the table's header or the bytes there are.
    Length {
        /// What the field says, in bytes.
        length: u32,
        /// The bytes there are.
        bytes: usize,
    },
    /// The bytes do not sum to zero.
    Checksum {
        /// Their sum.
        sum: u8,
    },
    /// A node, or an array in it, does not lie inside the table, or a node is too short for its
    /// type.
    Node {
        /// Where the node begins, in bytes from the start of the table.
        offset: usize,
    },
}

impl fmt::Display for RimtError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signature(found) => write!(formatter, "RIMT has the signature {found:x?}"),
            Self::Length { length, bytes } => {
                write!(formatter, "RIMT says {length} bytes, there are {bytes}")
            }
            Self::Checksum { sum } => write!(formatter, "RIMT sums to {sum:#x}"),
            Self::Node { offset } => {
                write!(formatter, "RIMT node at {offset:#x} does not fit")
            }
        }
    }
}

impl Error for RimtError {}

/// The RISC-V IO Mapping Table.
///
/// ```text
/// offset 0 'RIMT' | 4 length | 8 revision | 9 checksum | 10 OEM ids ... | 36 number of nodes
///        | 40 offset of the first node | 44 reserved | nodes
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Rimt<'a> {
    table: &'a [u8],
}

impl<'a> Rimt<'a> {
    /// The table at the start of `bytes`, which may be longer.
    pub fn new(bytes: &'a [u8]) -> Result<Self, RimtError> {
        let length = u32_at(bytes, 4).unwrap_or(0);
        let too_short = RimtError::Length {
            length,
            bytes: bytes.len(),
        };
        let signature = array_at(bytes, 0).ok_or(too_short)?;
        if signature != *b"RIMT" {
            return Err(RimtError::Signature(signature));
        }
        let table = usize::try_from(length)
            .ok()
            .and_then(|length| bytes.get(..length))
            .filter(|table| table.len() >= HEADER)
            .ok_or(too_short)?;
        match table.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)) {
            0 => Ok(Self { table }),
            sum => Err(RimtError::Checksum { sum }),
        }
    }

    /// Every node, in order; the last item is an error if a node does not fit.
    pub fn nodes(&self) -> Nodes<'a> {
        Nodes {
            table: self.table,
            offset: u32_at(self.table, 40).map_or(usize::MAX, |offset| offset as usize),
            left: u32_at(self.table, 36).unwrap_or(0),
        }
    }

    /// The IOMMU node that a mapping leads to.
    pub fn iommu(&self, mapping: &IdMapping) -> Option<IommuNode<'a>> {
        self.nodes().find_map(|node| match node {
            Ok(Node::Iommu(iommu)) if iommu.offset == mapping.iommu_offset as usize => Some(iommu),
            _ => None,
        })
    }
}

/// The nodes of a table.
#[derive(Clone, Debug)]
pub struct Nodes<'a> {
    table: &'a [u8],
    offset: usize,
    left: u32,
}

impl<'a> Iterator for Nodes<'a> {
    type Item = Result<Node<'a>, RimtError>;

    /// Each node has at least 8 bytes, so the walk ends however many nodes the header promises.
    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let offset = self.offset;
        let node = node_at(self.table, offset);
        match &node {
            Some((_, length)) => self.offset = offset.saturating_add(*length),
            None => self.left = 0,
        }
        Some(node.map(|(node, _)| node).ok_or(RimtError::Node { offset }))
    }
}

/// One node.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Node<'a> {
    /// An IOMMU.
    Iommu(IommuNode<'a>),
    /// A PCIe root complex.
    RootComplex(RootComplexNode<'a>),
    /// A device that is not on PCIe.
    PlatformDevice(PlatformDeviceNode<'a>),
    /// A type that the specification does not define.
    Unknown {
        /// The type.
        node_type: u8,
        /// The whole node.
        bytes: &'a [u8],
    },
}

/// An IOMMU (table "IOMMU Node").
///
/// ```text
/// offset 0 type 0 | 1 revision | 2 length | 4 reserved | 6 id | 8 hardware id | 16 base address
///        | 24 flags | 28 proximity domain | 32 segment | 34 B/D/F | 36 wires | 38 wire offset
/// ```
#[derive(Clone, Debug)]
pub struct IommuNode<'a> {
    /// Where the node begins, in bytes from the start of the table; mappings name it by that.
    pub offset: usize,
    /// The node's id.
    pub id: u16,
    /// Where the registers are.
    pub location: Location,
    /// The NUMA domain, if the node has one.
    pub proximity_domain: Option<u32>,
    wires: &'a [u8],
}

impl<'a> IommuNode<'a> {
    /// The interrupt wires.
    pub fn interrupt_wires(&self) -> impl Iterator<Item = InterruptWire> + use<'a> {
        self.wires.chunks_exact(INTERRUPT_WIRE).map(|wire| {
            let flags = u32_at(wire, 4).unwrap_or(0);
            InterruptWire {
                number: u32_at(wire, 0).unwrap_or(0),
                is_level: flags & 1 != 0,
                is_active_high: flags & 2 != 0,
            }
        })
    }
}

/// Where an IOMMU's registers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Location {
    /// At a physical address.
    Platform(PhysicalAddress),
    /// Behind the BAR of a PCIe function.
    Pcie {
        /// The segment.
        segment: u16,
        /// Bus, device and function, as a requester id.
        function: u16,
    },
}

/// One interrupt wire of an IOMMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterruptWire {
    /// The global system interrupt.
    pub number: u32,
    /// Level-triggered, else edge-triggered.
    pub is_level: bool,
    /// Active high, else low.
    pub is_active_high: bool,
}

/// A PCIe root complex (table "PCIe Root Complex Node").
///
/// ```text
/// offset 0 type 1 ... | 8 flags | 12 reserved | 14 segment | 16 mapping offset | 18 mappings
/// ```
#[derive(Clone, Debug)]
pub struct RootComplexNode<'a> {
    /// The node's id.
    pub id: u16,
    /// The PCIe segment.
    pub segment: u16,
    /// Whether it lets ATS pass.
    pub has_ats: bool,
    /// Whether it lets page requests pass.
    pub has_page_requests: bool,
    /// From requester ids to device ids.
    pub mappings: IdMappings<'a>,
}

/// A device outside PCIe (table "Platform Device Node").
///
/// ```text
/// offset 0 type 2 ... | 8 mapping offset | 10 mappings | 12 name, ends in 0
/// ```
#[derive(Clone, Debug)]
pub struct PlatformDeviceNode<'a> {
    /// The node's id.
    pub id: u16,
    /// Its full path in the ACPI namespace, without the final 0.
    pub name: &'a [u8],
    /// From the device's own ids to device ids.
    pub mappings: IdMappings<'a>,
}

/// The ID mappings of a node.
#[derive(Clone, Copy, Debug)]
pub struct IdMappings<'a>(&'a [u8]);

impl<'a> IdMappings<'a> {
    /// Every mapping, in order.
    pub fn iter(&self) -> impl Iterator<Item = IdMapping> + use<'a> {
        self.0.chunks_exact(ID_MAPPING).map(|entry| {
            let field = |offset| u32_at(entry, offset).unwrap_or(0);
            IdMapping {
                source_base: field(0),
                count: field(4),
                device_base: field(8),
                iommu_offset: field(12),
                needs_ats: field(16) & 1 != 0,
                needs_page_requests: field(16) & 2 != 0,
            }
        })
    }

    /// The device id of a source id, and the mapping that says so.
    pub fn device_id(&self, source: u32) -> Option<(DeviceId, IdMapping)> {
        self.iter()
            .find_map(|mapping| Some((mapping.device_id(source)?, mapping)))
    }
}

/// A range of source ids and the device ids that the IOMMU sees (table "ID Mapping Structure").
///
/// ```text
/// offset 0 source base | 4 number of ids | 8 device id base | 12 IOMMU offset | 16 flags
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdMapping {
    /// The first source id; for PCIe a requester id.
    pub source_base: u32,
    /// How many ids.
    pub count: u32,
    /// The first device id.
    pub device_base: u32,
    /// Which IOMMU: the offset of its node in bytes from the start of the table.
    pub iommu_offset: u32,
    /// The devices do not work without ATS.
    pub needs_ats: bool,
    /// The devices do not work without page requests.
    pub needs_page_requests: bool,
}

impl IdMapping {
    /// The device id of a source id, if the mapping covers it and it fits 32 bits.
    pub fn device_id(&self, source: u32) -> Option<DeviceId> {
        let index = source.checked_sub(self.source_base)?;
        if index >= self.count {
            return None;
        }
        self.device_base.checked_add(index).map(DeviceId)
    }
}

/// The node at `offset` and its length in bytes, if it fits the table.
fn node_at(table: &[u8], offset: usize) -> Option<(Node<'_>, usize)> {
    let rest = table.get(offset..)?;
    let length = u16_at(rest, 2)? as usize;
    let bytes = rest.get(..length)?;
    let node_type = *bytes.first()?;
    let least = match node_type {
        0 => IOMMU_NODE,
        1 => ROOT_COMPLEX_NODE,
        2 => PLATFORM_DEVICE_NODE,
        _ => NODE_HEADER,
    };
    if length < least {
        return None;
    }
    let node = match node_type {
        0 => Node::Iommu(iommu_node(bytes, offset)?),
        1 => Node::RootComplex(root_complex_node(bytes)?),
        2 => Node::PlatformDevice(platform_device_node(bytes)?),
        _ => Node::Unknown { node_type, bytes },
    };
    Some((node, length))
}

fn iommu_node(bytes: &[u8], offset: usize) -> Option<IommuNode<'_>> {
    let flags = u32_at(bytes, 24)?;
    let location = if flags & 1 == 0 {
        Location::Platform(PhysicalAddress(u64_at(bytes, 16)?))
    } else {
        Location::Pcie {
            segment: u16_at(bytes, 32)?,
            function: u16_at(bytes, 34)?,
        }
    };
    let domain = u32_at(bytes, 28)?;
    Some(IommuNode {
        offset,
        id: u16_at(bytes, 6)?,
        location,
        proximity_domain: (flags & 2 != 0).then_some(domain),
        wires: entries(
            bytes,
            u16_at(bytes, 38)?,
            u16_at(bytes, 36)?,
            INTERRUPT_WIRE,
        )?,
    })
}

fn root_complex_node(bytes: &[u8]) -> Option<RootComplexNode<'_>> {
    let flags = u32_at(bytes, 8)?;
    Some(RootComplexNode {
        id: u16_at(bytes, 6)?,
        segment: u16_at(bytes, 14)?,
        has_ats: flags & 1 != 0,
        has_page_requests: flags & 2 != 0,
        mappings: mappings(bytes, 16)?,
    })
}

fn platform_device_node(bytes: &[u8]) -> Option<PlatformDeviceNode<'_>> {
    let name = bytes.get(PLATFORM_DEVICE_NODE..)?;
    let end = name.iter().position(|byte| *byte == 0)?;
    Some(PlatformDeviceNode {
        id: u16_at(bytes, 6)?,
        name: name.get(..end)?,
        mappings: mappings(bytes, 8)?,
    })
}

/// The ID mappings whose offset and number stand at `field`.
fn mappings(bytes: &[u8], field: usize) -> Option<IdMappings<'_>> {
    let (offset, count) = (u16_at(bytes, field)?, u16_at(bytes, field + 2)?);
    entries(bytes, offset, count, ID_MAPPING).map(IdMappings)
}

/// An array of `count` entries of `size` bytes at `offset` of a node. The offset of an empty array
/// means nothing.
fn entries(bytes: &[u8], offset: u16, count: u16, size: usize) -> Option<&[u8]> {
    if count == 0 {
        return Some(&[]);
    }
    bytes.get(offset.into()..)?.get(..usize::from(count) * size)
}

fn array_at<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..)?.first_chunk().copied()
}

fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    array_at(bytes, offset).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    array_at(bytes, offset).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    array_at(bytes, offset).map(u64::from_le_bytes)
}
