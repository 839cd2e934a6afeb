// godwit_probe_rseq(area, go_on, aborts): spins inside an rseq critical section (rseq(2),
// linux/rseq.h) until *go_on is 0, counting how often the kernel aborted it. See register_probe.h.
#define RSEQ_CS 8
        .text
        .globl  godwit_probe_rseq
        .type   godwit_probe_rseq, @function
godwit_probe_rseq:
        leaq    section_description(%rip), %rax
arm:    movq    %rax, RSEQ_CS(%rdi)
section_start:
        cmpl    $0, (%rsi)
        jne     section_start
section_end:
        movq    $0, RSEQ_CS(%rdi)
        ret
        .byte   0x0f, 0xb9, 0x3d
        .long   0x53053053                      // glibc's signature
section_abort:
        incq    (%rdx)
        jmp     arm
        .size   godwit_probe_rseq, .-godwit_probe_rseq

        .section .data.rel.ro.godwit_rseq, "aw", @progbits
        .balign 32
section_description:
        .long   0, 0
        .quad   section_start
        .quad   section_end - section_start
        .quad   section_abort

        .section .note.GNU-stack, "", @progbits
