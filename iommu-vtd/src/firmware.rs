//! The ACPI DMAR table: which remapping units there are, and for which devices (chapter 8).
//!
//! Nothing here allocates, panics or reads outside the slice it was given, whatever that holds.

use core::error::Error;
use core::fmt;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

/// Why the table, or a part of it, cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DmarError {
    /// The signature is not "DMAR".
    Signature([u8; 4]),
    /// The length that the table claims is shorter than its header or longer than the bytes given.
    Length {
        /// The claimed length, or 0 if not even the header is there, in bytes.
        claimed: usize,
        /// The bytes given.
        available: usize,
    },
    /// The bytes of the table do not add up to zero.
    Checksum {
        /// Their sum.
        sum: u8,
    },
    /// A remapping structure is shorter than its type needs, or reaches beyond the table.
    StructureLength {
        /// Where it begins, in bytes from the start of the table.
        offset: usize,
        /// The claimed length, in bytes.
        length: usize,
    },
    /// A device scope is shorter than its header, has half a path entry, or reaches beyond its
    /// structure.
    ScopeLength {
        /// The claimed length, in bytes.
        length: usize,
    },
}

impl fmt::Display for DmarError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signature(found) => {
                let found = found.escape_ascii();
                write!(formatter, "the table's signature is {found}, not DMAR")
            }
            Self::Length { claimed, available } => write!(
                formatter,
                "the DMAR table claims {claimed} bytes of {available}"
            ),
            Self::Checksum { sum } => {
                write!(formatter, "the bytes of the DMAR table add up to {sum:#x}")
            }
            Self::StructureLength { offset, length } => write!(
                formatter,
                "the DMAR structure at offset {offset} has the wrong length {length}"
            ),
            Self::ScopeLength { length } => {
                write!(
                    formatter,
                    "a DMAR device scope has the wrong length {length}"
                )
            }
        }
    }
}

impl Error for DmarError {}

/// The header (8.1).
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Header {
    signature: [u8; 4],
    length: U32,
    revision: u8,
    checksum: u8,
    oem: [u8; 26],
    host_address_width: u8,
    flags: u8,
    reserved: [u8; 10],
}

/// A DMAR table whose signature, length and checksum are right.
#[derive(Clone, Copy)]
pub struct Dmar<'a> {
    header: &'a Header,
    table: &'a [u8],
}

impl<'a> Dmar<'a> {
    /// Checks the table at the start of `bytes`, which may go on behind it.
    ///
    /// # Errors
    ///
    /// [`DmarError::Signature`], [`DmarError::Length`] or [`DmarError::Checksum`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, DmarError> {
        let available = bytes.len();
        let too_short = |claimed| DmarError::Length { claimed, available };
        let (header, _) = Header::ref_from_prefix(bytes).map_err(|_| too_short(0))?;
        if header.signature != *b"DMAR" {
            return Err(DmarError::Signature(header.signature));
        }
        let claimed = header.length.get() as usize;
        let table = bytes.get(..claimed).ok_or(too_short(claimed))?;
        if claimed < size_of::<Header>() {
            return Err(too_short(claimed));
        }
        let sum = table.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
        if sum != 0 {
            return Err(DmarError::Checksum { sum });
        }
        Ok(Self { header, table })
    }

    /// Width in bits of the addresses that a device can reach.
    pub fn host_address_width(&self) -> u32 {
        u32::from(self.header.host_address_width) + 1
    }

    /// INTR_REMAP: the platform supports interrupt remapping.
    pub fn interrupt_remapping(&self) -> bool {
        self.header.flags & 1 != 0
    }

    /// DMA_CTRL_PLATFORM_OPT_IN_FLAG: firmware asks that DMA stay blocked until the kernel has
    /// brought the units up.
    pub fn dma_opt_in(&self) -> bool {
        self.header.flags & 1 << 2 != 0
    }

    /// The remapping structures, in the table's order. Ends after the first error.
    pub fn structures(&self) -> Structures<'a> {
        Structures {
            table: self.table,
            offset: size_of::<Header>(),
        }
    }
}

impl fmt::Debug for Dmar<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_list().entries(self.structures()).finish()
    }
}

/// An iterator over remapping structures.
#[derive(Clone, Debug)]
pub struct Structures<'a> {
    table: &'a [u8],
    offset: usize,
}

impl<'a> Iterator for Structures<'a> {
    type Item = Result<Structure<'a>, DmarError>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self
            .table
            .get(self.offset..)
            .filter(|rest| !rest.is_empty())?;
        let offset = self.offset;
        let found = StructureHeader::ref_from_prefix(rest).ok();
        let length = found.map_or(0, |(header, _)| header.length.get() as usize);
        let structure = found.and_then(|(header, _)| {
            let body = rest.get(size_of::<StructureHeader>()..length)?;
            Structure::parse(header.kind.get(), body)
        });
        self.offset = match structure {
            Some(_) => offset + length,
            None => self.table.len(),
        };
        Some(structure.ok_or(DmarError::StructureLength { offset, length }))
    }
}

#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct StructureHeader {
    kind: U16,
    length: U16,
}

/// One remapping structure (8.2).
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Structure<'a> {
    /// DRHD: a remapping unit (8.3).
    Unit(Drhd<'a>),
    /// RMRR: memory that devices use by firmware's arrangement (8.4).
    ReservedMemory(Rmrr<'a>),
    /// ATSR: root ports behind which ATS may be used (8.5).
    RootPortAts {
        /// The PCI segment.
        segment: u16,
        /// Every root port of the segment, whatever the scopes say.
        all_ports: bool,
        /// The root ports.
        scopes: Scopes<'a>,
    },
    /// RHSA: which memory is near to a unit (8.6).
    Affinity {
        /// Where the unit's registers lie, a physical address.
        register_base: u64,
        /// The proximity domain of ACPI.
        proximity_domain: u32,
    },
    /// ANDD: the name of a device that is not on PCI (8.7).
    AcpiDevice {
        /// The number that scopes use for it.
        number: u8,
        /// Its ACPI object name, as bytes up to the first zero.
        name: &'a [u8],
    },
    /// SATC: devices of the platform that use ATS (8.8).
    PlatformAts {
        /// The PCI segment.
        segment: u16,
        /// The devices work only with ATS.
        required: bool,
        /// The devices.
        scopes: Scopes<'a>,
    },
    /// SIDP: devices of the platform with properties of their own (8.9).
    PlatformProperties {
        /// The PCI segment.
        segment: u16,
        /// The devices.
        scopes: Scopes<'a>,
    },
    /// A type that this driver does not know.
    Unknown {
        /// The type.
        kind: u16,
        /// Everything behind type and length.
        body: &'a [u8],
    },
}

#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct DrhdFields {
    flags: u8,
    size: u8,
    segment: U16,
    register_base: U64,
}

#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RmrrFields {
    reserved: U16,
    segment: U16,
    base: U64,
    limit: U64,
}

#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct ScopedFields {
    flags: u8,
    reserved: u8,
    segment: U16,
}

#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RhsaFields {
    reserved: U32,
    register_base: U64,
    proximity_domain: U32,
}

#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct AnddFields {
    reserved: [u8; 3],
    number: u8,
}

impl<'a> Structure<'a> {
    /// `None` if `body`, which is what follows type and length, is too short for the type.
    fn parse(kind: u16, body: &'a [u8]) -> Option<Self> {
        Some(match kind {
            0 => {
                let (fields, scopes) = DrhdFields::ref_from_prefix(body).ok()?;
                Self::Unit(Drhd {
                    segment: fields.segment.get(),
                    register_base: fields.register_base.get(),
                    register_bytes: 4096 << (fields.size & 0xf),
                    include_all: fields.flags & 1 != 0,
                    scopes: Scopes(scopes),
                })
            }
            1 => {
                let (fields, scopes) = RmrrFields::ref_from_prefix(body).ok()?;
                Self::ReservedMemory(Rmrr {
                    segment: fields.segment.get(),
                    base: fields.base.get(),
                    limit: fields.limit.get(),
                    scopes: Scopes(scopes),
                })
            }
            2 | 5 | 6 => {
                let (fields, scopes) = ScopedFields::ref_from_prefix(body).ok()?;
                Self::scoped(kind, fields, Scopes(scopes))
            }
            3 => {
                let (fields, _) = RhsaFields::ref_from_prefix(body).ok()?;
                Self::Affinity {
                    register_base: fields.register_base.get(),
                    proximity_domain: fields.proximity_domain.get(),
                }
            }
            4 => {
                let (fields, name) = AnddFields::ref_from_prefix(body).ok()?;
                Self::AcpiDevice {
                    number: fields.number,
                    name: name.split(|byte| *byte == 0).next().unwrap_or(name),
                }
            }
            _ => Self::Unknown { kind, body },
        })
    }

    fn scoped(kind: u16, fields: &ScopedFields, scopes: Scopes<'a>) -> Self {
        let (segment, flag) = (fields.segment.get(), fields.flags & 1 != 0);
        match kind {
            2 => Self::RootPortAts {
                segment,
                all_ports: flag,
                scopes,
            },
            5 => Self::PlatformAts {
                segment,
                required: flag,
                scopes,
            },
            _ => Self::PlatformProperties { segment, scopes },
        }
    }
}

/// A remapping unit (DRHD).
#[derive(Clone, Copy, Debug)]
pub struct Drhd<'a> {
    /// The PCI segment of its devices.
    pub segment: u16,
    /// Where its registers lie, a physical address.
    pub register_base: u64,
    /// How long the register window is, in bytes.
    pub register_bytes: usize,
    /// INCLUDE_PCI_ALL: every PCI device of the segment that no other unit names.
    pub include_all: bool,
    /// The devices that it names.
    pub scopes: Scopes<'a>,
}

/// Memory that devices use by firmware's arrangement (RMRR).
#[derive(Clone, Copy, Debug)]
pub struct Rmrr<'a> {
    /// The PCI segment of the devices.
    pub segment: u16,
    /// The first byte, a physical address.
    pub base: u64,
    /// The last byte, a physical address.
    pub limit: u64,
    /// The devices.
    pub scopes: Scopes<'a>,
}

/// The device scopes of one structure (8.3.1). Its iterator ends after the first error.
#[derive(Clone, Copy, Debug)]
pub struct Scopes<'a>(&'a [u8]);

#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct ScopeHeader {
    kind: u8,
    length: u8,
    flags: u8,
    reserved: u8,
    enumeration_id: u8,
    start_bus: u8,
}

/// One device, or one bridge with everything below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceScope<'a> {
    /// What it is.
    pub kind: ScopeKind,
    /// The id of an I/O APIC or HPET, or the number of an ACPI device.
    pub enumeration_id: u8,
    /// The bus where the path begins.
    pub start_bus: u8,
    path: &'a [u8],
}

/// What a device scope names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScopeKind {
    /// 1: a PCI endpoint.
    Endpoint,
    /// 2: a PCI bridge and everything below it.
    Bridge,
    /// 3: an I/O APIC.
    IoApic,
    /// 4: an HPET that can send MSIs.
    Hpet,
    /// 5: a device that is not on PCI, named by an ANDD.
    AcpiDevice,
    /// A type that this driver does not know.
    Unknown(u8),
}

impl<'a> DeviceScope<'a> {
    /// (device, function) from the start bus downwards; each but the last is a bridge.
    pub fn path(&self) -> impl Iterator<Item = (u8, u8)> + Clone + 'a {
        self.path.chunks_exact(2).map(|entry| (entry[0], entry[1]))
    }
}

impl<'a> Iterator for Scopes<'a> {
    type Item = Result<DeviceScope<'a>, DmarError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let found = ScopeHeader::ref_from_prefix(self.0).ok();
        let length = found.map_or(0, |(header, _)| usize::from(header.length));
        let scope = found.and_then(|(header, _)| {
            let path = self.0.get(size_of::<ScopeHeader>()..length)?;
            let is_whole = path.len().is_multiple_of(2);
            is_whole.then_some(DeviceScope {
                kind: ScopeKind::new(header.kind),
                enumeration_id: header.enumeration_id,
                start_bus: header.start_bus,
                path,
            })
        });
        self.0 = match scope {
            Some(_) => &self.0[length..],
            None => &[],
        };
        Some(scope.ok_or(DmarError::ScopeLength { length }))
    }
}

impl ScopeKind {
    const fn new(kind: u8) -> Self {
        match kind {
            1 => Self::Endpoint,
            2 => Self::Bridge,
            3 => Self::IoApic,
            4 => Self::Hpet,
            5 => Self::AcpiDevice,
            other => Self::Unknown(other),
        }
    }
}
