//! Ends QEMU by semihosting (`-semihosting`): status 0 or 1.

use core::arch::asm;

const SYS_EXIT: u64 = 0x18;
const APPLICATION_EXIT: u64 = 0x2_0026;

/// Ends with status 0.
pub fn success() -> ! {
    exit(0)
}

/// Ends with status 1.
pub fn failure() -> ! {
    exit(1)
}

fn exit(status: u64) -> ! {
    let block = [APPLICATION_EXIT, status];
    // SAFETY: the call reads the block and ends QEMU. Without semihosting it is an undefined
    // instruction, whose handler comes back here once and then stops below.
    unsafe {
        asm!(
            "hlt #0xf000",
            inout("x0") SYS_EXIT => _,
            in("x1") &raw const block,
            options(nostack),
        );
    }
    loop {
        // SAFETY: interrupts are off, so this stops the processor.
        unsafe { asm!("wfi", options(nomem, nostack)) };
    }
}
