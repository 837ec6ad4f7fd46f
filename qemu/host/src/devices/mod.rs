//! QEMU's PCI devices that access memory on command.

mod edu;
mod test_device;

pub use edu::Edu;
pub use test_device::{TestDevice, Written};
