//! The NS16550 serial port.

use crate::mmio::Registers;
use crate::region::Region;
use core::sync::atomic::{AtomicU64, Ordering};

const DATA: usize = 0;
const LINE_STATUS: usize = 5;
const TRANSMITTER_EMPTY: u8 = 1 << 5;
const SIZE: u64 = 8;
const PATIENCE: u32 = 1_000_000;

/// Until the device tree was read: where QEMU's virt machine has it.
static BASE: AtomicU64 = AtomicU64::new(0x1000_0000);

/// Uses the port at physical address `base` from now on, as the device tree says.
pub(super) fn set_base(base: u64) {
    BASE.store(base, Ordering::Relaxed);
}

/// Sends one byte, after waiting a bounded time for room.
pub fn write_byte(byte: u8) {
    let region = Region {
        base: BASE.load(Ordering::Relaxed),
        size: SIZE,
    };
    // SAFETY: the port's registers are mapped, or paging is off.
    let registers = unsafe { Registers::new(region) };
    for _ in 0..PATIENCE {
        if registers.read8(LINE_STATUS) & TRANSMITTER_EMPTY != 0 {
            break;
        }
    }
    registers.write8(DATA, byte);
}
