/*
 * Entered by QEMU at EL1 with the MMU off; a plain ELF gets no register values, so the device tree
 * is looked for at the start of RAM. Leaves for aarch64_start() with floating point allowed.
 */
    .section .text.boot, "ax"
    .global _start
_start:
    msr daifset, #15
    mov x0, #(3 << 20)          /* CPACR_EL1.FPEN: no trap, the compiler uses these registers */
    msr cpacr_el1, x0
    isb
    adrp x0, __bss_start
    add x0, x0, :lo12:__bss_start
    adrp x1, __bss_end
    add x1, x1, :lo12:__bss_end
1:  stp xzr, xzr, [x0], #16
    cmp x0, x1
    b.lo 1b
    adrp x0, boot_stack_top
    add x0, x0, :lo12:boot_stack_top
    mov sp, x0
    mov x29, xzr
    mov x30, xzr
    bl aarch64_start
2:  wfi
    b 2b

/* Sixteen vectors of 128 bytes (Arm ARM D1.4.2); none returns. */
    .section .text.vectors, "ax"
    .balign 2048
    .global exception_vectors
exception_vectors:
    .set number, 0
    .rept 16
    .balign 128
    mov x0, #number
    mrs x1, esr_el1
    mrs x2, far_el1
    mrs x3, elr_el1
    b exception_common
    .set number, number + 1
    .endr
exception_common:
    bl aarch64_exception
3:  wfi
    b 3b

    .section .bss
    .balign 4096
    .skip 256 * 1024
boot_stack_top:
