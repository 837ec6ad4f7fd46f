//! PCI Express without firmware: finds the functions, and gives bridges their bus numbers and windows
//! and every BAR its place.

use crate::error::Error;
use crate::machine::{Architecture, Machine};
use shootdown_guest::pcie::{Placement, enumerate};
use shootdown_guest::region::Region;
use std::sync::Arc;

pub use shootdown_guest::pcie::{ConfigurationSpace, Function, FunctionAddress};

/// The host bridge of q35, and where it keeps the place of the ECAM window (Intel 3 Series Express
/// Chipset Family, PCIEXBAR).
const PCIEXBAR: u32 = 0x8000_0060;
const PCIEXBAR_ENABLE: u32 = 1;
const CONFIG_ADDRESS_PORT: u16 = 0xcf8;
const CONFIG_DATA_PORT: u16 = 0xcfc;

/// Where a machine has configuration space, and where its 32-bit BARs may lie.
struct Places {
    ecam: u64,
    window: Region,
}

const fn places(architecture: Architecture) -> Places {
    match architecture {
        Architecture::X86_64 => Places {
            ecam: 0xb000_0000,
            window: Region::between(0xe000_0000, 0xf000_0000),
        },
        Architecture::Aarch64 => Places {
            ecam: 0x40_1000_0000,
            window: Region::between(0x1000_0000, 0x3eff_0000),
        },
        Architecture::Riscv64 => Places {
            ecam: 0x3000_0000,
            window: Region::between(0x4000_0000, 0x8000_0000),
        },
    }
}

/// Configuration space of a machine, through its ECAM window.
pub struct Ecam {
    machine: Arc<Machine>,
    base: u64,
}

impl ConfigurationSpace for Ecam {
    fn read32(&self, function: FunctionAddress, offset: usize) -> u32 {
        let address = self.address(function, offset);
        self.machine.read32(address).unwrap_or(u32::MAX)
    }

    fn write32(&self, function: FunctionAddress, offset: usize, value: u32) {
        // A machine that has failed says so to who asks it next.
        let _ = self.machine.write32(self.address(function, offset), value);
    }
}

impl Ecam {
    /// The window of `machine`, opened if it is closed.
    ///
    /// # Errors
    ///
    /// If QEMU has failed.
    pub fn new(machine: &Arc<Machine>) -> Result<Self, Error> {
        let base = places(machine.architecture()).ecam;
        if machine.architecture() == Architecture::X86_64 {
            machine.write_port32(CONFIG_ADDRESS_PORT, PCIEXBAR)?;
            machine.write_port32(CONFIG_DATA_PORT, base as u32 | PCIEXBAR_ENABLE)?;
        }
        Ok(Self {
            machine: machine.clone(),
            base,
        })
    }

    fn address(&self, function: FunctionAddress, offset: usize) -> u64 {
        self.base + (u64::from(function.requester_id()) << 12) + offset as u64
    }

    /// Writes a 16-bit register of a function by an access of that width.
    ///
    /// # Errors
    ///
    /// If QEMU has failed.
    pub fn write16(
        &self,
        function: FunctionAddress,
        offset: usize,
        value: u16,
    ) -> Result<(), Error> {
        self.machine.write16(self.address(function, offset), value)
    }

    /// Offset of the extended capability `id` of a function, if it has it (PCI Express 6.0, 7.6.3).
    pub fn extended_capability(&self, function: FunctionAddress, id: u16) -> Option<usize> {
        let mut offset = 0x100;
        // Each capability has at least four bytes, so the list has no more members than this.
        for _ in 0..(4096 - 256) / 4 {
            let header = self.read32(function, offset);
            if header as u16 == id {
                return Some(offset);
            }
            offset = (header >> 20) as usize & !3;
            if offset < 0x100 || header == u32::MAX {
                return None;
            }
        }
        None
    }
}

/// The functions of a machine, placed and enabled.
pub struct Bus {
    /// Their configuration space.
    pub ecam: Ecam,
    /// All of them, bridges before what is behind them.
    pub functions: Vec<Function>,
}

impl Bus {
    /// Places everything below each of the root buses, which begin with the bus numbers `roots`, in
    /// ascending order: 0, and that of each `pxb-pcie`.
    ///
    /// # Errors
    ///
    /// If QEMU has failed or the memory window is too small.
    pub fn set_up(machine: &Arc<Machine>, roots: &[u8]) -> Result<Self, Error> {
        let ecam = Ecam::new(machine)?;
        let window = places(machine.architecture()).window;
        let share = window.size / roots.len().max(1) as u64;
        let mut functions = Vec::new();
        for (index, &root) in roots.iter().enumerate() {
            let last = roots.get(index + 1).map_or(u8::MAX, |next| next - 1);
            let base = window.base + index as u64 * share;
            let part = Region::between(base, base + share);
            let found = enumerate(&ecam, root, last, Placement::Within(part));
            functions.extend(found.map_err(|error| machine.trouble(error.to_string()))?);
        }
        for function in &functions {
            function.enable(&ecam);
        }
        machine.synchronize()?;
        Ok(Self { ecam, functions })
    }

    /// The functions with a vendor id and a device id, in ascending order of their addresses.
    pub fn all(&self, (vendor, device): (u16, u16)) -> Vec<Function> {
        let mut found: Vec<Function> = self
            .functions
            .iter()
            .filter(|function| function.vendor == vendor && function.device == device)
            .copied()
            .collect();
        found.sort_by_key(|function| function.address);
        found
    }
}
