//! From OpenSBI's jump in supervisor mode to the kernel proper.

use super::{clock, console, exceptions, exit};
use crate::arch;
use crate::device_tree::{DeviceTree, DeviceTreeError};
use crate::machine::Description;
use crate::region::Region;

core::arch::global_asm!(include_str!("boot.s"));

/// No device tree is longer.
const MAXIMUM_DEVICE_TREE: usize = 2 << 20;

/// Called by `_start` with paging and interrupts off.
#[unsafe(no_mangle)]
extern "C" fn riscv64_start(device_tree: u64) -> ! {
    exceptions::install();
    arch::run(|| {
        // SAFETY: firmware put at least a header there; nobody writes it.
        let header = unsafe {
            core::slice::from_raw_parts(device_tree as *const u8, DeviceTree::HEADER_LENGTH)
        };
        let size = DeviceTree::total_size(header)
            .filter(|size| *size <= MAXIMUM_DEVICE_TREE)
            .ok_or(DeviceTreeError::Malformed { length: 0 })?;
        // SAFETY: the header is a device tree's and says how long it is; nobody writes it.
        let blob = unsafe { core::slice::from_raw_parts(device_tree as *const u8, size) };
        let tree = DeviceTree::new(blob)?;
        console::set_base(tree.registers("ns16550a")?.base);
        exit::set_base(tree.registers("sifive,test0")?.base);
        clock::set_frequency(tree.timebase_frequency()?);
        Description::from_device_tree(
            tree,
            Region {
                base: device_tree,
                size: size as u64,
            },
        )
    })
}
