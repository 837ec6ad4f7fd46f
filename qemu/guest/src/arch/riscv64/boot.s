/*
 * Entered by OpenSBI in supervisor mode with paging off: a0 is the hart, a1 the physical address of
 * the device tree. Leaves for riscv64_start(device_tree).
 */
    .attribute arch, "rv64gc"
    .section .text.boot, "ax"
    .global _start
_start:
    csrw sie, zero
    li t0, 1 << 13              /* sstatus.FS = initial: the compiler uses these registers */
    csrs sstatus, t0
    lla t0, __bss_start
    lla t1, __bss_end
1:  sd zero, (t0)
    addi t0, t0, 8
    bltu t0, t1, 1b
    lla sp, boot_stack_top
    mv s0, zero
    mv ra, zero
    mv a0, a1
    call riscv64_start
2:  wfi
    j 2b

    .section .text.vectors, "ax"
    .balign 4
    .global exception_vector
exception_vector:
    csrr a0, scause
    csrr a1, stval
    csrr a2, sepc
    call riscv64_exception
3:  wfi
    j 3b

    .section .bss
    .balign 4096
    .skip 256 * 1024
boot_stack_top:
