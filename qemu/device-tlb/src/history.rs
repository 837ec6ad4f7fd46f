//! What the device did and was told, in order.

use crate::tlb::{Block, Translation};
use std::fmt;

/// Which way the bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From memory to the device.
    Read,
    /// From the device to memory.
    Write,
}

/// A request for memory, within one page of 4 KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// When the device began with it, on the device's clock.
    pub issued: u64,
    /// The I/O virtual address of its first byte.
    pub iova: u64,
    /// Its length in bytes.
    pub length: u64,
    /// Which way the bytes go.
    pub direction: Direction,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum What {
    /// Memory was accessed.
    Accessed {
        /// The request.
        access: Access,
        /// The physical address of its first byte.
        physical: u64,
        /// Whether the device had the translation when it began; else it asked for it.
        cached: bool,
    },
    /// The IOMMU has no translation for a request.
    Refused(Access),
    /// A translation came.
    Received(Translation),
    /// An invalidation request came. The device may use what it has until it answers.
    InvalidationReceived(Block),
    /// The translations are gone, and the answer is about to be sent.
    InvalidationAnswered(Block),
    /// The device was reset.
    Reset,
}

/// Something that happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// When, in nanoseconds on the device's clock.
    pub at: u64,
    /// What.
    pub what: What,
}

impl fmt::Display for Event {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:>9} us  ", self.at / 1000)?;
        let verb = |access: Access| match access.direction {
            Direction::Read => "read",
            Direction::Write => "write",
        };
        match self.what {
            What::Accessed {
                access,
                physical,
                cached,
            } => write!(
                formatter,
                "{} of {} bytes at {:#x}: physical {physical:#x}{}",
                verb(access),
                access.length,
                access.iova,
                if cached { ", from the TLB" } else { "" }
            ),
            What::Refused(access) => write!(
                formatter,
                "{} of {} bytes at {:#x}: refused",
                verb(access),
                access.length,
                access.iova
            ),
            What::Received(translation) => {
                write!(formatter, "translation of {}", translation.block)
            }
            What::InvalidationReceived(block) => write!(formatter, "invalidation of {block} came"),
            What::InvalidationAnswered(block) => {
                write!(formatter, "invalidation of {block} is answered")
            }
            What::Reset => write!(formatter, "reset"),
        }
    }
}
