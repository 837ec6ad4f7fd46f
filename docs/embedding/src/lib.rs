//! The kernel's side of the framework: the code that the embedding guide (`docs/src/embedding.md`)
//! shows, by the marks `ANCHOR` and `ANCHOR_END`. `qemu/guest` is a complete kernel.

#![no_std]

extern crate alloc;

pub mod device;
pub mod page_faults;
pub mod platform;
pub mod process;
