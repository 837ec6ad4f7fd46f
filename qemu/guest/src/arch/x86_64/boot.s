/*
 * PVH entry (Xen's x86/HVM direct boot ABI): 32-bit protected mode, paging off, the physical
 * address of the hvm_start_info in ebx. Leaves for x86_64_start(start_info) in long mode with the
 * first 4 GiB mapped one to one in 2 MiB pages.
 */
    .section .note.Xen, "a", @note
    .balign 4
    .long 4                     /* name size */
    .long 8                     /* descriptor size */
    .long 18                    /* XEN_ELFNOTE_PHYS32_ENTRY */
    .asciz "Xen"
    .quad _start

    .section .text.boot, "ax"
    .code32
    .global _start
_start:
    cli
    cld
    movl %ebx, %esi

    movl $__bss_start, %edi
    movl $__bss_end, %ecx
    subl %edi, %ecx
    shrl $2, %ecx
    xorl %eax, %eax
    rep stosl

    /* root[0] -> directory_pointers[0..4] -> directories, present and writable. */
    movl $boot_directory_pointers + 3, boot_root
    movl $boot_directories + 3, %eax
    movl $boot_directory_pointers, %edi
    movl $4, %ecx
1:  movl %eax, (%edi)
    addl $0x1000, %eax
    addl $8, %edi
    loop 1b

    /* 2048 leaves of 2 MiB, present, writable, page size. */
    movl $0x83, %eax
    movl $boot_directories, %edi
    movl $2048, %ecx
2:  movl %eax, (%edi)
    addl $0x200000, %eax
    addl $8, %edi
    loop 2b

    movl $boot_root, %eax
    movl %eax, %cr3
    movl %cr4, %eax
    orl $0x20, %eax             /* PAE */
    movl %eax, %cr4
    movl $0xc0000080, %ecx      /* EFER */
    rdmsr
    orl $0x100, %eax            /* LME */
    wrmsr
    movl %cr0, %eax
    orl $0x80010001, %eax       /* PG, WP, PE */
    movl %eax, %cr0
    lgdtl boot_gdt_pointer
    ljmpl $8, $long_mode

    .code64
long_mode:
    movl $16, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    xorl %eax, %eax
    movl %eax, %fs
    movl %eax, %gs
    movq $boot_stack_top, %rsp
    xorl %ebp, %ebp
    movl %esi, %edi
    call x86_64_start
3:  hlt
    jmp 3b

/* Exceptions: each vector leaves (vector, error code, rip, cs, rflags, rsp, ss) on the stack. */
    .macro exception_vector number, has_error_code
vector_\number:
    .if \has_error_code == 0
    pushq $0
    .endif
    pushq $\number
    jmp exception_common
    .endm

    .altmacro
    .set number, 0
    .rept 32
    .if (number == 8) || ((number >= 10) && (number <= 14)) || (number == 17) || (number == 21) || (number == 29) || (number == 30)
    exception_vector %number, 1
    .else
    exception_vector %number, 0
    .endif
    .set number, number + 1
    .endr

exception_common:
    movq %rsp, %rdi
    movq %cr2, %rsi
    cld
    andq $-16, %rsp
    call x86_64_exception
4:  hlt
    jmp 4b

    .macro vector_address number
    .quad vector_\number
    .endm

    .section .rodata
    .balign 8
    .global exception_vectors
exception_vectors:
    .set number, 0
    .rept 32
    vector_address %number
    .set number, number + 1
    .endr
    .noaltmacro

    .balign 8
boot_gdt:
    .quad 0
    .quad 0x00af9b000000ffff    /* 64-bit code */
    .quad 0x00cf93000000ffff    /* data */
boot_gdt_pointer:
    .word 23
    .quad boot_gdt

    .section .bss
    .balign 4096
boot_root:
    .skip 4096
boot_directory_pointers:
    .skip 4096
boot_directories:
    .skip 4 * 4096
    .skip 256 * 1024
    .global boot_stack_top
boot_stack_top:
