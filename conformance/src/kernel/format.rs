//! Page-table entries of the three CPUs (Intel SDM volume 3, section 5.5.4; Arm ARM, section D8.3;
//! RISC-V privileged specification, section 12.4.1), written apart from the drivers and the models.
//!
//! Levels count from the leaf: a level-0 entry maps 4 KiB, a level-1 entry 2 MiB. Accessed and dirty
//! bits are preset.

use iommu_core::page_table::Format;

/// What a leaf allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rights {
    /// Stores.
    pub write: bool,
    /// Unprivileged accesses.
    pub user: bool,
}

impl Rights {
    /// A user's page, writable.
    pub const WRITABLE: Self = Self {
        write: true,
        user: true,
    };
    /// A user's page, read-only.
    pub const READ_ONLY: Self = Self {
        write: false,
        user: true,
    };
    /// The kernel's page.
    pub const KERNEL: Self = Self {
        write: true,
        user: false,
    };
}

/// MAIR_EL1: attribute 0 is normal write-back memory.
pub const MEMORY_ATTRIBUTES: u64 = 0xff;

/// How many levels a page table has.
pub fn levels(format: Format) -> u8 {
    (format.virtual_bits() - 12).div_ceil(9)
}

/// Whether the kernel's half hangs below the same root, as on x86-64 and RISC-V.
pub fn shares_root_with_kernel(format: Format) -> bool {
    !matches!(format, Format::Aarch64 { .. })
}

/// An entry that points to the table at physical address `table`.
pub fn table(format: Format, table: u64) -> u64 {
    match format {
        // P, R/W, U/S, A.
        Format::X86_64 { .. } => table | 0x27,
        Format::Aarch64 { .. } => table | 0x3,
        _ => table >> 12 << 10 | 0x1,
    }
}

/// A leaf at `level` for the block at physical address `block`.
pub fn leaf(format: Format, block: u64, level: u8, rights: Rights) -> u64 {
    let Rights { write, user } = rights;
    match format {
        // P, A; PS; R/W and D; U/S.
        Format::X86_64 { .. } => {
            block | 0x21 | bit(level > 0, 7) | bit(write, 1) | bit(write, 6) | bit(user, 2)
        }
        // valid, AF, inner shareable, nG, UXN, PXN; table-or-page; AP.
        Format::Aarch64 { .. } => {
            let fixed = 0x1 | 1 << 10 | 3 << 8 | 1 << 11 | 3 << 53;
            block | fixed | bit(level == 0, 1) | bit(!write, 7) | bit(user, 6)
        }
        // V, R, A; W and D; U.
        _ => block >> 12 << 10 | 0x43 | bit(write, 2) | bit(write, 7) | bit(user, 4),
    }
}

/// The bit of a leaf that says that it was used.
pub const fn accessed(format: Format) -> u64 {
    match format {
        Format::X86_64 { .. } => 1 << 5,
        Format::Aarch64 { .. } => 1 << 10,
        _ => 1 << 6,
    }
}

/// Whether the hardware would use the entry.
pub const fn is_present(entry: u64) -> bool {
    entry & 1 != 0
}

/// Whether a present entry at `level` points to a table.
pub fn is_table(format: Format, entry: u64, level: u8) -> bool {
    match format {
        Format::X86_64 { .. } => level > 0 && entry & 1 << 7 == 0,
        Format::Aarch64 { .. } => level > 0 && entry & 1 << 1 != 0,
        _ => entry & 0xe == 0,
    }
}

/// The physical address in a present entry.
pub fn address(format: Format, entry: u64) -> u64 {
    match format {
        Format::Riscv64 { .. } => (entry >> 10 & ((1 << 44) - 1)) << 12,
        _ => entry & 0x000f_ffff_ffff_f000,
    }
}

const fn bit(set: bool, number: u32) -> u64 {
    (set as u64) << number
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARM: Format = Format::Aarch64 {
        virtual_bits: 48,
        physical_bits: 48,
        memory_attributes: MEMORY_ATTRIBUTES,
    };

    /// Words put together by hand from the bit numbers of the three manuals.
    #[test]
    fn golden_entries() {
        let x86 = Format::X86_64 { levels: 4 };
        assert_eq!(leaf(x86, 0x12_3000, 0, Rights::WRITABLE), 0x12_3067);
        assert_eq!(leaf(x86, 0x20_0000, 1, Rights::READ_ONLY), 0x20_00a5);
        let page = leaf(ARM, 0x4012_3000, 0, Rights::READ_ONLY);
        assert_eq!(page, 0x0060_0000_4012_3fc3);
        assert_eq!(
            leaf(ARM, 0x4020_0000, 1, Rights::WRITABLE),
            0x0060_0000_4020_0f41
        );
        let riscv = Format::Riscv64 { levels: 3 };
        assert_eq!(leaf(riscv, 0x8012_3000, 0, Rights::WRITABLE), 0x2004_8cd7);
        assert_eq!(leaf(riscv, 0x8012_3000, 0, Rights::KERNEL), 0x2004_8cc7);
        assert_eq!(table(riscv, 0x8012_3000), 0x2004_8c01);
        assert_eq!([levels(x86), levels(ARM), levels(riscv)], [4, 4, 3]);
    }

    #[test]
    fn tables_and_leaves_are_told_apart() {
        for format in [
            Format::X86_64 { levels: 4 },
            ARM,
            Format::Riscv64 { levels: 4 },
        ] {
            for level in [0, 1] {
                let entry = leaf(format, 0x20_0000, level, Rights::WRITABLE);
                assert!(is_present(entry) && !is_table(format, entry, level));
                assert_eq!(address(format, entry) & !0xfff, 0x20_0000);
            }
            assert!(is_table(format, table(format, 0x1000), 1));
        }
    }
}
