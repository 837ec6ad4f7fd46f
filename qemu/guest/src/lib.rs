//! A bare-metal kernel for QEMU's x86_64, aarch64 and riscv64 machines that embeds Shootdown.
//!
//! The parsers, the page-table builder, the frame allocator, PCIe and the device drivers are plain
//! logic and are tested on the host. What touches the machine (`machine`, `address_space`,
//! `console`, `scenario`, the processor-specific parts of [`arch`]) exists only for targets without an
//! operating system. README.md has the command lines.
#![no_std]

extern crate alloc;

pub mod acpi;
pub mod arch;
pub mod command_line;
pub mod device_tree;
pub mod devices;
pub mod frames;
pub mod mmio;
pub mod page_table;
pub mod pcie;
pub mod region;
pub mod report;

#[cfg(target_os = "none")]
pub mod address_space;
#[cfg(target_os = "none")]
pub mod console;
#[cfg(target_os = "none")]
mod heap;
#[cfg(target_os = "none")]
pub mod machine;
#[cfg(target_os = "none")]
pub mod memory;
#[cfg(target_os = "none")]
pub mod scenario;
#[cfg(target_os = "none")]
pub mod self_test;
