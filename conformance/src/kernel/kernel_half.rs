//! A page of the kernel's half, which hangs below every process's root where the architecture has
//! one root for both halves.

use super::page_table::{self, span};
use super::process::Process;
use super::{Kernel, Rights, format};
use crate::outcome::Outcome;

/// A page of the kernel's, with the tables that lead to it.
#[derive(Clone, Copy, Debug)]
pub struct KernelPage {
    /// The index and the contents of the entry in every root.
    root_entry: (u64, u64),
    /// The entry that points to the last table, and the table.
    last: (u64, u64),
}

impl Kernel {
    /// Maps a new frame at `address`, for the kernel alone.
    pub fn map_kernel(&self, address: u64) -> Outcome<KernelPage> {
        let (ram, format) = (self.rig.ram(), self.rig.format());
        let levels = format::levels(format);
        let top = self.take_frame()?;
        let mut table = top;
        let mut last = (0, top);
        for level in (1..levels - 1).rev() {
            let slot = table + address / span(level) % 512 * 8;
            let below = self.take_frame()?;
            page_table::write(ram, slot, format::table(format, below));
            last = (slot, below);
            table = below;
        }
        let leaf = format::leaf(format, self.take_frame()?, 0, Rights::KERNEL);
        page_table::write(ram, table + address / span(0) % 512 * 8, leaf);
        let index = address / span(levels - 1) % 512;
        Ok(KernelPage {
            root_entry: (index, format::table(format, top)),
            last,
        })
    }

    /// Takes the last table out of the kernel's half. It is freed when every address space's devices
    /// have forgotten it.
    pub fn unmap_kernel(&self, page: KernelPage) -> u64 {
        let (slot, table) = page.last;
        page_table::write(self.rig.ram(), slot, 0);
        table
    }
}

impl Process {
    /// Lets the process's root point to the kernel's page, as every root does.
    pub fn share_kernel(&self, page: KernelPage) {
        let (index, entry) = page.root_entry;
        page_table::write(self.kernel().rig.ram(), self.root() + 8 * index, entry);
    }

    /// Takes the kernel's half out of the root, so that it is not freed with the process.
    pub fn forget_kernel(&self, page: KernelPage) {
        let (index, _) = page.root_entry;
        page_table::write(self.kernel().rig.ram(), self.root() + 8 * index, 0);
    }
}
