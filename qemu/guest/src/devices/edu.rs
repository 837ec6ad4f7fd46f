//! QEMU's educational device (docs/specs/edu.rst): a 4 KiB buffer of its own that it fills from
//! memory or copies to memory. Start it with `-device edu,dma_mask=0xffffffffffffffff`.
//!
//! The buffer cannot be read through the BAR: what the device read is seen by letting it write the
//! buffer elsewhere. An access that an IOMMU refuses is silent.

use super::DeviceError;
use crate::mmio::Registers;
use crate::pcie::FunctionAddress;

/// Vendor id and device id.
pub const IDENTITY: (u16, u16) = (0x1234, 0x11e8);
/// QEMU's name for it.
pub const NAME: &str = "edu";
/// Bytes in the device's buffer.
pub const BUFFER_SIZE: usize = 4096;

const SOURCE: usize = 0x80;
const DESTINATION: usize = 0x88;
const COUNT: usize = 0x90;
const COMMAND: usize = 0x98;
const COMMAND_RUN: u64 = 1 << 0;
const COMMAND_TO_MEMORY: u64 = 1 << 1;
/// Where the device sees its own buffer.
const BUFFER: u64 = 0x4_0000;
/// The device takes 100 ms of virtual time for each transfer.
const LIMIT_NANOSECONDS: u64 = 5_000_000_000;

/// The device, enabled.
#[derive(Clone, Copy, Debug)]
pub struct Edu {
    address: FunctionAddress,
    registers: Registers,
    now: fn() -> u64,
}

impl Edu {
    /// The device at `address`, enabled, with the registers of its BAR 0. `now` is a monotonic clock
    /// in nanoseconds.
    pub fn new(address: FunctionAddress, registers: Registers, now: fn() -> u64) -> Self {
        Self {
            address,
            registers,
            now,
        }
    }

    /// The function's address, which is also its requester id.
    pub fn address(&self) -> FunctionAddress {
        self.address
    }

    /// Reads `length` bytes (at most [`BUFFER_SIZE`]) from I/O virtual address `iova` into the
    /// device's buffer.
    pub fn read_from(&self, iova: u64, length: usize) -> Result<(), DeviceError> {
        self.transfer(iova, BUFFER, length, 0)
    }

    /// Writes the first `length` bytes (at most [`BUFFER_SIZE`]) of the device's buffer to I/O
    /// virtual address `iova`.
    pub fn write_to(&self, iova: u64, length: usize) -> Result<(), DeviceError> {
        self.transfer(BUFFER, iova, length, COMMAND_TO_MEMORY)
    }

    fn transfer(
        &self,
        source: u64,
        destination: u64,
        length: usize,
        direction: u64,
    ) -> Result<(), DeviceError> {
        self.registers.write64(SOURCE, source);
        self.registers.write64(DESTINATION, destination);
        self.registers
            .write64(COUNT, length.min(BUFFER_SIZE) as u64);
        self.registers.write64(COMMAND, COMMAND_RUN | direction);
        let start = (self.now)();
        while self.registers.read64(COMMAND) & COMMAND_RUN != 0 {
            if (self.now)().wrapping_sub(start) > LIMIT_NANOSECONDS {
                return Err(DeviceError::Timeout {
                    device: NAME,
                    nanoseconds: LIMIT_NANOSECONDS,
                });
            }
            core::hint::spin_loop();
        }
        Ok(())
    }
}
