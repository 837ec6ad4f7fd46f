//! The first serial port, a 16550 at I/O port 0x3f8.

use super::port;

const DATA: u16 = 0x3f8;
const LINE_STATUS: u16 = DATA + 5;
const TRANSMITTER_EMPTY: u8 = 1 << 5;
const PATIENCE: u32 = 1_000_000;

/// Sends one byte, after waiting a bounded time for room.
pub fn write_byte(byte: u8) {
    for _ in 0..PATIENCE {
        // SAFETY: reading the line status clears error bits at most.
        if unsafe { port::read8(LINE_STATUS) } & TRANSMITTER_EMPTY != 0 {
            break;
        }
    }
    // SAFETY: the serial port sends the byte and touches no memory.
    unsafe { port::write8(DATA, byte) };
}
