//! RISC-V page-table entries (privileged specification, section 12.4.1).
//!
//! ```text
//!  63 | 62..61 | 60..54   | 53..10 | 9..8 | 7 | 6 | 5 | 4 | 3 | 2 | 1 | 0
//!  N  | PBMT   | reserved | PPN    | RSW  | D | A | G | U | X | W | R | V
//! ```
//! A and D are preset, because neither the processor nor the IOMMU need write them.

use crate::page_table::{Access, EntryFormat};

const VALID: u64 = 1 << 0;
const READ: u64 = 1 << 1;
const WRITE: u64 = 1 << 2;
const EXECUTE: u64 = 1 << 3;
const USER: u64 = 1 << 4;
const ACCESSED: u64 = 1 << 6;
const DIRTY: u64 = 1 << 7;
const PAGE_NUMBER_SHIFT: u32 = 10;
const PAGE_NUMBER: u64 = (1 << 44) - 1;

/// satp.MODE of Sv39, Sv48 and so on: 8 for three levels, one more for each further level.
pub const fn satp_mode(levels: u8) -> u64 {
    levels as u64 + 5
}

/// What an IOMMU that walks these tables must know besides the root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TranslationControl {
    /// Table levels: 3 for Sv39, 4 for Sv48.
    pub levels: u8,
    /// Width of a virtual address in bits.
    pub virtual_bits: u8,
    /// satp.MODE: 8 for Sv39, 9 for Sv48.
    pub satp_mode: u8,
}

/// The RISC-V encoding.
#[derive(Debug)]
pub struct Format;

impl EntryFormat for Format {
    fn table(table: u64) -> u64 {
        table >> 12 << PAGE_NUMBER_SHIFT | VALID
    }

    fn leaf(address: u64, _level: u8, access: Access) -> u64 {
        let rights = match access {
            Access::KernelMemory => WRITE | DIRTY | EXECUTE,
            Access::DeviceRegisters => WRITE | DIRTY,
            Access::User { writable: true } => USER | WRITE | DIRTY,
            Access::User { writable: false } => USER,
        };
        address >> 12 << PAGE_NUMBER_SHIFT | VALID | READ | ACCESSED | rights
    }

    fn is_present(entry: u64) -> bool {
        entry & VALID != 0
    }

    fn is_table(entry: u64, _level: u8) -> bool {
        entry & (READ | WRITE | EXECUTE) == 0
    }

    fn address(entry: u64) -> u64 {
        (entry >> PAGE_NUMBER_SHIFT & PAGE_NUMBER) << 12
    }

    fn is_writable(entry: u64) -> bool {
        entry & WRITE != 0
    }

    fn read_only(entry: u64) -> u64 {
        entry & !(WRITE | DIRTY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values from the privileged specification's figure of a PTE, put together by hand.
    #[test]
    fn golden_entries() {
        assert_eq!(Format::table(0x8012_3000), 0x2004_8c01);
        assert_eq!(
            Format::leaf(0x8012_3000, 0, Access::User { writable: true }),
            0x2004_8cd7
        );
        assert_eq!(
            Format::leaf(0x8012_3000, 0, Access::User { writable: false }),
            0x2004_8c53
        );
        assert_eq!(
            Format::leaf(0x8020_0000, 1, Access::KernelMemory),
            0x2008_00cf
        );
        assert_eq!(
            Format::leaf(0x4000_0000, 2, Access::DeviceRegisters),
            0x1000_00c7
        );
        assert_eq!(Format::read_only(0x2004_8cd7), 0x2004_8c53);
        assert_eq!((satp_mode(3), satp_mode(4)), (8, 9));
    }
}
