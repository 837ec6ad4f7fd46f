//! The interrupt descriptor table: every exception is fatal and says so.

use crate::arch;
use core::arch::asm;
use spin::Once;

const VECTORS: usize = 32;
const NAMES: [&str; VECTORS] = [
    "divide error",
    "debug",
    "non-maskable interrupt",
    "breakpoint",
    "overflow",
    "bound range",
    "invalid opcode",
    "device not available",
    "double fault",
    "coprocessor overrun",
    "invalid TSS",
    "segment not present",
    "stack fault",
    "general protection",
    "page fault",
    "reserved",
    "x87 error",
    "alignment check",
    "machine check",
    "SIMD error",
    "virtualization",
    "control protection",
    "reserved",
    "reserved",
    "reserved",
    "reserved",
    "reserved",
    "reserved",
    "hypervisor injection",
    "VMM communication",
    "security",
    "reserved",
];

/// A 64-bit interrupt gate (Intel SDM volume 3, figure 7-8).
#[derive(Clone, Copy)]
#[repr(C)]
struct Gate([u64; 2]);

impl Gate {
    fn new(handler: u64) -> Self {
        const CODE_SEGMENT: u64 = 8 << 16;
        const PRESENT_INTERRUPT_GATE: u64 = 0x8e << 40;
        let low = handler & 0xffff | (handler >> 16 & 0xffff) << 48;
        Self([low | CODE_SEGMENT | PRESENT_INTERRUPT_GATE, handler >> 32])
    }
}

#[repr(C, packed)]
struct TablePointer {
    limit: u16,
    base: u64,
}

/// What `exception_common` finds on the stack.
#[repr(C)]
struct Frame {
    vector: u64,
    error_code: u64,
    program_counter: u64,
}

/// Points the processor at the table.
pub fn install() {
    unsafe extern "C" {
        static exception_vectors: [u64; VECTORS];
    }
    static TABLE: Once<[Gate; VECTORS]> = Once::new();
    // SAFETY: boot.s defines the array, and nobody writes it.
    let table = TABLE.call_once(|| unsafe { exception_vectors }.map(Gate::new));
    let pointer = TablePointer {
        limit: (size_of_val(table) - 1) as u16,
        base: table.as_ptr() as u64,
    };
    // SAFETY: the table lives for ever and its gates lead to code that never returns.
    unsafe { asm!("lidt [{}]", in(reg) &raw const pointer, options(nostack, preserves_flags)) };
}

/// Called by boot.s with the stack frame and CR2.
#[unsafe(no_mangle)]
extern "C" fn x86_64_exception(frame: &Frame, address: u64) -> ! {
    let name = NAMES.get(frame.vector as usize).unwrap_or(&"unknown");
    arch::fatal_exception(name, frame.error_code, address, frame.program_counter)
}
