//! The ACPI table IORT: where the SMMUs are, and which StreamID a requester has.
//!
//! Source: IO Remapping Table, Arm DEN 0049, revision E. Everything is little-endian. Nothing here
//! allocates, panics or reads outside the bytes it was given, and every iterator ends, whatever the
//! bytes hold. On a machine with a device tree, the node `arm,smmu-v3` says where the SMMU is, and
//! [`iommu_core::firmware::device_tree`] which StreamIDs there are.

use core::error::Error;
use core::fmt;
use iommu_core::ids::DeviceId;

const HEADER_BYTES: usize = 48;
const NODE_HEADER_BYTES: usize = 16;
const MAPPING_BYTES: usize = 20;

/// Why a table cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum IortError {
    /// The bytes do not begin with "IORT".
    Signature,
    /// The stated length is shorter than a header or longer than the bytes at hand.
    Length {
        /// What the header says, in bytes.
        stated: usize,
        /// How many bytes there are.
        available: usize,
    },
    /// The bytes do not add up to 0.
    Checksum,
    /// A node is cut off, or shorter than its type or its mappings need.
    Node {
        /// Where it lies, in bytes from the start of the table.
        offset: usize,
    },
    /// A mapping leads past the last 32-bit id.
    Overflow(IdMapping),
}

impl fmt::Display for IortError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signature => write!(formatter, "the table is not an IORT"),
            Self::Length { stated, available } => write!(
                formatter,
                "the IORT says it has {stated} bytes, of {available}"
            ),
            Self::Checksum => write!(formatter, "the IORT has a wrong checksum"),
            Self::Node { offset } => write!(formatter, "the IORT node at {offset:#x} is cut off"),
            Self::Overflow(mapping) => write!(
                formatter,
                "an IORT mapping leads past the last id: {} more from {:#x}",
                mapping.more, mapping.output
            ),
        }
    }
}

impl Error for IortError {}

/// An IORT whose header is sound.
#[derive(Clone, Copy, Debug)]
pub struct Iort<'a> {
    table: &'a [u8],
}

/// One node.
#[derive(Clone, Copy, Debug)]
pub struct Node<'a> {
    /// Where it lies, in bytes from the start of the table; mappings refer to it by this.
    pub offset: usize,
    /// What it describes.
    pub kind: NodeKind<'a>,
    mappings: &'a [u8],
}

/// What a node describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NodeKind<'a> {
    /// A group of interrupt translation services.
    ItsGroup,
    /// A device that is not behind PCIe, with its ACPI name, without the final zero.
    NamedComponent(&'a [u8]),
    /// A PCIe root complex.
    RootComplex(RootComplex),
    /// An SMMUv1 or SMMUv2.
    SmmuV1V2,
    /// An SMMUv3.
    SmmuV3(SmmuV3),
    /// A performance counter group.
    PerformanceCounters,
    /// Memory that devices use before the system starts.
    ReservedMemory,
    /// A type that this driver does not know.
    Unknown(u8),
}

/// A PCIe root complex (3.1.1.4 of the table's specification).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RootComplex {
    /// Its PCI segment.
    pub segment: u32,
    /// Whether it supports ATS.
    pub ats: bool,
}

/// An SMMUv3 (3.1.1.2 of the table's specification).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SmmuV3 {
    /// The physical address of its page 0.
    pub base: u64,
    /// Whether its accesses snoop even if SMMU_IDR0.COHACC says otherwise.
    pub coherent_override: bool,
    /// Its model; 0 is generic.
    pub model: u32,
}

/// From the ids of one node to those of another.
///
/// ```text
///    0        4          8         12          16      20
///   +--------+----------+---------+-----------+-------+
///   | input  | number-1 | output  | reference | flags |
///   +--------+----------+---------+-----------+-------+
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdMapping {
    /// The first id that comes in.
    pub input: u32,
    /// How many ids follow the first.
    pub more: u32,
    /// What the first becomes.
    pub output: u32,
    /// The offset of the node where it goes.
    pub reference: u32,
    /// Whether every input becomes `output`.
    pub single: bool,
}

/// A requester as its SMMU sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream {
    /// The SMMU.
    pub smmu: SmmuV3,
    /// The StreamID there.
    pub device: DeviceId,
}

impl<'a> Iort<'a> {
    /// The table at the start of `bytes`, which may be longer.
    ///
    /// # Errors
    ///
    /// [`IortError`] if signature, length or checksum are wrong.
    pub fn new(bytes: &'a [u8]) -> Result<Self, IortError> {
        if !bytes.starts_with(b"IORT") {
            return Err(IortError::Signature);
        }
        let available = bytes.len();
        let stated = u32_at(bytes, 4).unwrap_or(0) as usize;
        let table = bytes
            .get(..stated)
            .filter(|table| table.len() >= HEADER_BYTES)
            .ok_or(IortError::Length { stated, available })?;
        let sum = table.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
        if sum != 0 {
            return Err(IortError::Checksum);
        }
        Ok(Self { table })
    }

    /// The nodes in their order; the first error is the last element.
    pub fn nodes(&self) -> Nodes<'a> {
        Nodes {
            table: *self,
            offset: u32_at(self.table, 40).unwrap_or(0) as usize,
            left: u32_at(self.table, 36).unwrap_or(0),
        }
    }

    /// The node at `offset`.
    ///
    /// # Errors
    ///
    /// [`IortError::Node`] if there is no whole node.
    pub fn node(&self, offset: usize) -> Result<Node<'a>, IortError> {
        self.parse(offset)
            .map(|(node, _)| node)
            .ok_or(IortError::Node { offset })
    }

    /// Where requests of `requester` (bus, device, function) of PCI segment `segment` go; `None` if
    /// not to an SMMUv3.
    ///
    /// # Errors
    ///
    /// [`IortError`] if a node on the way is malformed.
    pub fn stream(&self, segment: u32, requester: u16) -> Result<Option<Stream>, IortError> {
        for node in self.nodes() {
            let node = node?;
            let NodeKind::RootComplex(complex) = node.kind else {
                continue;
            };
            if complex.segment != segment {
                continue;
            }
            let mut mappings = node.mappings();
            let Some(mapping) = mappings.find(|mapping| mapping.covers(requester.into())) else {
                continue;
            };
            let target = self.node(mapping.reference as usize)?;
            let NodeKind::SmmuV3(smmu) = target.kind else {
                return Ok(None);
            };
            let device = mapping
                .map(requester.into())
                .ok_or(IortError::Overflow(mapping))?;
            return Ok(Some(Stream {
                smmu,
                device: DeviceId(device),
            }));
        }
        Ok(None)
    }

    /// The node at `offset` and the offset behind it.
    ///
    /// ```text
    ///    0      1         3          4    8                12              16
    ///   +------+---------+----------+----+----------------+----------------+------
    ///   | type | length  | revision | id | mappings: number | their offset | data
    ///   +------+---------+----------+----+----------------+----------------+------
    /// ```
    fn parse(&self, offset: usize) -> Option<(Node<'a>, usize)> {
        let rest = self.table.get(offset..)?;
        let length = u16_at(rest, 1)? as usize;
        let node = rest.get(..length)?;
        if length < NODE_HEADER_BYTES {
            return None;
        }
        let number = u32_at(node, 8)? as usize;
        let mappings = if number == 0 {
            &[]
        } else {
            let bytes = number.checked_mul(MAPPING_BYTES)?;
            node.get(u32_at(node, 12)? as usize..)?.get(..bytes)?
        };
        let node = Node {
            offset,
            kind: kind(node)?,
            mappings,
        };
        Some((node, offset + length))
    }
}

fn kind(node: &[u8]) -> Option<NodeKind<'_>> {
    Some(match *node.first()? {
        0 => NodeKind::ItsGroup,
        1 => {
            let name = node.get(29..)?;
            let end = name.iter().position(|&byte| byte == 0)?;
            NodeKind::NamedComponent(name.get(..end)?)
        }
        2 => NodeKind::RootComplex(RootComplex {
            ats: u32_at(node, 24)? & 1 == 1,
            segment: u32_at(node, 28)?,
        }),
        3 => NodeKind::SmmuV1V2,
        4 => NodeKind::SmmuV3(SmmuV3 {
            base: u64::from(u32_at(node, 20)?) << 32 | u64::from(u32_at(node, 16)?),
            coherent_override: u32_at(node, 24)? & 1 == 1,
            model: u32_at(node, 40)?,
        }),
        5 => NodeKind::PerformanceCounters,
        6 => NodeKind::ReservedMemory,
        unknown => NodeKind::Unknown(unknown),
    })
}

impl<'a> Node<'a> {
    /// The id mappings in their order.
    pub fn mappings(&self) -> impl Iterator<Item = IdMapping> + use<'a> {
        self.mappings
            .chunks_exact(MAPPING_BYTES)
            .filter_map(|bytes| {
                Some(IdMapping {
                    input: u32_at(bytes, 0)?,
                    more: u32_at(bytes, 4)?,
                    output: u32_at(bytes, 8)?,
                    reference: u32_at(bytes, 12)?,
                    single: u32_at(bytes, 16)? & 1 == 1,
                })
            })
    }
}

impl IdMapping {
    /// Whether it maps `id`.
    pub const fn covers(&self, id: u32) -> bool {
        self.single || (id >= self.input && id - self.input <= self.more)
    }

    /// What `id` becomes; `None` if it is not covered or leads past the last 32-bit id.
    pub const fn map(&self, id: u32) -> Option<u32> {
        if self.single {
            Some(self.output)
        } else if self.covers(id) {
            self.output.checked_add(id - self.input)
        } else {
            None
        }
    }
}

/// The nodes of an [`Iort`].
#[derive(Clone, Debug)]
pub struct Nodes<'a> {
    table: Iort<'a>,
    offset: usize,
    left: u32,
}

impl<'a> Iterator for Nodes<'a> {
    type Item = Result<Node<'a>, IortError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let offset = self.offset;
        match self.table.parse(offset) {
            Some((node, next)) => {
                self.offset = next;
                Some(Ok(node))
            }
            None => {
                self.left = 0;
                Some(Err(IortError::Node { offset }))
            }
        }
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let word = bytes.get(at..)?.first_chunk()?;
    Some(u16::from_le_bytes(*word))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_le_bytes(*word))
}
