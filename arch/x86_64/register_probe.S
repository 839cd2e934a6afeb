// See arch/register_probe.h. rdi holds the probe all the time, rcx is the spin's.
#define GO_ON 0
#define WIDE 4
#define PUT 64
#define FOUND (PUT + 2048)
#define MASKS_PUT (FOUND + 2048)
#define MASKS_FOUND (MASKS_PUT + 64)
#define GENERAL (MASKS_FOUND + 64)
#define FLAGS (GENERAL + 128)
#define OLD_FLOAT (FLAGS + 8)
#define CONTROL_PUT (OLD_FLOAT + 128)
#define CONTROL_FOUND (CONTROL_PUT + 4)

        .macro  each_wide op:vararg
        .irp    n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
        \op     \n
        .endr
        .endm
        .macro  load_wide n
        vmovdqu64 PUT+64*\n(%rdi), %zmm\n
        .endm
        .macro  store_wide n
        vmovdqu64 %zmm\n, FOUND+64*\n(%rdi)
        .endm

        .text
        .globl  godwit_probe_registers
        .type   godwit_probe_registers, @function
godwit_probe_registers:
        pushq   %rbx
        pushq   %rbp
        pushq   %r12
        pushq   %r13
        pushq   %r14
        pushq   %r15
        subq    $24, %rsp
        stmxcsr 8(%rsp)
        fninit
        .irp    n, 0,1,2,3,4,5,6
        fldpi
        .endr
        fld1
        ldmxcsr CONTROL_PUT(%rdi)
        cmpl    $0, WIDE(%rdi)
        je      1f
        each_wide load_wide
        .irp    n, 1,2,3,4,5,6,7
        kmovq   MASKS_PUT+8*\n(%rdi), %k\n
        .endr
        jmp     2f
1:      .irp    n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15
        movdqu  PUT+64*\n(%rdi), %xmm\n
        .endr
2:      movabsq $0x1122334455667700, %rax
        leaq    1(%rax), %rbx
        leaq    2(%rax), %rdx
        leaq    3(%rax), %rsi
        leaq    4(%rax), %rbp
        leaq    5(%rax), %r8
        leaq    6(%rax), %r9
        leaq    7(%rax), %r10
        leaq    8(%rax), %r11
        leaq    9(%rax), %r12
        leaq    10(%rax), %r13
        leaq    11(%rax), %r14
        pushq   $0x8d7                          // carry, parity, adjust, zero, sign, overflow
        popfq
3:      movl    GO_ON(%rdi), %ecx
        jrcxz   4f
        jmp     3b
4:      pushfq
        popq    FLAGS(%rdi)
        movq    %rax, GENERAL(%rdi)
        movq    %rbx, GENERAL+8(%rdi)
        movq    %rdx, GENERAL+16(%rdi)
        movq    %rsi, GENERAL+24(%rdi)
        movq    %rbp, GENERAL+32(%rdi)
        movq    %r8, GENERAL+40(%rdi)
        movq    %r9, GENERAL+48(%rdi)
        movq    %r10, GENERAL+56(%rdi)
        movq    %r11, GENERAL+64(%rdi)
        movq    %r12, GENERAL+72(%rdi)
        movq    %r13, GENERAL+80(%rdi)
        movq    %r14, GENERAL+88(%rdi)
        stmxcsr CONTROL_FOUND(%rdi)
        cmpl    $0, WIDE(%rdi)
        je      5f
        each_wide store_wide
        .irp    n, 1,2,3,4,5,6,7
        kmovq   %k\n, MASKS_FOUND+8*\n(%rdi)
        .endr
        vzeroupper
        jmp     6f
5:      .irp    n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15
        movdqu  %xmm\n, FOUND+64*\n(%rdi)
        .endr
6:      .irp    n, 0,1,2,3,4,5,6,7
        fstpt   OLD_FLOAT+16*\n(%rdi)
        .endr
        fninit
        ldmxcsr 8(%rsp)
        addq    $24, %rsp
        popq    %r15
        popq    %r14
        popq    %r13
        popq    %r12
        popq    %rbp
        popq    %rbx
        ret
        .size   godwit_probe_registers, .-godwit_probe_registers

        .section .note.GNU-stack, "", @progbits
