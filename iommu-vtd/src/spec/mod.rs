//! What the Intel VT-d specification (revision 4.1) defines: types, offsets and encodings only.
//!
//! Section numbers in this folder are that revision's. Nothing here touches hardware.

pub mod commands;
pub mod events;
pub mod registers;
pub mod tables;

/// `value` in `bits` bits from bit `shift` upwards; what does not fit is cut off, so that no field
/// spills into its neighbour.
pub(crate) const fn field(value: u64, shift: u32, bits: u32) -> u64 {
    (value & ((1 << bits) - 1)) << shift
}

/// Bits 63:12 of an address.
pub(crate) const PAGE_ADDRESS: u64 = !0xfff;
