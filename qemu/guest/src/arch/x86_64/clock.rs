//! Time from the time-stamp counter, whose rate is measured against ACPI's power management timer.

use super::port;
use core::arch::x86_64::_rdtsc;
use core::sync::atomic::{AtomicU64, Ordering};

/// ACPI 6.5, section 4.8.3.3.
const POWER_TIMER_HERTZ: u64 = 3_579_545;
/// The timer has at least 24 bits.
const POWER_TIMER_MASK: u32 = 0xff_ffff;
/// 10 ms.
const SAMPLE: u32 = (POWER_TIMER_HERTZ / 100) as u32;
/// No processor counts this far in 10 ms: the timer stands still.
const PATIENCE: u64 = 1 << 32;
const NANOSECONDS: u128 = 1_000_000_000;

static HERTZ: AtomicU64 = AtomicU64::new(1_000_000_000);

/// Measures the counter's rate. If the timer at I/O port `power_timer` stands still, 1 GHz is
/// kept.
pub fn calibrate(power_timer: u16) {
    // SAFETY: firmware says that this is the timer, and reading it has no side effect.
    let timer = || unsafe { port::read32(power_timer) };
    let (start, first) = (ticks(), timer());
    loop {
        let elapsed = ticks().wrapping_sub(start);
        let passed = timer().wrapping_sub(first) & POWER_TIMER_MASK;
        if passed >= SAMPLE {
            let hertz = elapsed * POWER_TIMER_HERTZ / u64::from(passed);
            HERTZ.store(hertz.max(1), Ordering::Relaxed);
            return;
        }
        if elapsed > PATIENCE {
            return;
        }
    }
}

/// Nanoseconds since the machine started. Never goes backwards.
pub fn nanoseconds() -> u64 {
    let hertz = u128::from(HERTZ.load(Ordering::Relaxed));
    (u128::from(ticks()) * NANOSECONDS / hertz) as u64
}

fn ticks() -> u64 {
    // SAFETY: every x86-64 processor has the instruction.
    unsafe { _rdtsc() }
}
