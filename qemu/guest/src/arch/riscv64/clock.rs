//! Time from the `time` register.

use core::arch::asm;
use core::sync::atomic::{AtomicU32, Ordering};

const NANOSECONDS: u128 = 1_000_000_000;

static HERTZ: AtomicU32 = AtomicU32::new(10_000_000);

/// Sets the counter's rate, as the device tree says; not zero.
pub(super) fn set_frequency(hertz: u32) {
    HERTZ.store(hertz, Ordering::Relaxed);
}

/// Nanoseconds since the machine started. Never goes backwards.
pub fn nanoseconds() -> u64 {
    let ticks: u64;
    // SAFETY: reading the counter has no side effect.
    unsafe { asm!("rdtime {}", out(reg) ticks, options(nomem, nostack, preserves_flags)) };
    (u128::from(ticks) * NANOSECONDS / u128::from(HERTZ.load(Ordering::Relaxed))) as u64
}
