//! The PL011 serial port.

use crate::mmio::Registers;
use crate::region::Region;
use core::sync::atomic::{AtomicU64, Ordering};

const DATA: usize = 0x00;
const FLAGS: usize = 0x18;
const FLAG_TRANSMIT_FULL: u32 = 1 << 5;
const CONTROL: usize = 0x30;
/// UARTEN and TXE.
const CONTROL_TRANSMIT: u32 = 1 << 0 | 1 << 8;
const SIZE: u64 = 0x1000;
const PATIENCE: u32 = 1_000_000;

/// Until the device tree was read: where QEMU's virt machine has it.
static BASE: AtomicU64 = AtomicU64::new(0x0900_0000);

/// Uses the port at physical address `base` from now on, as the device tree says.
pub(super) fn set_base(base: u64) {
    BASE.store(base, Ordering::Relaxed);
    registers().write32(CONTROL, CONTROL_TRANSMIT);
}

/// Sends one byte, after waiting a bounded time for room.
pub fn write_byte(byte: u8) {
    let registers = registers();
    for _ in 0..PATIENCE {
        if registers.read32(FLAGS) & FLAG_TRANSMIT_FULL == 0 {
            break;
        }
    }
    registers.write32(DATA, u32::from(byte));
}

fn registers() -> Registers {
    let region = Region {
        base: BASE.load(Ordering::Relaxed),
        size: SIZE,
    };
    // SAFETY: the port's registers are mapped uncached, or the MMU is off.
    unsafe { Registers::new(region) }
}
