// The stub of x86_64: the only code that Godwit runs inside a task. See arch/arch.h.
//
// It is copied behind the vDSO image of the task, which the task itself may only read and execute,
// so nothing here writes next to the code and nothing uses the stack.
//
//   rows:    rbx = table, r12 = number of rows, r13 = rows done, rbp = current row
//   call:    number and arguments are loaded already; the result goes to r13
//   notify:  tgkill(process, thread, signal) to itself: the tracer sees a signal-delivery-stop
//   tail:    reached only when no tracer took the signal (it died): gives the thread back its mask
//            and registers from the save area and jumps to where it was. No instruction between
//            popfq and the jump changes flags, and a `syscall` keeps them (r11).
//
// r15 is the thread's save area all the time: several threads can be here, each with its own. One
// begins with the two instructions that give back r15 itself and jump; they need no register, since
// what they read stands at a fixed distance behind them.
//
// The layout of a row is StubRow, the save area's is SaveArea in stub.cc.

#define SAVED(name) (saved_##name - godwit_stub_save)(%r15)

        .section .rodata.godwit_stub, "a", @progbits
        .balign 16
        .globl godwit_stub_begin, godwit_stub_rows, godwit_stub_call
        .globl godwit_stub_notified, godwit_stub_save, godwit_stub_end
        .hidden godwit_stub_begin, godwit_stub_rows, godwit_stub_call
        .hidden godwit_stub_notified, godwit_stub_save, godwit_stub_end

godwit_stub_begin:
        .ascii  "\314\314\314\314GODWIT-STUB1"

        // One argument: a value, or (bit set in references) what the table holds at that offset.
        .macro  argument index, register
        movq    8+8*\index(%rbp), \register
        btl     $\index, %r14d
        jnc     1f
        movq    (%rbx, \register), \register
1:
        .endm

godwit_stub_rows:
        cmpq    %r12, %r13
        jae     godwit_stub_notify
        movl    56(%rbp), %r14d
        argument 0, %rdi
        argument 1, %rsi
        argument 2, %rdx
        argument 3, %r10
        argument 4, %r8
        argument 5, %r9
        movq    0(%rbp), %rax
        syscall
        movq    %rax, 64(%rbp)
        incq    %r13
        cmpq    $-4095, %rax
        jb      2f
        cmpl    $0, 60(%rbp)
        je      godwit_stub_notify
2:      addq    $72, %rbp
        jmp     godwit_stub_rows

godwit_stub_call:
        syscall
        movq    %rax, %r13

godwit_stub_notify:
        movl    $186, %eax                      // gettid
        syscall
        movl    %eax, %esi
        movl    SAVED(process), %edi
        movl    SAVED(notify), %edx
        movl    $234, %eax                      // tgkill
        syscall
godwit_stub_notified:
        leaq    SAVED(flags), %rsp
        popfq
        movq    SAVED(rsp), %rsp
        movl    $2, %edi                        // SIG_SETMASK
        leaq    SAVED(mask), %rsi
        movl    $0, %edx
        movl    $8, %r10d
        movl    $14, %eax                       // rt_sigprocmask
        syscall
        movq    SAVED(r14), %r14
        movq    SAVED(r13), %r13
        movq    SAVED(r12), %r12
        movq    SAVED(rbp), %rbp
        movq    SAVED(rbx), %rbx
        movq    SAVED(r11), %r11
        movq    SAVED(r10), %r10
        movq    SAVED(r9), %r9
        movq    SAVED(r8), %r8
        movq    SAVED(rax), %rax
        movq    SAVED(rcx), %rcx
        movq    SAVED(rdx), %rdx
        movq    SAVED(rsi), %rsi
        movq    SAVED(rdi), %rdi
        jmp     *%r15

        .balign 16
godwit_stub_save:
        movq    saved_r15(%rip), %r15
        jmp     *saved_rip(%rip)
        .balign 16
saved_r15:      .quad 0
saved_r14:      .quad 0
saved_r13:      .quad 0
saved_r12:      .quad 0
saved_rbp:      .quad 0
saved_rbx:      .quad 0
saved_r11:      .quad 0
saved_r10:      .quad 0
saved_r9:       .quad 0
saved_r8:       .quad 0
saved_rax:      .quad 0
saved_rcx:      .quad 0
saved_rdx:      .quad 0
saved_rsi:      .quad 0
saved_rdi:      .quad 0
saved_rip:      .quad 0
saved_flags:    .quad 0
saved_rsp:      .quad 0
saved_mask:     .quad 0
saved_process:  .long 0
saved_notify:   .long 0
godwit_stub_end:

        .section .note.GNU-stack, "", @progbits
