//! AArch64 stage-1 descriptors, 4 KiB granule (Arm ARM, section D8.3).
//!
//! ```text
//!  54  | 53  | 47..12  | 11 | 10 | 9..8 | 7..6 | 5  | 4..2     | 1..0
//!  UXN | PXN | address | nG | AF | SH   | AP   | NS | AttrIndx | 11 table or page, 01 block
//! ```

use crate::page_table::{Access, EntryFormat};

const VALID: u64 = 1 << 0;
const TABLE_OR_PAGE: u64 = 1 << 1;
const ATTRIBUTE_NORMAL: u64 = 0 << 2;
const ATTRIBUTE_DEVICE: u64 = 1 << 2;
const AP_UNPRIVILEGED: u64 = 1 << 6;
const AP_READ_ONLY: u64 = 1 << 7;
const INNER_SHAREABLE: u64 = 3 << 8;
const ACCESS_FLAG: u64 = 1 << 10;
const NOT_GLOBAL: u64 = 1 << 11;
const PRIVILEGED_EXECUTE_NEVER: u64 = 1 << 53;
const UNPRIVILEGED_EXECUTE_NEVER: u64 = 1 << 54;
const ADDRESS: u64 = 0x0000_ffff_ffff_f000;

/// MAIR_EL1: attribute 0 normal write-back, read- and write-allocate; attribute 1 Device-nGnRE.
pub const MEMORY_ATTRIBUTES: u64 = 0x04ff;

/// TCR_EL1.T0SZ: 48-bit virtual addresses.
pub const T0SZ: u64 = 16;

/// TCR_EL1 without IPS, which the processor's own limit decides: TTBR0 only (EPD1), 4 KiB granule,
/// walks inner-shareable and write-back (SH0, ORGN0, IRGN0).
///
/// ```text
///  34..32 | 23   | 15..14 | 13..12 | 11..10 | 9..8  | 5..0
///  IPS    | EPD1 | TG0=0  | SH0=3  | ORGN0  | IRGN0 | T0SZ
/// ```
pub const TRANSLATION_CONTROL: u64 = 1 << 23 | 3 << 12 | 1 << 10 | 1 << 8 | T0SZ;

/// What an IOMMU that walks these tables must know besides the root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TranslationControl {
    /// Table levels.
    pub levels: u8,
    /// Width of a virtual address in bits: 64 − T0SZ.
    pub virtual_bits: u8,
    /// Width of a physical address in bits, as TCR_EL1.IPS says.
    pub physical_bits: u8,
    /// TCR_EL1 as the processor has it.
    pub translation_control: u64,
    /// MAIR_EL1.
    pub memory_attributes: u64,
}

/// The width of a physical address that an ID_AA64MMFR0_EL1.PARange or TCR_EL1.IPS value stands
/// for. 52 bits need another descriptor format and count as 48.
pub const fn physical_bits(encoding: u64) -> u8 {
    match encoding {
        0 => 32,
        1 => 36,
        2 => 40,
        3 => 42,
        4 => 44,
        _ => 48,
    }
}

/// The AArch64 encoding.
#[derive(Debug)]
pub struct Format;

impl EntryFormat for Format {
    fn table(table: u64) -> u64 {
        table | VALID | TABLE_OR_PAGE
    }

    fn leaf(address: u64, level: u8, access: Access) -> u64 {
        let kind = if level == 0 {
            VALID | TABLE_OR_PAGE
        } else {
            VALID
        };
        let never = UNPRIVILEGED_EXECUTE_NEVER | PRIVILEGED_EXECUTE_NEVER;
        let user = ATTRIBUTE_NORMAL | INNER_SHAREABLE | NOT_GLOBAL | AP_UNPRIVILEGED | never;
        let rights = match access {
            Access::KernelMemory => ATTRIBUTE_NORMAL | INNER_SHAREABLE | UNPRIVILEGED_EXECUTE_NEVER,
            Access::DeviceRegisters => ATTRIBUTE_DEVICE | never,
            Access::User { writable: true } => user,
            Access::User { writable: false } => user | AP_READ_ONLY,
        };
        address | kind | ACCESS_FLAG | rights
    }

    fn is_present(entry: u64) -> bool {
        entry & VALID != 0
    }

    fn is_table(entry: u64, level: u8) -> bool {
        level > 0 && entry & TABLE_OR_PAGE != 0
    }

    fn address(entry: u64) -> u64 {
        entry & ADDRESS
    }

    fn is_writable(entry: u64) -> bool {
        entry & AP_READ_ONLY == 0
    }

    fn read_only(entry: u64) -> u64 {
        entry | AP_READ_ONLY
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values from the field positions of the Arm ARM's section D8.3, put together by hand.
    #[test]
    fn golden_entries() {
        assert_eq!(Format::table(0x4012_3000), 0x4012_3003);
        let writable = Format::leaf(0x4012_3000, 0, Access::User { writable: true });
        assert_eq!(writable, 0x0060_0000_4012_3f43);
        assert_eq!(Format::read_only(writable), 0x0060_0000_4012_3fc3);
        assert_eq!(
            Format::leaf(0x4020_0000, 1, Access::KernelMemory),
            0x0040_0000_4020_0701
        );
        assert_eq!(
            Format::leaf(0x4000_0000, 2, Access::DeviceRegisters),
            0x0060_0000_4000_0405
        );
        assert_eq!(TRANSLATION_CONTROL, 0x0080_3510);
    }
}
