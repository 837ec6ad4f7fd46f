//! Time from the generic timer's virtual counter.

use core::arch::asm;

const NANOSECONDS: u128 = 1_000_000_000;

/// Nanoseconds since the machine started. Never goes backwards.
pub fn nanoseconds() -> u64 {
    let (ticks, hertz): (u64, u64);
    // SAFETY: reading the counter and its rate has no side effect.
    unsafe {
        asm!(
            "isb",
            "mrs {ticks}, cntvct_el0",
            "mrs {hertz}, cntfrq_el0",
            ticks = out(reg) ticks,
            hertz = out(reg) hertz,
            options(nomem, nostack, preserves_flags),
        );
    }
    (u128::from(ticks) * NANOSECONDS / u128::from(hertz.max(1))) as u64
}
