//! Finds every function below the root bus, and configures bridges and BARs if asked to.

use super::function::{CLASS, COMMAND, HEADER_TYPE, VENDOR, place_bar, probe_bars};
use super::{ConfigurationSpace, Function, FunctionAddress};
use crate::region::Region;
use alloc::vec::Vec;
use core::fmt;

const BUS_NUMBERS: usize = 0x18;
const MEMORY_WINDOW: usize = 0x20;
const PREFETCHABLE_WINDOW: usize = 0x24;
const HEADER_MULTI_FUNCTION: u32 = 1 << 23;
const HEADER_KIND_SHIFT: u32 = 16;
const HEADER_KIND: u32 = 0x7f;
const KIND_BRIDGE: u32 = 1;
const BRIDGE_GRANULE: u64 = 1 << 20;
const COMMAND_MEMORY_AND_BUS_MASTER: u32 = 6;

/// Whether BARs and bus numbers are there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// Firmware placed them; only look.
    ByFirmware,
    /// Place all of them, BARs within this window of 32-bit memory.
    Within(Region),
}

/// Why not everything could be placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EnumerateError {
    /// The memory window is full.
    NoSpace {
        /// Whose BAR, or which bridge's window.
        function: FunctionAddress,
        /// How many bytes it needs.
        size: u64,
    },
    /// There are more buses than the window of configuration space holds.
    NoBusNumber {
        /// The bridge.
        function: FunctionAddress,
    },
}

impl fmt::Display for EnumerateError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSpace { function, size } => {
                write!(
                    formatter,
                    "no PCI memory left for {size:#x} bytes of {function}"
                )
            }
            Self::NoBusNumber { function } => {
                write!(formatter, "no bus number left for the bridge {function}")
            }
        }
    }
}

impl core::error::Error for EnumerateError {}

/// Every function from bus `first_bus` on, in the order found; bridges come before what is behind
/// them. No bus is visited twice, whatever the bridges' registers say.
pub fn enumerate(
    space: &impl ConfigurationSpace,
    first_bus: u8,
    last_bus: u8,
    placement: Placement,
) -> Result<Vec<Function>, EnumerateError> {
    let window = match placement {
        Placement::ByFirmware => None,
        Placement::Within(region) => Some(Window {
            next: region.base,
            end: region.end(),
        }),
    };
    let mut walk = Walk {
        space,
        last_bus,
        highest_bus: first_bus,
        window,
        found: Vec::new(),
    };
    walk.bus(first_bus)?;
    Ok(walk.found)
}

struct Window {
    next: u64,
    end: u64,
}

impl Window {
    fn take(&mut self, size: u64, alignment: u64) -> Option<u64> {
        let base = self.next.checked_next_multiple_of(alignment)?;
        let next = base.checked_add(size).filter(|next| *next <= self.end)?;
        self.next = next;
        Some(base)
    }
}

struct Walk<'s, S> {
    space: &'s S,
    last_bus: u8,
    /// Every bus up to this one was visited.
    highest_bus: u8,
    window: Option<Window>,
    found: Vec<Function>,
}

impl<S: ConfigurationSpace> Walk<'_, S> {
    fn bus(&mut self, bus: u8) -> Result<(), EnumerateError> {
        for device in 0..32 {
            let first = FunctionAddress::new(bus, device, 0);
            if !self.answers(first) {
                continue;
            }
            let header = self.space.read32(first, HEADER_TYPE);
            let functions = if header & HEADER_MULTI_FUNCTION != 0 {
                8
            } else {
                1
            };
            for function in 0..functions {
                let address = FunctionAddress::new(bus, device, function);
                if self.answers(address) {
                    self.function(address)?;
                }
            }
        }
        Ok(())
    }

    fn answers(&self, address: FunctionAddress) -> bool {
        self.space.read16(address, VENDOR) != u16::MAX
    }

    fn function(&mut self, address: FunctionAddress) -> Result<(), EnumerateError> {
        let kind = self.space.read32(address, HEADER_TYPE) >> HEADER_KIND_SHIFT & HEADER_KIND;
        let is_bridge = kind == KIND_BRIDGE;
        let identity = self.space.read32(address, VENDOR);
        let mut bars = probe_bars(self.space, address, if is_bridge { 2 } else { 6 });
        if let Some(window) = &mut self.window {
            for bar in bars.iter_mut().flatten() {
                let size = bar.region.size;
                let base = window.take(size, size).ok_or(EnumerateError::NoSpace {
                    function: address,
                    size,
                })?;
                place_bar(self.space, address, bar, base);
            }
        }
        self.found.push(Function {
            address,
            vendor: identity as u16,
            device: (identity >> 16) as u16,
            class: self.space.read32(address, CLASS) >> 8,
            bars,
        });
        if is_bridge {
            self.bridge(address)
        } else {
            Ok(())
        }
    }

    /// Goes behind a bridge; without firmware, gives it bus numbers and a window around what its
    /// buses took (PCI-to-PCI Bridge Architecture 1.2, section 3.2.5).
    fn bridge(&mut self, address: FunctionAddress) -> Result<(), EnumerateError> {
        if self.window.is_none() {
            let secondary = (self.space.read32(address, BUS_NUMBERS) >> 8) as u8;
            if secondary > self.highest_bus && secondary <= self.last_bus {
                self.highest_bus = secondary;
                return self.bus(secondary);
            }
            return Ok(());
        }
        let secondary = self
            .highest_bus
            .checked_add(1)
            .filter(|bus| *bus <= self.last_bus);
        let secondary = secondary.ok_or(EnumerateError::NoBusNumber { function: address })?;
        self.highest_bus = secondary;
        let base = self.align_window(address)?;
        self.set_bus_numbers(address, secondary, self.last_bus);
        self.bus(secondary)?;
        self.set_bus_numbers(address, secondary, self.highest_bus);
        let end = self.align_window(address)?;
        self.set_window(address, base, end);
        Ok(())
    }

    fn set_bus_numbers(&self, address: FunctionAddress, secondary: u8, subordinate: u8) {
        let numbers = u32::from_le_bytes([address.bus(), secondary, subordinate, 0]);
        self.space.write32(address, BUS_NUMBERS, numbers);
    }

    /// Registers hold bits 31..20 of base and limit in their upper 12 bits; a base above the limit
    /// closes the window.
    fn set_window(&self, address: FunctionAddress, base: u64, end: u64) {
        let closed = 0x0000_fff0;
        let window = if end > base {
            ((base >> 16) as u32 & 0xfff0) | ((end - 1) as u32 & 0xfff0_0000)
        } else {
            closed
        };
        self.space.write32(address, MEMORY_WINDOW, window);
        self.space.write32(address, PREFETCHABLE_WINDOW, closed);
        self.space
            .write32(address, COMMAND, COMMAND_MEMORY_AND_BUS_MASTER);
    }

    /// The next free MiB.
    fn align_window(&mut self, function: FunctionAddress) -> Result<u64, EnumerateError> {
        let full = EnumerateError::NoSpace {
            function,
            size: BRIDGE_GRANULE,
        };
        self.window
            .as_mut()
            .and_then(|window| window.take(0, BRIDGE_GRANULE))
            .ok_or(full)
    }
}

#[cfg(test)]
mod tests;
