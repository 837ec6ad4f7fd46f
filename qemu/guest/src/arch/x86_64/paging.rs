//! x86-64 page-table entries (Intel SDM volume 3, section 5.5.4, figure 5-11).
//!
//! ```text
//!  63 | 62..52  | 51..12  | 11..9   | 8 | 7  | 6 | 5 | 4   | 3   | 2   | 1   | 0
//!  XD | ignored | address | ignored | G | PS | D | A | PCD | PWT | U/S | R/W | P
//! ```
//! XD stays 0: it is reserved while EFER.NXE is off.

use crate::page_table::{Access, EntryFormat};

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const WRITE_THROUGH: u64 = 1 << 3;
const CACHE_DISABLE: u64 = 1 << 4;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const PAGE_SIZE: u64 = 1 << 7;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// What an IOMMU that walks these tables must know besides the root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TranslationControl {
    /// Table levels.
    pub levels: u8,
    /// Width of a virtual address in bits.
    pub virtual_bits: u8,
}

/// The x86-64 encoding.
#[derive(Debug)]
pub struct Format;

impl EntryFormat for Format {
    fn table(table: u64) -> u64 {
        table | PRESENT | WRITABLE | USER
    }

    fn leaf(address: u64, level: u8, access: Access) -> u64 {
        let size = if level > 0 { PAGE_SIZE } else { 0 };
        let rights = match access {
            Access::KernelMemory => WRITABLE | DIRTY,
            Access::DeviceRegisters => WRITABLE | DIRTY | CACHE_DISABLE | WRITE_THROUGH,
            Access::User { writable: true } => USER | WRITABLE | DIRTY,
            Access::User { writable: false } => USER,
        };
        address | PRESENT | ACCESSED | size | rights
    }

    fn is_present(entry: u64) -> bool {
        entry & PRESENT != 0
    }

    fn is_table(entry: u64, level: u8) -> bool {
        level > 0 && entry & PAGE_SIZE == 0
    }

    fn address(entry: u64) -> u64 {
        entry & ADDRESS
    }

    fn is_writable(entry: u64) -> bool {
        entry & WRITABLE != 0
    }

    fn read_only(entry: u64) -> u64 {
        entry & !(WRITABLE | DIRTY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values from the bit numbers of the SDM's table 5-20, put together by hand.
    #[test]
    fn golden_entries() {
        assert_eq!(Format::table(0x12_3000), 0x12_3007);
        assert_eq!(
            Format::leaf(0x12_3000, 0, Access::User { writable: true }),
            0x12_3067
        );
        assert_eq!(
            Format::leaf(0x12_3000, 0, Access::User { writable: false }),
            0x12_3025
        );
        assert_eq!(Format::leaf(0x20_0000, 1, Access::KernelMemory), 0x20_00e3);
        assert_eq!(
            Format::leaf(0x4000_0000, 2, Access::DeviceRegisters),
            0x4000_00fb
        );
        assert_eq!(Format::read_only(0x12_3067), 0x12_3025);
    }
}
