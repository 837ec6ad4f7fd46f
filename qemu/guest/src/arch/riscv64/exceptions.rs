//! The trap vector: every trap is fatal and says so.

use crate::arch;
use core::arch::asm;

/// Causes of exceptions (privileged specification, table 24).
const NAMES: [&str; 16] = [
    "instruction address misaligned",
    "instruction access fault",
    "illegal instruction",
    "breakpoint",
    "load address misaligned",
    "load access fault",
    "store address misaligned",
    "store access fault",
    "environment call from user mode",
    "environment call from supervisor mode",
    "reserved",
    "environment call from machine mode",
    "instruction page fault",
    "load page fault",
    "reserved",
    "store page fault",
];

/// Points the hart at the vector.
pub fn install() {
    // SAFETY: boot.s defines the vector, aligned, and it never returns.
    unsafe {
        asm!(
            "lla {vector}, exception_vector",
            "csrw stvec, {vector}",
            vector = out(reg) _,
            options(nostack, preserves_flags),
        );
    }
}

/// Called by boot.s with scause, stval and sepc.
#[unsafe(no_mangle)]
extern "C" fn riscv64_exception(cause: u64, address: u64, program_counter: u64) -> ! {
    let name = NAMES.get(cause as usize).unwrap_or(&"interrupt");
    arch::fatal_exception(name, cause, address, program_counter)
}
