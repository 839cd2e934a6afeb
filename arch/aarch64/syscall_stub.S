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
//            that stands in the save area.
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
        ldr     w0, saved_process
        ldr     w1, saved_thread
        ldr     w2, saved_notify
        mov     x8, #131                        // tgkill
        svc     #0
godwit_stub_notified:
        adr     x0, saved_frame
        mov     sp, x0
        mov     x8, #139                        // rt_sigreturn
        svc     #0
        .word   0

        .balign 16
godwit_stub_save:
saved_process:  .word 0
saved_thread:   .word 0
saved_notify:   .word 0
                .word 0
saved_frame:    .space 1152                     // as SaveArea has it
godwit_stub_end:

        .section .note.GNU-stack, "", @progbits
