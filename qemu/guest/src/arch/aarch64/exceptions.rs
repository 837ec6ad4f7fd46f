//! The vector table: every exception is fatal and says so.

use crate::arch;
use core::arch::asm;

const NAMES: [&str; 4] = ["synchronous", "IRQ", "FIQ", "SError"];

/// Points the processor at the table.
pub fn install() {
    // SAFETY: boot.s defines the table, aligned, and its vectors never return.
    unsafe {
        asm!(
            "adrp {table}, exception_vectors",
            "add {table}, {table}, :lo12:exception_vectors",
            "msr vbar_el1, {table}",
            "isb",
            table = out(reg) _,
            options(nostack, preserves_flags),
        );
    }
}

/// Called by boot.s with the vector's number, ESR_EL1, FAR_EL1 and ELR_EL1.
#[unsafe(no_mangle)]
extern "C" fn aarch64_exception(vector: u64, cause: u64, address: u64, program_counter: u64) -> ! {
    arch::fatal_exception(NAMES[vector as usize % 4], cause, address, program_counter)
}
