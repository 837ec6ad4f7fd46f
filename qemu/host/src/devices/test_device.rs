//! QEMU's `iommu-testdev`: writes a known word to an I/O virtual address, all over so many bytes, and
//! then looks at a physical address whether it arrived there. It needs no bus mastering and works at
//! once.

use crate::error::Error;
use crate::machine::Machine;
use crate::pcie::{Function, FunctionAddress};
use std::sync::Arc;

const TRIGGER: u64 = 0x00;
const IOVA_LOW: u64 = 0x04;
const IOVA_HIGH: u64 = 0x08;
const LENGTH: u64 = 0x0c;
const RESULT: u64 = 0x10;
const DOORBELL: u64 = 0x14;
const ATTRIBUTES: u64 = 0x18;
const PHYSICAL_LOW: u64 = 0x1c;
const PHYSICAL_HIGH: u64 = 0x20;
const ARM: u32 = 1;
/// Security state in bits 2..1 (1: non-secure), bit 3 says that it is given.
const NON_SECURE: u32 = 1 << 1 | 1 << 3;

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// The bytes arrived at the expected physical address.
    There,
    /// They arrived, but not there.
    Elsewhere,
    /// The access was refused.
    Refused,
}

/// The device.
pub struct TestDevice {
    machine: Arc<Machine>,
    function: FunctionAddress,
    registers: u64,
}

impl TestDevice {
    /// Vendor id and device id.
    pub const IDENTITY: (u16, u16) = (0x1b36, 0x0005);
    /// The little-endian 32-bit word that the device writes.
    pub const PATTERN: u32 = 0x1234_5678;

    /// The device that `function` is.
    ///
    /// # Errors
    ///
    /// If its BAR 0 was not placed.
    pub fn new(machine: &Arc<Machine>, function: &Function) -> Result<Self, Error> {
        let bar = function
            .bar(0)
            .ok_or_else(|| machine.trouble("iommu-testdev has no BAR 0".to_owned()))?;
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

    /// Writes `length` bytes of the pattern at I/O virtual address `iova`, and compares those at
    /// `physical`.
    ///
    /// # Errors
    ///
    /// If QEMU has failed, or the device answers something else.
    pub fn write(&self, iova: u64, length: u32, physical: u64) -> Result<Written, Error> {
        let write =
            |register: u64, value: u32| self.machine.write32(self.registers + register, value);
        write(IOVA_LOW, iova as u32)?;
        write(IOVA_HIGH, (iova >> 32) as u32)?;
        write(PHYSICAL_LOW, physical as u32)?;
        write(PHYSICAL_HIGH, (physical >> 32) as u32)?;
        write(LENGTH, length)?;
        write(ATTRIBUTES, NON_SECURE)?;
        write(DOORBELL, ARM)?;
        self.machine.read32(self.registers + TRIGGER)?;
        match self.machine.read32(self.registers + RESULT)? {
            0 => Ok(Written::There),
            0xdead_0002 => Ok(Written::Refused),
            0xdead_0004 => Ok(Written::Elsewhere),
            code => Err(self
                .machine
                .trouble(format!("iommu-testdev answers {code:#x}"))),
        }
    }
}
