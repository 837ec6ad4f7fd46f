//! QEMU's educational device (docs/specs/edu.rst): a 4 KiB buffer of its own that it fills from
//! memory or copies to memory. Start it with `-device edu,dma_mask=0xffffffffffffffff`.
//!
//! An access that an IOMMU refuses is silent, and the buffer is seen only in memory.

use crate::error::Error;
use crate::machine::Machine;
use crate::pcie::{Function, FunctionAddress};
use std::sync::Arc;

const RAISE_INTERRUPT: u64 = 0x60;
const SOURCE: u64 = 0x80;
const DESTINATION: u64 = 0x88;
const COUNT: u64 = 0x90;
const COMMAND: u64 = 0x98;
const RUN: u64 = 1 << 0;
const TO_MEMORY: u64 = 1 << 1;
/// Where the device sees its own buffer.
const BUFFER: u64 = 0x4_0000;
/// A transfer takes 100 ms of the machine's time.
const TRANSFER_NANOSECONDS: u64 = 200_000_000;

/// The device.
pub struct Edu {
    machine: Arc<Machine>,
    function: FunctionAddress,
    registers: u64,
}

impl Edu {
    /// Vendor id and device id.
    pub const IDENTITY: (u16, u16) = (0x1234, 0x11e8);
    /// Bytes in the device's buffer.
    pub const BUFFER_SIZE: u64 = 4096;

    /// The device that `function` is.
    ///
    /// # Errors
    ///
    /// If its BAR 0 was not placed.
    pub fn new(machine: &Arc<Machine>, function: &Function) -> Result<Self, Error> {
        let bar = function
            .bar(0)
            .ok_or_else(|| machine.trouble("edu has no BAR 0".to_owned()))?;
        Ok(Self {
            machine: machine.clone(),
            function: function.address,
            registers: bar.base,
        })
    }

    /// The function's address, which is also its requester id.
    pub fn function(&self) -> FunctionAddress {
        self.function
    }

    /// Reads `length` bytes at I/O virtual address `iova` to `offset` of the buffer.
    ///
    /// # Errors
    ///
    /// If QEMU has failed.
    pub fn read_from(&self, iova: u64, offset: u64, length: u64) -> Result<(), Error> {
        self.transfer(iova, BUFFER + offset, length, 0)
    }

    /// Writes `length` bytes from `offset` of the buffer to I/O virtual address `iova`.
    ///
    /// # Errors
    ///
    /// If QEMU has failed.
    pub fn write_to(&self, iova: u64, offset: u64, length: u64) -> Result<(), Error> {
        self.transfer(BUFFER + offset, iova, length, TO_MEMORY)
    }

    /// Sends the device's interrupt; its message is what its MSI capability says.
    ///
    /// # Errors
    ///
    /// If QEMU has failed.
    pub fn interrupt(&self, number: u32) -> Result<(), Error> {
        self.machine
            .write32(self.registers + RAISE_INTERRUPT, number)
    }

    fn transfer(&self, from: u64, to: u64, length: u64, direction: u64) -> Result<(), Error> {
        let write =
            |register: u64, value: u64| self.machine.write64(self.registers + register, value);
        write(SOURCE, from)?;
        write(DESTINATION, to)?;
        write(COUNT, length)?;
        write(COMMAND, RUN | direction)?;
        self.machine.step_clock(TRANSFER_NANOSECONDS)?;
        if self.machine.read64(self.registers + COMMAND)? & RUN != 0 {
            return Err(self
                .machine
                .trouble("edu does not come to an end".to_owned()));
        }
        Ok(())
    }
}
