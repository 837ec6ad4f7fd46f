//! From the PVH entry to the kernel proper.

use super::start_info::StartInfo;
use super::{clock, exceptions};
use crate::acpi;
use crate::arch;
use crate::machine::{Description, Firmware};
use crate::memory::Identity;
use crate::pcie::Placement;
use alloc::vec::Vec;

core::arch::global_asm!(include_str!("boot.s"), options(att_syntax));

/// Called by `_start` with the first 4 GiB mapped one to one and interrupts off.
#[unsafe(no_mangle)]
extern "C" fn x86_64_start(start_info: u64) -> ! {
    exceptions::install();
    arch::run(|| {
        let info = StartInfo::read(&Identity, start_info)?;
        let root_pointer = info.root_pointer;
        clock::calibrate(acpi::power_timer_port(&Identity, root_pointer)?);
        let (configuration_space, first_bus, last_bus) =
            acpi::configuration_space(&Identity, root_pointer)?;
        Ok(Description {
            firmware: Firmware::Acpi { root_pointer },
            command_line: info.command_line,
            memory: info.memory,
            reserved: Vec::new(),
            configuration_space,
            buses: (first_bus, last_bus),
            placement: Placement::ByFirmware,
        })
    })
}
