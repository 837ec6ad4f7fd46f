//! From QEMU's entry at EL1 to the kernel proper.

use super::{console, exceptions};
use crate::arch;
use crate::device_tree::{DeviceTree, DeviceTreeError};
use crate::machine::Description;
use crate::region::Region;

core::arch::global_asm!(include_str!("boot.s"));

/// Where QEMU puts the device tree for a kernel that is a plain ELF: the start of RAM.
const DEVICE_TREE: Region = Region {
    base: 0x4000_0000,
    size: 2 << 20,
};

/// Called by `_start` with the MMU and interrupts off.
#[unsafe(no_mangle)]
extern "C" fn aarch64_start() -> ! {
    exceptions::install();
    arch::run(|| {
        // SAFETY: this RAM lies below the kernel, and nobody writes it.
        let memory = unsafe {
            core::slice::from_raw_parts(DEVICE_TREE.base as *const u8, DEVICE_TREE.size as usize)
        };
        let blob = DeviceTree::total_size(memory)
            .and_then(|size| memory.get(..size))
            .ok_or(DeviceTreeError::Malformed { length: 0 })?;
        let tree = DeviceTree::new(blob)?;
        console::set_base(tree.registers("arm,pl011")?.base);
        Description::from_device_tree(tree, DEVICE_TREE)
    })
}
