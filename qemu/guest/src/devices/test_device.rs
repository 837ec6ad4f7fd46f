//! QEMU's `iommu-testdev`: writes a known word to an I/O virtual address and then looks at a
//! physical address whether it arrived there. It needs no bus mastering and works at once.

use crate::mmio::Registers;
use crate::pcie::FunctionAddress;
use core::fmt;

/// Vendor id and device id.
pub const IDENTITY: (u16, u16) = (0x1b36, 0x0005);
/// QEMU's name for it.
pub const NAME: &str = "iommu-testdev";
/// The word that the device writes.
pub const PATTERN: u32 = 0x1234_5678;

const TRIGGER: usize = 0x00;
const IOVA_LOW: usize = 0x04;
const IOVA_HIGH: usize = 0x08;
const LENGTH: usize = 0x0c;
const RESULT: usize = 0x10;
const DOORBELL: usize = 0x14;
const ATTRIBUTES: usize = 0x18;
const PHYSICAL_LOW: usize = 0x1c;
const PHYSICAL_HIGH: usize = 0x20;
const ARM: u32 = 1;
/// Security state in bits 2..1 (1: non-secure), bit 3 says that it is given.
const NON_SECURE: u32 = 1 << 1 | 1 << 3;

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteResult {
    /// The word arrived at the expected physical address.
    Arrived,
    /// The access was refused.
    Refused,
    /// The access succeeded, but the word is not at the expected physical address.
    WentElsewhere,
    /// The device answered something else.
    Other(u32),
}

impl fmt::Display for WriteResult {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Arrived => formatter.write_str("arrived"),
            Self::Refused => formatter.write_str("refused"),
            Self::WentElsewhere => formatter.write_str("went elsewhere"),
            Self::Other(code) => write!(formatter, "unknown result {code:#x}"),
        }
    }
}

/// The device, enabled.
#[derive(Clone, Copy, Debug)]
pub struct TestDevice {
    address: FunctionAddress,
    registers: Registers,
}

impl TestDevice {
    /// The device at `address`, enabled, with the registers of its BAR 0.
    pub fn new(address: FunctionAddress, registers: Registers) -> Self {
        Self { address, registers }
    }

    /// The function's address, which is also its requester id.
    pub fn address(&self) -> FunctionAddress {
        self.address
    }

    /// Writes [`PATTERN`] to I/O virtual address `iova` and compares the word at `physical`.
    pub fn write(&self, iova: u64, physical: u64) -> WriteResult {
        self.registers.write32(IOVA_LOW, iova as u32);
        self.registers.write32(IOVA_HIGH, (iova >> 32) as u32);
        self.registers.write32(PHYSICAL_LOW, physical as u32);
        self.registers
            .write32(PHYSICAL_HIGH, (physical >> 32) as u32);
        self.registers.write32(LENGTH, size_of_val(&PATTERN) as u32);
        self.registers.write32(ATTRIBUTES, NON_SECURE);
        self.registers.write32(DOORBELL, ARM);
        self.registers.read32(TRIGGER);
        match self.registers.read32(RESULT) {
            0 => WriteResult::Arrived,
            0xdead_0002 => WriteResult::Refused,
            0xdead_0004 => WriteResult::WentElsewhere,
            code => WriteResult::Other(code),
        }
    }
}
