// The stub of aarch64: the only code that Godwit runs inside a task. See arch/arch.h.
//
// It is copied behind the vDSO image of the task, which the task itself may only read and execute,
// so nothing here writes next to the code and nothing uses the stack.
//
//   rows:    x19 = table, x20 = number of rows, x21 = rows done, x22 = current row
//   call:    number and arguments are loaded already; the result goes to x21
//   notify:  tgkill(process, thread, signal) to itself: the tracer sees a signal-delivery-stop
//   tail:    reached only when no tracer took the signal (it died). No instruction jumps without
//            losing a register here, so the kernel does it: rt_sigreturn(2) with the signal frame
//            that stands in the save area. It would also make the kernel forget the deadline of a
//            sleep: a thread that goes on with one (restart_syscall(2)) is brought back to its call
//            with x0 lost, which that call does not read and overwrites.
//
// The layout of a row is StubRow, the save area's is SaveArea in stub.cc.

        .section .rodata.godwit_stub, "a", @progbits
        .balign 16
        .globl godwit_stub_begin, godwit_stub_rows, godwit_stub_call
        .globl godwit_stub_notified, godwit_stub_save, godwit_stub_end
        .hidden godwit_stub_begin, godwit_stub_rows, godwit_stub_call
        .hidden godwit_stub_notified, godwit_stub_save, godwit_stub_end

godwit_stub_begin:
        .word   0                               // an undefined instruction
        .ascii  "GODWIT-STUB1"

        // One argument: a value, or (bit set in references) what the table holds at that offset.
        .macro  argument index
        ldr     x\index, [x22, #(8 + 8 * \index)]
        tbz     w23, #\index, 1f
        ldr     x\index, [x19, x\index]
1:
        .endm

        // Two neighbours; x19 = the registers in the frame.
        .macro  load_pair first second
        ldp     x\first, x\second, [x19, #(8 * \first)]
        .endm

godwit_stub_rows:
        cmp     x21, x20
        b.hs    godwit_stub_notify
        ldr     w23, [x22, #56]
        argument 0
        argument 1
        argument 2
        argument 3
        argument 4
        argument 5
        ldr     x8, [x22]
        svc     #0
        str     x0, [x22, #64]
        add     x21, x21, #1
        cmn     x0, #4095
        b.lo    2f
        ldr     w24, [x22, #60]
        cbz     w24, godwit_stub_notify
2:      add     x22, x22, #72
        b       godwit_stub_rows

godwit_stub_call:
        svc     #0
        mov     x21, x0

godwit_stub_notify:
        mov     x8, #178                        // gettid
        svc     #0
        mov     w1, w0
        ldr     w0, saved_process
        ldr     w2, saved_notify
        mov     x8, #131                        // tgkill
        svc     #0
godwit_stub_notified:
        ldr     w0, saved_goes_on
        cbnz    w0, godwit_stub_go_on
        adr     x0, saved_frame
        mov     sp, x0
        mov     x8, #139                        // rt_sigreturn
        svc     #0
        .word   0

godwit_stub_go_on:
        adr     x19, saved_registers
        ldr     x0, saved_sp
        mov     sp, x0
        mov     x0, #2                          // SIG_SETMASK
        adr     x1, saved_mask
        mov     x2, #0
        mov     x3, #8
        mov     x8, #135                        // rt_sigprocmask
        svc     #0
        ldr     x0, saved_pstate
        msr     nzcv, x0
        ldr     x1, [x19, #8]
        .irp    n, 2,4,6,8,10,12,14,16
        .altmacro
        load_pair %\n, %(\n + 1)
        .noaltmacro
        .endr
        ldr     x18, [x19, #144]
        .irp    n, 20,22,24,26,28
        .altmacro
        load_pair %\n, %(\n + 1)
        .noaltmacro
        .endr
        ldr     x30, [x19, #240]
        ldr     x19, [x19, #152]
        ldr     x0, saved_pc
        ret     x0

        .balign 16
godwit_stub_save:
saved_process:  .word 0
saved_notify:   .word 0
saved_goes_on:  .word 0
                .word 0
saved_frame:    .space 1152                     // as SaveArea has it
godwit_stub_end:
        .equ    saved_mask, saved_frame + 168   // as Frame has them
        .equ    saved_registers, saved_frame + 312
        .equ    saved_sp, saved_frame + 560
        .equ    saved_pc, saved_frame + 568
        .equ    saved_pstate, saved_frame + 576

        .section .note.GNU-stack, "", @progbits
