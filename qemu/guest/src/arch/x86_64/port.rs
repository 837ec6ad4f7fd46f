//! I/O ports.

use core::arch::asm;

/// Reads a byte.
///
/// # Safety
///
/// The port belongs to a device whose state the read may change.
pub unsafe fn read8(port: u16) -> u8 {
    let value;
    // SAFETY: the caller's promise.
    unsafe { asm!("in al, dx", out("al") value, in("dx") port, options(nostack, preserves_flags)) };
    value
}

/// Writes a byte.
///
/// # Safety
///
/// The port belongs to a device that the write does not make break memory safety.
pub unsafe fn write8(port: u16, value: u8) {
    // SAFETY: the caller's promise.
    unsafe { asm!("out dx, al", in("al") value, in("dx") port, options(nostack, preserves_flags)) };
}

/// Reads 32 bits.
///
/// # Safety
///
/// As for [`read8`].
pub unsafe fn read32(port: u16) -> u32 {
    let value;
    // SAFETY: the caller's promise.
    unsafe {
        asm!("in eax, dx", out("eax") value, in("dx") port, options(nostack, preserves_flags));
    }
    value
}

/// Writes 32 bits.
///
/// # Safety
///
/// As for [`write8`].
pub unsafe fn write32(port: u16, value: u32) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!("out dx, eax", in("eax") value, in("dx") port, options(nostack, preserves_flags));
    }
}
