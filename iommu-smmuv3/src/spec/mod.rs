//! The types, offsets and encodings of the Arm SMMU architecture specification, SMMUv3 (IHI 0070).
//!
//! Nothing here reads a register or touches memory. Section numbers are those of IHI 0070.

pub mod commands;
pub mod events;
pub mod registers;
pub mod tables;

/// The low bits of `value`, moved to bits `high` to `low`; the others are cut off, so that no field
/// spills into its neighbour.
pub(crate) const fn field(value: u64, high: u32, low: u32) -> u64 {
    (value & mask(high - low)) << low
}

/// Bits `high` to `low` of `word`.
pub(crate) const fn extract(word: u64, high: u32, low: u32) -> u64 {
    word >> low & mask(high - low)
}

/// The address bits `high` to `low` of `address`, at their own place.
pub(crate) const fn address_field(address: u64, high: u32, low: u32) -> u64 {
    address & mask(high - low) << low
}

const fn mask(last_bit: u32) -> u64 {
    u64::MAX >> (63 - last_bit)
}
