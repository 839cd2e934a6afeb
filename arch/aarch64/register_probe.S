// See arch/register_probe.h. x0 holds the probe all the time, w1 is the spin's.
#define GO_ON 0
#define PUT 64
#define FOUND (PUT + 2048)
#define GENERAL (FOUND + 2048 + 128)
#define FLAGS (GENERAL + 128)
#define CONTROL_PUT (FLAGS + 8 + 128)
#define RSEQ_CS 8

        .text
        .globl  godwit_probe_registers
        .type   godwit_probe_registers, %function
godwit_probe_registers:
        stp     x19, x20, [sp, #-112]!
        stp     x21, x22, [sp, #16]
        stp     x23, x24, [sp, #32]
        stp     d8, d9, [sp, #48]
        stp     d10, d11, [sp, #64]
        stp     d12, d13, [sp, #80]
        stp     d14, d15, [sp, #96]
        .irp    n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
        ldr     q\n, [x0, #(PUT + 64 * \n)]
        .endr
        ldr     x13, =0x1122334455667700
        mov     x2, x13
        add     x3, x13, #1
        add     x4, x13, #2
        add     x5, x13, #3
        add     x6, x13, #4
        add     x7, x13, #5
        add     x8, x13, #6
        add     x9, x13, #7
        add     x10, x13, #8
        add     x19, x13, #9
        add     x20, x13, #10
        add     x21, x13, #11
        mov     x11, #0xf0000000
        msr     nzcv, x11
3:      ldr     w1, [x0, #GO_ON]
        cbnz    w1, 3b
        mrs     x11, nzcv
        add     x12, x0, #0x1000
        str     x11, [x12, #(FLAGS - 0x1000)]
        stp     x2, x3, [x12, #(GENERAL - 0x1000)]
        stp     x4, x5, [x12, #(GENERAL - 0x1000 + 16)]
        stp     x6, x7, [x12, #(GENERAL - 0x1000 + 32)]
        stp     x8, x9, [x12, #(GENERAL - 0x1000 + 48)]
        stp     x10, x19, [x12, #(GENERAL - 0x1000 + 64)]
        stp     x20, x21, [x12, #(GENERAL - 0x1000 + 80)]
        .irp    n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
        str     q\n, [x0, #(FOUND + 64 * \n)]
        .endr
        ldr     w11, [x12, #(CONTROL_PUT - 0x1000)]
        str     w11, [x12, #(CONTROL_PUT - 0x1000 + 4)]
        ldp     x21, x22, [sp, #16]
        ldp     x23, x24, [sp, #32]
        ldp     d8, d9, [sp, #48]
        ldp     d10, d11, [sp, #64]
        ldp     d12, d13, [sp, #80]
        ldp     d14, d15, [sp, #96]
        ldp     x19, x20, [sp], #112
        ret
        .size   godwit_probe_registers, .-godwit_probe_registers

// godwit_probe_rseq(area, go_on, aborts), rseq(2).
        .globl  godwit_probe_rseq
        .type   godwit_probe_rseq, %function
godwit_probe_rseq:
        adrp    x3, section_description
        add     x3, x3, :lo12:section_description
arm:    str     x3, [x0, #RSEQ_CS]
section_start:
        ldr     w4, [x1]
        cbnz    w4, section_start
section_end:
        str     xzr, [x0, #RSEQ_CS]
        ret
        .word   0xd428bc00                      // glibc's signature
section_abort:
        ldr     x4, [x2]
        add     x4, x4, #1
        str     x4, [x2]
        b       arm
        .size   godwit_probe_rseq, .-godwit_probe_rseq

        .section .data.rel.ro.godwit_rseq, "aw", @progbits
        .balign 32
section_description:
        .word   0, 0
        .quad   section_start
        .quad   section_end - section_start
        .quad   section_abort

        .section .note.GNU-stack, "", @progbits
