//! Page-table walks: VMSAv8-64 with a granule of 4 KiB, stage 1, stage 2 and one inside the other
//! (3.4, 3.13, 13.4; Arm ARM D8).
//!
//! ```text
//!  63    62 61    60      59    58..55 54   53   52  51  50..48 47                12 11 10  9 8 7   6 5 4..2 1 0
//! | .. |APTable|XNTable|PXNTable|  ..  |UXN| PXN |Cont|DBM| .. | output address     |nG|AF| SH |AP2|AP1|..|Attr|T V|
//! ```

mod first;
mod second;

pub use first::Space;

use super::caches::level_shift;
use crate::bus::Access;

/// What a walk is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A transaction: a missing permission is a fault.
    Transaction,
    /// An ATS translation request: the permissions there are are granted.
    Grant,
    /// Nothing that was asked for: nothing is written, and nothing is reported.
    Speculation,
}

/// What a request wants, after the overrides of its stream table entry.
#[derive(Clone, Copy, Debug)]
pub struct Want {
    pub access: Access,
    pub privileged: bool,
    pub purpose: Purpose,
}

/// What a stage 2 translation was for (CLASS in 7.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Fetching a context descriptor.
    Context = 0,
    /// Accessing a stage 1 table.
    Table = 1,
    /// The request itself.
    Input = 2,
}

/// What went wrong in a walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    Translation,
    AddressSize,
    AccessFlag,
    Permission,
    /// The descriptor at this physical address could not be accessed.
    WalkAbort(u64),
}

/// A fault of a walk.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    pub kind: FaultKind,
    pub stage_2: bool,
    pub class: Class,
    /// What stage 2 was to translate.
    pub ipa: u64,
    /// For a permission fault at stage 2 on a stage 1 table: it was being read (TTRnW).
    pub table_read: bool,
}

/// A valid descriptor.
enum Descriptor {
    Invalid,
    Table(u64),
    /// Output address, with the bits below the block cut off.
    Leaf(u64),
}

fn decode(descriptor: u64, level: u8) -> Descriptor {
    const ADDRESS: u64 = 0x0000_ffff_ffff_f000;
    let output = descriptor & ADDRESS;
    match (descriptor & 0b11, level) {
        (0b11, 3) => Descriptor::Leaf(output),
        (0b11, _) => Descriptor::Table(output),
        (0b01, 1 | 2) => Descriptor::Leaf(output & !((1 << level_shift(level)) - 1)),
        _ => Descriptor::Invalid,
    }
}

const ACCESSED: u64 = 1 << 10;
const DIRTY_BIT_MODIFIER: u64 = 1 << 51;

/// How often a walk starts again because somebody changed the descriptor it wanted to update.
const ATTEMPTS: u32 = 16;

/// The address and output of each of the 16 blocks of a contiguous group (Arm ARM D8.7.1).
fn neighbours(address: u64, output: u64, log2_size: u8) -> impl Iterator<Item = (u64, u64)> {
    let group = (16 << log2_size) - 1;
    (0..16).map(move |block: u64| {
        let offset = block << log2_size;
        (address & !group | offset, output & !group | offset)
    })
}
