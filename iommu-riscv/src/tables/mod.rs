//! The device directory and the process directories: stores and publication, no command.
//!
//! Both are radix trees of 4 KiB pages whose leaf pages hold contexts of several words. A context
//! is made valid by its first word: it is stored last, and cleared first.

mod device;
mod process;
mod radix;

pub(crate) use device::DeviceDirectory;
pub(crate) use process::ProcessDirectory;
