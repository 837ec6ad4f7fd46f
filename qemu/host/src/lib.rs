//! Drives QEMU's machines from outside, without a guest: the drivers run in this process.
//!
//! QEMU runs no processor (`-accel qtest`). Device registers are read and written over a socket in
//! its qtest protocol (QEMU's docs/devel/testing/qtest.rst), the machine's memory is a file that both processes
//! map, and this crate does what firmware would: bus numbers, BARs, windows.
//!
//! - [`Program`] is a QEMU on this machine; [`Machine`] a running one.
//! - [`Platform`] is the machine as a driver sees it; [`Ram`] its memory.
//! - [`pcie`] finds and places PCI functions; [`devices`] drives the ones that access memory.
//! - [`Trace`] is what QEMU itself says that it did; [`commands`] compares it with what a driver says.

// A test-side crate has std; only the library crates must not need it.
#![allow(clippy::std_instead_of_alloc, clippy::std_instead_of_core)]

pub mod commands;
pub mod devices;
mod error;
mod folder;
mod machine;
pub mod pcie;
mod platform;
mod program;
mod ram;
mod session;
mod trace;

pub use error::Error;
pub use machine::{Architecture, Machine, Options};
pub use platform::{HostClock, Parts, Platform, Registers, Steps};
pub use program::{OLDEST, Program, ProgramError, VARIABLE};
pub use ram::Ram;
pub use session::Interrupt;
pub use trace::Trace;
