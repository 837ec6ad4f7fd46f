//! Finds ACPI tables by signature and hands them out as checked bytes (ACPI 6.5, section 5.2).
//!
//! The decoding of a table belongs to whom it concerns: the DMAR table to the VT-d driver. Only
//! MCFG, which says where PCIe configuration space lies, is read here.

use crate::region::Region;
use core::fmt;

/// Bytes before the body of every table but the RSDP.
pub const HEADER_LENGTH: usize = 36;

/// Read access to the memory that firmware's tables lie in.
pub trait PhysicalBytes {
    /// `length` bytes at physical address `address`, or `None` if they are not all readable.
    fn bytes(&self, address: u64, length: usize) -> Option<&[u8]>;
}

/// Why a table cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AcpiError {
    /// The RSDP lacks its signature, "RSD PTR ".
    NoRootPointer,
    /// No table has this signature.
    Missing {
        /// Four ASCII characters.
        signature: [u8; 4],
    },
    /// The table's length is shorter than its fixed part, or reaches beyond readable memory.
    Length {
        /// Four ASCII characters; "RSDP" for the root pointer.
        signature: [u8; 4],
        /// The length it claims, in bytes.
        length: u32,
    },
    /// The bytes of the table do not add up to zero.
    Checksum {
        /// Four ASCII characters; "RSDP" for the root pointer.
        signature: [u8; 4],
        /// Their sum.
        sum: u8,
    },
}

impl fmt::Display for AcpiError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRootPointer => formatter.write_str("the ACPI root pointer has no signature"),
            Self::Missing { signature } => {
                write!(
                    formatter,
                    "there is no ACPI table {}",
                    signature.escape_ascii()
                )
            }
            Self::Length { signature, length } => {
                let name = signature.escape_ascii();
                write!(formatter, "ACPI table {name} has the wrong length {length}")
            }
            Self::Checksum { signature, sum } => {
                let name = signature.escape_ascii();
                write!(
                    formatter,
                    "ACPI table {name} has a wrong checksum: sum {sum:#x}"
                )
            }
        }
    }
}

impl core::error::Error for AcpiError {}

/// The table with `signature`, header included, its length and checksum checked.
///
/// `root_pointer` is the RSDP's physical address. The XSDT is used if there is one, else the RSDT.
pub fn find_table(
    memory: &impl PhysicalBytes,
    root_pointer: u64,
    signature: [u8; 4],
) -> Result<&[u8], AcpiError> {
    let (root, root_signature, entry_size) = root_table(memory, root_pointer)?;
    let root = checked_table(memory, root, root_signature)?;
    for entry in root[HEADER_LENGTH..].chunks_exact(entry_size) {
        let address = little_endian(entry);
        match memory.bytes(address, 4) {
            Some(found) if found == signature => return checked_table(memory, address, signature),
            _ => {}
        }
    }
    Err(AcpiError::Missing { signature })
}

/// PCIe configuration space of segment 0 and its bus numbers, from MCFG (PCI Firmware
/// Specification 3.3, table 4-2).
pub fn configuration_space(
    memory: &impl PhysicalBytes,
    root_pointer: u64,
) -> Result<(Region, u8, u8), AcpiError> {
    const ENTRIES: usize = HEADER_LENGTH + 8;
    const ENTRY_LENGTH: usize = 16;
    let signature = *b"MCFG";
    let table = find_table(memory, root_pointer, signature)?;
    let entries = table.get(ENTRIES..).unwrap_or_default();
    entries
        .chunks_exact(ENTRY_LENGTH)
        .map(|entry| {
            let (first_bus, last_bus) = (entry[10], entry[11]);
            let base = little_endian(&entry[0..8]).saturating_add(u64::from(first_bus) << 20);
            let size = (u64::from(last_bus.saturating_sub(first_bus)) + 1) << 20;
            (
                little_endian(&entry[8..10]),
                Region { base, size },
                first_bus,
                last_bus,
            )
        })
        .find(|&(segment, _, first_bus, last_bus)| segment == 0 && first_bus <= last_bus)
        .map(|(_, region, first_bus, last_bus)| (region, first_bus, last_bus))
        .ok_or(AcpiError::Length {
            signature,
            length: table.len() as u32,
        })
}

/// The I/O port of the power management timer, from the FADT (PM_TMR_BLK, offset 76).
pub fn power_timer_port(memory: &impl PhysicalBytes, root_pointer: u64) -> Result<u16, AcpiError> {
    let signature = *b"FACP";
    let table = find_table(memory, root_pointer, signature)?;
    let length = table.len() as u32;
    let field = table
        .get(76..80)
        .ok_or(AcpiError::Length { signature, length })?;
    u16::try_from(little_endian(field))
        .ok()
        .filter(|port| *port != 0)
        .ok_or(AcpiError::Missing {
            signature: *b"PMTM",
        })
}

/// The root table's address, signature and entry size (ACPI 6.5, table 5.3).
fn root_table(
    memory: &impl PhysicalBytes,
    root_pointer: u64,
) -> Result<(u64, [u8; 4], usize), AcpiError> {
    const FIRST_LENGTH: usize = 20;
    const SECOND_LENGTH: usize = 36;
    let signature = *b"RSDP";
    let length_error = |length| AcpiError::Length { signature, length };
    let first = memory
        .bytes(root_pointer, FIRST_LENGTH)
        .ok_or(length_error(FIRST_LENGTH as u32))?;
    if !first.starts_with(b"RSD PTR ") {
        return Err(AcpiError::NoRootPointer);
    }
    check_sum(first, signature)?;
    let revision = first[15];
    if revision < 2 {
        return Ok((little_endian(&first[16..20]), *b"RSDT", 4));
    }
    let second = memory
        .bytes(root_pointer, SECOND_LENGTH)
        .ok_or(length_error(SECOND_LENGTH as u32))?;
    let length = little_endian(&second[20..24]) as u32;
    if length as usize != SECOND_LENGTH {
        return Err(length_error(length));
    }
    check_sum(second, signature)?;
    match little_endian(&second[24..32]) {
        0 => Ok((little_endian(&first[16..20]), *b"RSDT", 4)),
        address => Ok((address, *b"XSDT", 8)),
    }
}

fn checked_table(
    memory: &impl PhysicalBytes,
    address: u64,
    signature: [u8; 4],
) -> Result<&[u8], AcpiError> {
    let header = memory
        .bytes(address, HEADER_LENGTH)
        .ok_or(AcpiError::Length {
            signature,
            length: 0,
        })?;
    if header[..4] != signature {
        return Err(AcpiError::Missing { signature });
    }
    let length = little_endian(&header[4..8]) as u32;
    let table = memory
        .bytes(address, length as usize)
        .filter(|table| table.len() >= HEADER_LENGTH)
        .ok_or(AcpiError::Length { signature, length })?;
    check_sum(table, signature)?;
    Ok(table)
}

fn check_sum(bytes: &[u8], signature: [u8; 4]) -> Result<(), AcpiError> {
    match bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)) {
        0 => Ok(()),
        sum => Err(AcpiError::Checksum { signature, sum }),
    }
}

/// At most eight bytes, lowest first.
fn little_endian(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |value, byte| value << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use alloc::vec::Vec;

    const XSDT: usize = 0x100;
    const MCFG: usize = 0x200;
    const DMAR: usize = 0x300;

    struct Image(Vec<u8>);

    impl PhysicalBytes for Image {
        fn bytes(&self, address: u64, length: usize) -> Option<&[u8]> {
            let start = usize::try_from(address).ok()?;
            self.0.get(start..start.checked_add(length)?)
        }
    }

    impl Image {
        fn put(&mut self, at: usize, bytes: &[u8]) {
            self.0[at..at + bytes.len()].copy_from_slice(bytes);
        }

        fn seal(&mut self, at: usize, length: usize, checksum: usize) {
            self.0[at + checksum] = 0;
            let sum = self.0[at..at + length]
                .iter()
                .fold(0u8, |s, b| s.wrapping_add(*b));
            self.0[at + checksum] = sum.wrapping_neg();
        }

        fn table(&mut self, at: usize, signature: &[u8; 4], body: &[u8]) {
            let length = HEADER_LENGTH + body.len();
            self.put(at, signature);
            self.put(at + 4, &(length as u32).to_le_bytes());
            self.put(at + HEADER_LENGTH, body);
            self.seal(at, length, 9);
        }

        fn machine() -> Self {
            let mut image = Self(vec![0; 0x400]);
            image.put(0, b"RSD PTR ");
            image.put(15, &[2]);
            image.put(20, &36u32.to_le_bytes());
            image.put(24, &(XSDT as u64).to_le_bytes());
            image.seal(0, 20, 8);
            image.seal(0, 36, 32);
            let entries = [0xffff_ffff_ffff_fff0u64, MCFG as u64, DMAR as u64];
            image.table(XSDT, b"XSDT", &entries.map(u64::to_le_bytes).concat());
            let mut body = vec![0; 8];
            body.extend(0xb000_0000u64.to_le_bytes());
            body.extend([0, 0, 0, 0xff, 0, 0, 0, 0]);
            image.table(MCFG, b"MCFG", &body);
            image.table(DMAR, b"DMAR", &[47, 1]);
            image
        }
    }

    #[test]
    fn finds_tables_by_signature() {
        let image = Image::machine();
        let dmar = find_table(&image, 0, *b"DMAR").unwrap();
        assert_eq!((dmar.len(), dmar[36], dmar[37]), (38, 47, 1));
        let (region, first_bus, last_bus) = configuration_space(&image, 0).unwrap();
        assert_eq!(
            region,
            Region {
                base: 0xb000_0000,
                size: 256 << 20
            }
        );
        assert_eq!((first_bus, last_bus), (0, 255));
        assert_eq!(
            find_table(&image, 0, *b"IVRS"),
            Err(AcpiError::Missing {
                signature: *b"IVRS"
            })
        );
    }

    #[test]
    fn the_old_root_table_is_used_without_an_extended_one() {
        let mut image = Image::machine();
        image.put(15, &[0]);
        image.put(16, &0x180u32.to_le_bytes());
        image.seal(0, 20, 8);
        image.table(0x180, b"RSDT", &(DMAR as u32).to_le_bytes());
        assert!(find_table(&image, 0, *b"DMAR").is_ok());
        assert_eq!(
            find_table(&image, 0, *b"MCFG"),
            Err(AcpiError::Missing {
                signature: *b"MCFG"
            })
        );
    }

    #[test]
    fn wrong_checksums_are_refused() {
        for (at, signature) in [
            (8, *b"RSDP"),
            (33, *b"RSDP"),
            (XSDT + 10, *b"XSDT"),
            (DMAR + 36, *b"DMAR"),
        ] {
            let mut image = Image::machine();
            image.0[at] = image.0[at].wrapping_add(1);
            let error = find_table(&image, 0, *b"DMAR").unwrap_err();
            assert_eq!(error, AcpiError::Checksum { signature, sum: 1 });
        }
    }

    #[test]
    fn wrong_lengths_are_refused() {
        for length in [0, 35, 0x101, u32::MAX] {
            let mut image = Image::machine();
            image.put(DMAR + 4, &length.to_le_bytes());
            let error = find_table(&image, 0, *b"DMAR").unwrap_err();
            assert_eq!(
                error,
                AcpiError::Length {
                    signature: *b"DMAR",
                    length
                }
            );
        }
        let mut image = Image::machine();
        image.table(MCFG, b"MCFG", &[0; 8]);
        assert_eq!(
            configuration_space(&image, 0),
            Err(AcpiError::Length {
                signature: *b"MCFG",
                length: 44
            })
        );
    }

    #[test]
    fn a_root_pointer_without_signature_is_refused() {
        let image = Image(vec![0; 64]);
        assert_eq!(
            find_table(&image, 0, *b"DMAR"),
            Err(AcpiError::NoRootPointer)
        );
        let error = find_table(&image, 60, *b"DMAR").unwrap_err();
        assert_eq!(
            error,
            AcpiError::Length {
                signature: *b"RSDP",
                length: 20
            }
        );
    }
}
