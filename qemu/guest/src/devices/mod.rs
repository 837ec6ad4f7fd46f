//! QEMU's two PCI devices that access memory on command.

pub mod edu;
pub mod test_device;

use core::fmt;

/// Why a device could not be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeviceError {
    /// There is no such device on the bus.
    Missing {
        /// QEMU's name for it.
        device: &'static str,
    },
    /// The device's BAR 0 is missing or was not placed.
    NoBar {
        /// QEMU's name for it.
        device: &'static str,
    },
    /// The device did not finish in time.
    Timeout {
        /// QEMU's name for it.
        device: &'static str,
        /// How long was waited, in nanoseconds.
        nanoseconds: u64,
    },
}

impl fmt::Display for DeviceError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { device } => write!(formatter, "there is no device {device}"),
            Self::NoBar { device } => write!(formatter, "BAR 0 of {device} was not placed"),
            Self::Timeout {
                device,
                nanoseconds,
            } => {
                write!(formatter, "{device} did not finish within {nanoseconds} ns")
            }
        }
    }
}

impl core::error::Error for DeviceError {}
