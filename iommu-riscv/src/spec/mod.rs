//! The RISC-V IOMMU Architecture Specification 1.0 in types: offsets, encodings and nothing else.
//!
//! Section titles are those of the ratified text. Doublewords are little-endian (fctl.BE = 0).

pub mod commands;
pub mod events;
pub mod registers;
pub mod tables;

/// Bytes in a page, the unit of every table.
pub const PAGE_SIZE: usize = 4096;

/// The bits of a physical page number: 44, for physical addresses of 56 bits.
const PPN_MASK: u64 = (1 << 44) - 1;

/// The physical page number of an address, which is a multiple of 4 KiB.
const fn page_number(address: iommu_core::ids::PhysicalAddress) -> u64 {
    address.0 >> 12 & PPN_MASK
}
