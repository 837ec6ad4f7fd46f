//! The CPU's page table, as a device is to walk it.

use crate::ids::PhysicalAddress;

/// The page table of one address space.
///
/// The framework never changes it and never follows it: the CPU's kernel owns it, and the IOMMU
/// walks it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageTable {
    /// Where the root table lies.
    pub root: PhysicalAddress,
    /// How it is laid out.
    pub format: Format,
    /// Whether the kernel writes each changed entry back to memory before it notifies. Only then
    /// may an IOMMU whose walks do not snoop the CPU's caches share the table.
    pub written_back: bool,
}

/// The format of a page table: the CPU architecture's, not the IOMMU's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// x86-64 paging (Intel SDM volume 3, chapter 5).
    X86_64 {
        /// 4 or 5.
        levels: u8,
    },
    /// AArch64 VMSA, one TTBR0 table with a 4 KiB granule (Arm ARM, chapter D8). Its walks are
    /// inner-shareable write-back.
    Aarch64 {
        /// 64 − TCR_EL1.T0SZ.
        virtual_bits: u8,
        /// Width of a physical address: 32, 36, 40, 42, 44 or 48.
        physical_bits: u8,
        /// MAIR_EL1.
        memory_attributes: u64,
    },
    /// RISC-V Sv39, Sv48 or Sv57 (privileged specification, chapter 11).
    Riscv64 {
        /// 3 for Sv39, 4 for Sv48, 5 for Sv57.
        levels: u8,
    },
}

impl Format {
    /// The width of a virtual address in bits.
    pub const fn virtual_bits(self) -> u8 {
        match self {
            Self::X86_64 { levels } | Self::Riscv64 { levels } => 12 + 9 * levels,
            Self::Aarch64 { virtual_bits, .. } => virtual_bits,
        }
    }
}
