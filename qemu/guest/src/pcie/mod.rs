//! PCI Express: configuration space, enumeration, and the placing of BARs where no firmware did.

mod enumerate;
mod function;

pub use enumerate::{EnumerateError, Placement, enumerate};
pub use function::{Bar, Function, FunctionAddress};

use crate::mmio::Registers;
use crate::region::Region;

/// Bytes of configuration space a function has.
pub const FUNCTION_SIZE: u64 = 4096;

/// Configuration space of one segment.
///
/// `offset` is in bytes, a multiple of four, below 4096.
pub trait ConfigurationSpace {
    /// Reads a 32-bit register of a function; all ones if there is no such function.
    fn read32(&self, function: FunctionAddress, offset: usize) -> u32;
    /// Writes a 32-bit register of a function.
    fn write32(&self, function: FunctionAddress, offset: usize, value: u32);

    /// Reads a 16-bit register; `offset` is a multiple of two.
    fn read16(&self, function: FunctionAddress, offset: usize) -> u16 {
        (self.read32(function, offset & !3) >> ((offset & 2) * 8)) as u16
    }
}

/// The Enhanced Configuration Access Mechanism (PCI Express 6.0, section 7.2.2): 4 KiB of registers
/// a function, from the first bus on.
#[derive(Clone, Copy, Debug)]
pub struct Ecam {
    registers: Registers,
    first_bus: u8,
    last_bus: u8,
}

impl Ecam {
    /// The window at `region` that starts with bus `first_bus`.
    ///
    /// # Safety
    ///
    /// `region` is an ECAM window, mapped as device registers for as long as the value is used.
    pub const unsafe fn new(region: Region, first_bus: u8, last_bus: u8) -> Self {
        // SAFETY: the caller's promise is the one that `Registers` asks for.
        let registers = unsafe { Registers::new(region) };
        Self {
            registers,
            first_bus,
            last_bus,
        }
    }

    /// Where the window lies.
    pub const fn region(&self) -> Region {
        self.registers.region()
    }

    /// The first and the last bus number.
    pub const fn buses(&self) -> (u8, u8) {
        (self.first_bus, self.last_bus)
    }

    fn offset(&self, function: FunctionAddress, offset: usize) -> Option<usize> {
        let bus = function.bus().checked_sub(self.first_bus)?;
        let start = usize::from(bus) << 20 | usize::from(function.device_and_function()) << 12;
        let inside = function.bus() <= self.last_bus
            && offset < FUNCTION_SIZE as usize
            && (start as u64) < self.region().size;
        inside.then_some(start + offset)
    }
}

impl ConfigurationSpace for Ecam {
    fn read32(&self, function: FunctionAddress, offset: usize) -> u32 {
        self.offset(function, offset)
            .map_or(u32::MAX, |offset| self.registers.read32(offset))
    }

    fn write32(&self, function: FunctionAddress, offset: usize, value: u32) {
        if let Some(offset) = self.offset(function, offset) {
            self.registers.write32(offset, value);
        }
    }
}
