//! What a PVH loader hands over: `hvm_start_info` (Xen's public/arch-x86/hvm/start_info.h).

use crate::acpi::PhysicalBytes;
use crate::region::Region;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

const MAGIC: u32 = 0x336e_c578;
const LENGTH: usize = 56;
const MEMORY_MAP_ENTRY_LENGTH: usize = 24;
const MEMORY_MAP_TYPE_RAM: u32 = 1;
const MAXIMUM_MEMORY_MAP_ENTRIES: u32 = 256;
const MAXIMUM_COMMAND_LINE: usize = 4096;

/// The command line, RAM, and where ACPI's root pointer lies.
#[derive(Debug, PartialEq, Eq)]
pub struct StartInfo {
    /// Empty if the loader gave none.
    pub command_line: String,
    /// Physical address of the RSDP.
    pub root_pointer: u64,
    /// RAM, sorted by base.
    pub memory: Vec<Region>,
}

/// Why the loader's data cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StartInfoError {
    /// The structure is not readable, or lacks its magic number.
    NoStartInfo,
    /// Version 0 has no memory map.
    NoMemoryMap,
    /// The memory map is not readable or holds more entries than any machine has.
    MemoryMap {
        /// Entries it claims.
        entries: u32,
    },
    /// The command line is not readable, too long or not UTF-8.
    CommandLine,
}

impl fmt::Display for StartInfoError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoStartInfo => formatter.write_str("there is no hvm_start_info"),
            Self::NoMemoryMap => formatter.write_str("hvm_start_info has no memory map"),
            Self::MemoryMap { entries } => {
                write!(formatter, "the memory map of {entries} entries is unusable")
            }
            Self::CommandLine => formatter.write_str("the command line is unusable"),
        }
    }
}

impl core::error::Error for StartInfoError {}

impl StartInfo {
    /// Reads the structure at physical address `address`.
    ///
    /// ```text
    /// 0 magic  4 version  8 flags  12 modules  16 module list  24 command line  32 RSDP
    /// 40 memory map  48 memory map entries  52 reserved
    /// ```
    pub fn read(memory: &impl PhysicalBytes, address: u64) -> Result<Self, StartInfoError> {
        let info = memory
            .bytes(address, LENGTH)
            .ok_or(StartInfoError::NoStartInfo)?;
        if word(info, 0) != MAGIC {
            return Err(StartInfoError::NoStartInfo);
        }
        if word(info, 4) == 0 {
            return Err(StartInfoError::NoMemoryMap);
        }
        Ok(Self {
            command_line: command_line(memory, long(info, 24))?,
            root_pointer: long(info, 32),
            memory: memory_map(memory, long(info, 40), word(info, 48))?,
        })
    }
}

/// Entries of `0 address  8 size  16 type  20 reserved`.
fn memory_map(
    memory: &impl PhysicalBytes,
    address: u64,
    entries: u32,
) -> Result<Vec<Region>, StartInfoError> {
    let error = StartInfoError::MemoryMap { entries };
    if entries > MAXIMUM_MEMORY_MAP_ENTRIES {
        return Err(error);
    }
    let map = memory
        .bytes(address, entries as usize * MEMORY_MAP_ENTRY_LENGTH)
        .ok_or(error)?;
    let mut regions: Vec<Region> = map
        .chunks_exact(MEMORY_MAP_ENTRY_LENGTH)
        .filter(|entry| word(entry, 16) == MEMORY_MAP_TYPE_RAM)
        .map(|entry| Region {
            base: long(entry, 0),
            size: long(entry, 8),
        })
        .collect();
    regions.sort_by_key(|region| region.base);
    Ok(regions)
}

fn command_line(memory: &impl PhysicalBytes, address: u64) -> Result<String, StartInfoError> {
    if address == 0 {
        return Ok(String::new());
    }
    let length = (0..MAXIMUM_COMMAND_LINE)
        .find(|length| {
            memory
                .bytes(address + *length as u64, 1)
                .is_none_or(|byte| byte[0] == 0)
        })
        .ok_or(StartInfoError::CommandLine)?;
    let bytes = memory
        .bytes(address, length)
        .ok_or(StartInfoError::CommandLine)?;
    str::from_utf8(bytes)
        .map(String::from)
        .map_err(|_| StartInfoError::CommandLine)
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from(word(bytes, at + 4)) << 32 | u64::from(word(bytes, at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    struct Image(Vec<u8>);

    impl PhysicalBytes for Image {
        fn bytes(&self, address: u64, length: usize) -> Option<&[u8]> {
            let start = usize::try_from(address).ok()?;
            self.0.get(start..start.checked_add(length)?)
        }
    }

    fn image() -> Image {
        let mut bytes = vec![0; 0x200];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, &MAGIC.to_le_bytes());
        put(4, &1u32.to_le_bytes());
        put(24, &0x100u64.to_le_bytes());
        put(32, &0xf_5a60u64.to_le_bytes());
        put(40, &0x80u64.to_le_bytes());
        put(48, &3u32.to_le_bytes());
        for (number, (base, size, kind)) in [
            (0x10_0000u64, 0x1fe0_0000u64, 1u32),
            (0x9_fc00, 0x400, 2),
            (0, 0x9_fc00, 1),
        ]
        .into_iter()
        .enumerate()
        {
            let at = 0x80 + number * MEMORY_MAP_ENTRY_LENGTH;
            put(at, &base.to_le_bytes());
            put(at + 8, &size.to_le_bytes());
            put(at + 16, &kind.to_le_bytes());
        }
        put(0x100, b"run=control\0");
        Image(bytes)
    }

    #[test]
    fn reads_what_the_loader_left() {
        let info = StartInfo::read(&image(), 0).unwrap();
        assert_eq!(info.command_line, "run=control");
        assert_eq!(info.root_pointer, 0xf_5a60);
        assert_eq!(
            info.memory,
            [
                Region::between(0, 0x9_fc00),
                Region::between(0x10_0000, 0x1ff0_0000)
            ]
        );
    }

    #[test]
    fn refuses_what_is_not_there() {
        let mut broken = image();
        broken.0[0] ^= 1;
        assert_eq!(
            StartInfo::read(&broken, 0),
            Err(StartInfoError::NoStartInfo)
        );
        assert_eq!(
            StartInfo::read(&image(), 0x1f0),
            Err(StartInfoError::NoStartInfo)
        );
        let mut broken = image();
        broken.0[4] = 0;
        assert_eq!(
            StartInfo::read(&broken, 0),
            Err(StartInfoError::NoMemoryMap)
        );
        let mut broken = image();
        broken.0[51] = 0xff;
        let entries = 0xff00_0003;
        assert_eq!(
            StartInfo::read(&broken, 0),
            Err(StartInfoError::MemoryMap { entries })
        );
        let mut broken = image();
        broken.0[0x100] = 0xff;
        assert_eq!(
            StartInfo::read(&broken, 0),
            Err(StartInfoError::CommandLine)
        );
    }
}
