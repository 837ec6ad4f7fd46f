//! What the kernel asks of the flattened device tree.
//!
//! `dtoolkit` validates the blob as a whole before anything is read. Cell counts and lengths inside
//! properties are checked here. Buses between the root and a node must map their addresses one to
//! one, as those of QEMU's machines do.

use crate::region::Region;
use alloc::vec::Vec;
use core::fmt;
use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::standard::NodeStandard;
use dtoolkit::{Node, Property};
use iommu_core::firmware::device_tree::{IommuMap, MapError, Specifier};

/// Deeper nodes are not looked at.
const MAXIMUM_DEPTH: usize = 8;

/// Why the device tree does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeviceTreeError {
    /// The blob is not a valid flattened device tree.
    Malformed {
        /// The blob's length in bytes.
        length: usize,
    },
    /// There is no such node.
    MissingNode {
        /// Its path, or the `compatible` string looked for.
        node: &'static str,
    },
    /// The node has no such property.
    MissingProperty {
        /// As for [`MissingNode`](Self::MissingNode).
        node: &'static str,
        /// The property's name.
        property: &'static str,
    },
    /// The property's length, or a cell count that it depends on, is wrong.
    BadProperty {
        /// As for [`MissingNode`](Self::MissingNode).
        node: &'static str,
        /// The property's name.
        property: &'static str,
    },
}

impl fmt::Display for DeviceTreeError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed { length } => {
                write!(
                    formatter,
                    "the {length} bytes of the device tree are malformed"
                )
            }
            Self::MissingNode { node } => write!(formatter, "the device tree has no node {node}"),
            Self::MissingProperty { node, property } => {
                write!(
                    formatter,
                    "device tree node {node} has no property {property}"
                )
            }
            Self::BadProperty { node, property } => {
                write!(
                    formatter,
                    "property {property} of device tree node {node} is malformed"
                )
            }
        }
    }
}

impl core::error::Error for DeviceTreeError {}

/// A generic PCIe host bridge with memory-mapped configuration space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostBridge {
    /// Configuration space of all its buses.
    pub configuration_space: Region,
    /// Its first bus number.
    pub first_bus: u8,
    /// Its last bus number.
    pub last_bus: u8,
    /// Where 32-bit memory BARs may be placed; one to one between the bus and the processor.
    pub memory_window: Region,
    /// The properties `iommu-map` and `iommu-map-mask`.
    iommu_map: Vec<u8>,
    iommu_map_mask: Option<Vec<u8>>,
}

impl HostBridge {
    /// Which IOMMU translates a function's requests, and under which device id.
    pub fn device_id(&self, requester: u16) -> Result<Specifier, MapError> {
        self.iommu_map()?.device_id(requester)
    }

    fn iommu_map(&self) -> Result<IommuMap<'_>, MapError> {
        IommuMap::new(&self.iommu_map, self.iommu_map_mask.as_deref())
    }
}

/// An IOMMU with registers at a fixed place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlatformIommu {
    /// Its registers.
    pub registers: Region,
    /// Its phandle, if anything refers to it.
    pub phandle: Option<u32>,
}

/// An IOMMU that is a PCI function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PciIommu {
    /// Its requester id.
    pub requester: u16,
    /// Its phandle, if anything refers to it.
    pub phandle: Option<u32>,
}

/// A validated device tree.
#[derive(Clone, Copy)]
pub struct DeviceTree<'a> {
    tree: Fdt<'a>,
}

impl fmt::Debug for DeviceTree<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("DeviceTree")
    }
}

impl<'a> DeviceTree<'a> {
    /// Bytes of the header that [`total_size`](Self::total_size) needs.
    pub const HEADER_LENGTH: usize = 8;

    /// The blob's length in bytes according to its first [`HEADER_LENGTH`](Self::HEADER_LENGTH)
    /// bytes; `None` if they are not the start of a device tree.
    pub fn total_size(header: &[u8]) -> Option<usize> {
        const MAGIC: u32 = 0xd00d_feed;
        (big_endian(header.get(..4)?) == u64::from(MAGIC))
            .then(|| header.get(4..8).map(|size| big_endian(size) as usize))?
    }

    /// Validates the blob, which is exactly as long as its header says.
    pub fn new(blob: &'a [u8]) -> Result<Self, DeviceTreeError> {
        Fdt::new(blob)
            .map(|tree| Self { tree })
            .map_err(|_| DeviceTreeError::Malformed { length: blob.len() })
    }

    /// `/chosen/bootargs`; empty if it is not there.
    pub fn command_line(&self) -> Result<&'a str, DeviceTreeError> {
        let (node, property) = ("/chosen", "bootargs");
        match self
            .tree
            .find_node(node)
            .and_then(|chosen| chosen.property(property))
        {
            None => Ok(""),
            Some(value) => value
                .value_as::<&str>()
                .map_err(|_| DeviceTreeError::BadProperty { node, property }),
        }
    }

    /// All RAM, sorted by base.
    pub fn memory(&self) -> Result<Vec<Region>, DeviceTreeError> {
        let node = "/memory";
        let root = self.tree.root();
        let mut regions = Vec::new();
        for memory in root
            .children()
            .filter(|child| child.name_without_address() == "memory")
        {
            regions.extend(registers(node, &root, &memory)?);
        }
        regions.sort_by_key(|region| region.base);
        if regions.is_empty() {
            Err(DeviceTreeError::MissingNode { node })
        } else {
            Ok(regions)
        }
    }

    /// The registers of the first node that is compatible with `compatible`.
    pub fn registers(&self, compatible: &'static str) -> Result<Region, DeviceTreeError> {
        let (parent, node) = self.compatible(compatible)?;
        first_registers(compatible, &parent, &node)
    }

    /// `/cpus/timebase-frequency` in hertz.
    pub fn timebase_frequency(&self) -> Result<u32, DeviceTreeError> {
        let (node, property) = ("/cpus", "timebase-frequency");
        let cpus = self
            .tree
            .find_node(node)
            .ok_or(DeviceTreeError::MissingNode { node })?;
        cpus.property(property)
            .ok_or(DeviceTreeError::MissingProperty { node, property })?
            .value_as::<u32>()
            .ok()
            .filter(|frequency| *frequency > 0)
            .ok_or(DeviceTreeError::BadProperty { node, property })
    }

    /// The first generic PCIe host bridge.
    pub fn host_bridge(&self) -> Result<HostBridge, DeviceTreeError> {
        let name = "pci-host-ecam-generic";
        let (parent, node) = self.compatible(name)?;
        let configuration_space = first_registers(name, &parent, &node)?;
        let (first_bus, last_bus) = bus_range(name, &node)?;
        let bytes = |property| Some(node.property(property)?.value().to_vec());
        let bridge = HostBridge {
            configuration_space,
            first_bus,
            last_bus,
            memory_window: memory_window(name, &parent, &node)?,
            iommu_map: bytes("iommu-map").unwrap_or_default(),
            iommu_map_mask: bytes("iommu-map-mask"),
        };
        let cut_off = |_| DeviceTreeError::BadProperty {
            node: name,
            property: "iommu-map",
        };
        bridge.iommu_map().map_err(cut_off)?;
        Ok(bridge)
    }

    /// The first IOMMU compatible with `compatible` that has registers at a fixed place.
    pub fn platform_iommu(
        &self,
        compatible: &'static str,
    ) -> Result<PlatformIommu, DeviceTreeError> {
        let (parent, node) = self.compatible(compatible)?;
        let registers = first_registers(compatible, &parent, &node)?;
        Ok(PlatformIommu {
            registers,
            phandle: node.phandle().ok().flatten(),
        })
    }

    /// The first IOMMU compatible with `compatible` that is a function below a PCI host bridge.
    pub fn pci_iommu(&self, compatible: &'static str) -> Result<PciIommu, DeviceTreeError> {
        let (_, node) = self.compatible(compatible)?;
        let property = "reg";
        let cells = node
            .property(property)
            .ok_or(DeviceTreeError::MissingProperty {
                node: compatible,
                property,
            })?;
        // The first of three address cells holds bus, device and function in bits 23..8.
        let requester = cells
            .value()
            .get(..4)
            .map(|first| (big_endian(first) >> 8) as u16)
            .ok_or(DeviceTreeError::BadProperty {
                node: compatible,
                property,
            })?;
        Ok(PciIommu {
            requester,
            phandle: node.phandle().ok().flatten(),
        })
    }

    /// The first node compatible with `compatible`, after its parent.
    fn compatible(
        &self,
        compatible: &'static str,
    ) -> Result<(FdtNode<'a>, FdtNode<'a>), DeviceTreeError> {
        find_below(self.tree.root(), compatible, MAXIMUM_DEPTH)
            .ok_or(DeviceTreeError::MissingNode { node: compatible })
    }
}

fn find_below<'a>(
    parent: FdtNode<'a>,
    compatible: &str,
    depth: usize,
) -> Option<(FdtNode<'a>, FdtNode<'a>)> {
    parent.children().find_map(|node| {
        if NodeStandard::is_compatible(&node, compatible) {
            Some((parent, node))
        } else if depth > 0 {
            find_below(node, compatible, depth - 1)
        } else {
            None
        }
    })
}

/// `#address-cells` and `#size-cells` of `node`, if both are what this kernel can hold.
fn cell_counts(node: &FdtNode<'_>) -> Option<(usize, usize)> {
    let address = node.address_cells().ok()? as usize;
    let size = node.size_cells().ok()? as usize;
    ((1..=3).contains(&address) && size <= 2).then_some((address, size))
}

fn registers(
    name: &'static str,
    parent: &FdtNode<'_>,
    node: &FdtNode<'_>,
) -> Result<Vec<Region>, DeviceTreeError> {
    let property = "reg";
    let bad = DeviceTreeError::BadProperty {
        node: name,
        property,
    };
    let (address_cells, size_cells) = cell_counts(parent).filter(|(a, _)| *a <= 2).ok_or(bad)?;
    let entry = (address_cells + size_cells) * 4;
    let value = node
        .property(property)
        .ok_or(DeviceTreeError::MissingProperty {
            node: name,
            property,
        })?;
    let value = value.value();
    if value.is_empty() || !value.len().is_multiple_of(entry) {
        return Err(bad);
    }
    let regions = value.chunks_exact(entry).map(|entry| {
        let (base, size) = entry.split_at(address_cells * 4);
        Region {
            base: big_endian(base),
            size: big_endian(size),
        }
    });
    Ok(regions.collect())
}

fn first_registers(
    name: &'static str,
    parent: &FdtNode<'_>,
    node: &FdtNode<'_>,
) -> Result<Region, DeviceTreeError> {
    registers(name, parent, node).map(|regions| regions[0])
}

fn bus_range(name: &'static str, node: &FdtNode<'_>) -> Result<(u8, u8), DeviceTreeError> {
    let property = "bus-range";
    let Some(value) = node.property(property) else {
        return Ok((0, 255));
    };
    match value.value_as::<[u32; 2]>() {
        Ok([first, last]) if first <= last && last <= 255 => Ok((first as u8, last as u8)),
        _ => Err(DeviceTreeError::BadProperty {
            node: name,
            property,
        }),
    }
}

/// The one-to-one range of 32-bit, non-prefetchable memory (PCI Bus Binding to IEEE 1275, 2.2.1.1:
/// bits 25..24 of the first cell are the space, 2 for 32-bit memory).
fn memory_window(
    name: &'static str,
    parent: &FdtNode<'_>,
    node: &FdtNode<'_>,
) -> Result<Region, DeviceTreeError> {
    const SPACE: u64 = 3 << 24;
    const MEMORY_32: u64 = 2 << 24;
    let property = "ranges";
    let bad = DeviceTreeError::BadProperty {
        node: name,
        property,
    };
    let (child_cells, size_cells) = cell_counts(node).ok_or(bad)?;
    let (parent_cells, _) = cell_counts(parent).filter(|(a, _)| *a <= 2).ok_or(bad)?;
    let entry = (child_cells + parent_cells + size_cells) * 4;
    let value = node
        .property(property)
        .ok_or(DeviceTreeError::MissingProperty {
            node: name,
            property,
        })?;
    let value = value.value();
    if child_cells != 3 || !value.len().is_multiple_of(entry) {
        return Err(bad);
    }
    value
        .chunks_exact(entry)
        .find_map(|entry| {
            let (child, rest) = entry.split_at(child_cells * 4);
            let (base, size) = rest.split_at(parent_cells * 4);
            let is_memory = big_endian(&child[..4]) & SPACE == MEMORY_32;
            let base = big_endian(base);
            (is_memory && big_endian(&child[4..]) == base).then(|| Region {
                base,
                size: big_endian(size),
            })
        })
        .ok_or(bad)
}

/// At most eight bytes, highest first.
fn big_endian(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0, |value, byte| value << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests;
