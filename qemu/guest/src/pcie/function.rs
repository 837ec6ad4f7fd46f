//! One PCI function: its address, identity and BARs.

use super::ConfigurationSpace;
use crate::region::Region;
use core::fmt;

pub(super) const VENDOR: usize = 0x00;
pub(super) const COMMAND: usize = 0x04;
pub(super) const CLASS: usize = 0x08;
pub(super) const HEADER_TYPE: usize = 0x0c;
pub(super) const FIRST_BAR: usize = 0x10;
const COMMAND_MEMORY: u32 = 1 << 1;
const COMMAND_BUS_MASTER: u32 = 1 << 2;
/// Status is write-1-to-clear and shares a word with the command register.
const COMMAND_MASK: u32 = 0xffff;

/// Bus, device and function; as a number, the requester id of the function's own accesses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FunctionAddress(u16);

impl FunctionAddress {
    /// From the requester id: bus in bits 15..8, device in 7..3, function in 2..0.
    pub const fn from_requester_id(requester: u16) -> Self {
        Self(requester)
    }

    /// From its three parts; `device` is below 32 and `function` below 8.
    pub const fn new(bus: u8, device: u8, function: u8) -> Self {
        Self((bus as u16) << 8 | (device as u16 & 31) << 3 | (function as u16 & 7))
    }

    /// The requester id.
    pub const fn requester_id(self) -> u16 {
        self.0
    }

    /// The bus number.
    pub const fn bus(self) -> u8 {
        (self.0 >> 8) as u8
    }

    /// Device in bits 7..3, function in 2..0.
    pub const fn device_and_function(self) -> u8 {
        self.0 as u8
    }
}

impl fmt::Display for FunctionAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(id) = self;
        write!(formatter, "{:02x}:{:02x}.{}", id >> 8, id >> 3 & 31, id & 7)
    }
}

/// A memory base address register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bar {
    /// Its number, 0 to 5; a 64-bit BAR uses the next one too.
    pub index: u8,
    /// Whether it is 64 bits wide.
    pub is_64_bit: bool,
    /// Where it lies; base 0 if nobody placed it.
    pub region: Region,
}

/// A function that answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Function {
    /// Where it is.
    pub address: FunctionAddress,
    /// Vendor id.
    pub vendor: u16,
    /// Device id in the sense of configuration space, not of an IOMMU.
    pub device: u16,
    /// Base class, sub-class and programming interface.
    pub class: u32,
    /// Memory BARs, by index.
    pub bars: [Option<Bar>; 6],
}

impl Function {
    /// Where memory BAR `index` lies, if the function has it and it was placed.
    pub fn bar(&self, index: usize) -> Option<Region> {
        let bar = (*self.bars.get(index)?)?;
        (bar.region.base != 0).then_some(bar.region)
    }

    /// Lets the function answer memory accesses and make its own.
    pub fn enable(&self, space: &impl ConfigurationSpace) {
        let command = space.read32(self.address, COMMAND) & COMMAND_MASK;
        space.write32(
            self.address,
            COMMAND,
            command | COMMAND_MEMORY | COMMAND_BUS_MASTER,
        );
    }

    /// Forbids the function to make accesses of its own.
    pub fn disable_bus_master(&self, space: &impl ConfigurationSpace) {
        let command = space.read32(self.address, COMMAND) & COMMAND_MASK;
        space.write32(self.address, COMMAND, command & !COMMAND_BUS_MASTER);
    }
}

/// Finds the memory BARs among the first `count` base address registers by writing all ones, and
/// leaves each as it was (PCI Local Bus 3.0, section 6.2.5.1). I/O BARs are left out.
pub(super) fn probe_bars(
    space: &impl ConfigurationSpace,
    address: FunctionAddress,
    count: usize,
) -> [Option<Bar>; 6] {
    let command = space.read32(address, COMMAND) & COMMAND_MASK;
    space.write32(
        address,
        COMMAND,
        command & !(COMMAND_MEMORY | COMMAND_BUS_MASTER),
    );
    let mut bars = [None; 6];
    let mut index = 0;
    while index < count {
        let low = space.read32(address, FIRST_BAR + index * 4);
        let is_64_bit = low & 7 == 4 && index + 1 < count;
        if low & 1 == 0 {
            bars[index] = probe_memory_bar(space, address, index, is_64_bit);
        }
        index += if is_64_bit { 2 } else { 1 };
    }
    space.write32(address, COMMAND, command);
    bars
}

fn probe_memory_bar(
    space: &impl ConfigurationSpace,
    address: FunctionAddress,
    index: usize,
    is_64_bit: bool,
) -> Option<Bar> {
    let offset = FIRST_BAR + index * 4;
    let probe = |offset: usize| {
        let before = space.read32(address, offset);
        space.write32(address, offset, u32::MAX);
        let mask = space.read32(address, offset);
        space.write32(address, offset, before);
        (before, mask)
    };
    let (low, low_mask) = probe(offset);
    let (high, high_mask) = if is_64_bit {
        probe(offset + 4)
    } else {
        (0, u32::MAX)
    };
    let mask = u64::from(high_mask) << 32 | u64::from(low_mask & !0xf);
    if low_mask & !0xf == 0 && (!is_64_bit || high_mask == 0) {
        return None;
    }
    let region = Region {
        base: u64::from(high) << 32 | u64::from(low & !0xf),
        size: mask.wrapping_neg(),
    };
    Some(Bar {
        index: index as u8,
        is_64_bit,
        region,
    })
}

/// Places a BAR at `base`.
pub(super) fn place_bar(
    space: &impl ConfigurationSpace,
    address: FunctionAddress,
    bar: &mut Bar,
    base: u64,
) {
    let offset = FIRST_BAR + usize::from(bar.index) * 4;
    space.write32(address, offset, base as u32);
    if bar.is_64_bit {
        space.write32(address, offset + 4, (base >> 32) as u32);
    }
    bar.region.base = base;
}
