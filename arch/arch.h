// The contract of a processor: what every arch/<cpu>/ folder defines, under the same file names.
// Nothing above arch/ asks which processor this is.
#pragma once

#include <sys/user.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace godwit::arch {

// The general registers as PTRACE_GETREGSET NT_PRSTATUS gives them, with what a tracer needs of
// them.
struct Registers {
  user_regs_struct raw{};

  std::uint64_t instruction_pointer() const;
  std::uint64_t stack_pointer() const;
  void set_instruction_pointer(std::uint64_t address);
  void set_stack_pointer(std::uint64_t address);
  // The call the thread is in (or was interrupted in), or -1: none.
  std::int64_t system_call() const;
  std::uint64_t argument(int index) const;  // of the system call, 0..5
  std::int64_t result() const;              // of the system call
};

// A system call that the stop interrupted and that would go on through restart_syscall.
struct InterruptedCall {
  std::int64_t number = -1;
  std::uint64_t arguments[6] = {};
  std::uint64_t return_address = 0;  // behind the instruction that made it
};

// Rewrites registers so that resuming does what the kernel would have done after a stop without a
// signal (signal(7)): the call is made again, or EINTR is returned. Returns true, and the call in
// `interrupted`, when it has hidden state in the kernel (ERESTART_RESTARTBLOCK); such registers
// become those that make the same call from its beginning.
// Where rewinds_before_stop(), the caller makes sure that they stand before such an instruction.
bool resolve_restart(Registers& registers, InterruptedCall* interrupted);
// Whether the kernel has resolved an interrupted call already when it stops the thread, so that the
// registers do not show that there was one.
bool rewinds_before_stop();
// There: a call that these registers are about to make, and that the kernel may have interrupted
// and keep a deadline for. Only when it goes on the kernel makes restart_syscall(2) of it.
bool may_hide_restart(const Registers& registers);
// Registers of a stop behind the interruption of a call with such a deadline, with which the thread
// goes on with it whatever has run in between.
void keep_restart(Registers& registers);

// The call that registers make if they stand before a call's instruction.
std::int64_t next_call(const Registers& registers);
// Registers that are about to make a call (resolve_restart's) will make call `number` instead.
void set_next_call(Registers& registers, std::int64_t number);
// Argument 0..5 of the call that is about to be made, or has been.
void set_argument(Registers& registers, int index, std::uint64_t value);
// The instruction that makes a call.
std::span<const std::byte> call_instruction();

// --- The stub: the only code that ever runs in a task -------------------------------------------
// Position independent. Memory next to it (the save area) is read by its tail to restore the task
// without help. See syscall_stub.S of the processor.

// One row of a batch as the stub reads it.
struct StubRow {
  std::int64_t number;
  std::uint64_t
      arguments[6];          // a value, or the byte offset of an earlier row's result in the table
  std::uint32_t references;  // bit i: argument i is such an offset
  std::uint32_t may_fail;
  std::int64_t result;
};
static_assert(sizeof(StubRow) == 72);

std::span<const std::byte> stub_code();
// Bytes needed from the start of the code to the end of the first save area.
std::size_t stub_bytes();
// How the code begins: 16 bytes that are never executed and tell ours from anything else.
inline constexpr std::size_t kStubMarkerBytes = 16;
// Where the first save area is, from the start of the code.
std::size_t stub_save_offset();
// How many threads can be in one stub at a time, each with a save area of its own: the further ones
// are anywhere in the same mapping, at multiples of 16 bytes. 1: only the one behind the code.
std::size_t stub_save_areas_max();
// What the tail needs to bring a thread back without a tracer. The registers and the mask are the
// task's own as the stop showed them: an interrupted call is resolved here so that it goes on.
// `process` is its id as the task sees it.
struct StubSaved {
  Registers registers;
  std::uint64_t signal_mask = 0;
  int process = 0;
  int notify_signal = 0;
  bool goes_on = false;  // the registers make restart_syscall(2): see resolve_restart()
};
// The save area's content. `vector_state` is the regset vector_note_type() where
// tail_needs_vector_state(), else empty.
std::vector<std::byte> make_stub_save_area(const StubSaved& saved,
                                           std::span<const std::byte> vector_state);
// The opposite; what the processor keeps elsewhere (segments) is taken from `current`.
StubSaved read_stub_save_area(std::span<const std::byte> area, const Registers& current);
bool tail_needs_vector_state();
// Registers that make the stub at `stub` walk `count` rows at `rows`; `own` are the task's, for the
// stack pointer and the segment bases; `save_area` is the address of the thread's.
Registers enter_stub_rows(const Registers& own, std::uint64_t stub, std::uint64_t save_area,
                          std::uint64_t rows, std::uint64_t count);
// Registers that make the stub do one call.
Registers enter_stub_call(const Registers& own, std::uint64_t stub, std::uint64_t save_area,
                          std::int64_t number, std::span<const std::uint64_t> arguments);
// True at the stop that the stub's notification makes.
bool stub_has_notified(const Registers& registers, std::uint64_t stub);
// After the stub has notified: rows done, or the single call's result.
std::uint64_t stub_progress(const Registers& registers);

// --- Code over the functions of a vDSO
// ------------------------------------------------------------ Goes on at `target` as if that had
// been called.
std::vector<std::byte> jump_code(std::uint64_t target);
// Makes the system call that the function of that name is for, or answers ENOSYS; empty if unknown.
std::vector<std::byte> vdso_call_code(std::string_view function);

// --- Facts ---------------------------------------------------------------------------------------
std::string_view name();                             // "x86_64"
std::string_view syscall_name(std::int64_t number);  // empty if unknown
// False for a thread that executes another instruction set than ours (32-bit code).
bool runs_native_code(const Registers& registers);
// Regsets that a system call may change besides the general registers (SVE's upper halves).
std::span<const int> notes_lost_by_calls();
// Regsets that a thread has besides the general and the vector registers and that its threads keep
// for themselves (the TLS register, pointer authentication keys), in the order in which they are
// set. A processor may lack some.
std::span<const int> further_notes();
int vector_note_type();             // NT_X86_XSTATE, NT_PRFPREG
std::uint64_t vector_state_mask();  // components a task may have state in (XCR0); 0 if fixed
// Clears what may differ between two equal states, in the content of a regset: which components
// were in use is a matter of how the state was loaded, and how long it could be one of the
// processor.
void clear_bookkeeping(int note, std::span<std::byte> content);
std::size_t vector_state_bytes();  // size of the regset on this host

// --- What programs may use of this processor -----------------------------------------------------

// Instruction sets that the processor has and the kernel has enabled, as a program sees them, by
// the names of /proc/cpuinfo; the lengths in bits that its vectors may have as sve-128, sve-256.
std::vector<std::string_view> instruction_sets();

// Part of the regset vector_note_type() that processors may lack, or have elsewhere.
struct VectorComponent {
  std::uint32_t number = 0;  // the bit of vector_state_mask()
  std::uint32_t offset = 0;
  std::uint32_t bytes = 0;
};
std::vector<VectorComponent> vector_components();
std::string vector_component_name(std::uint32_t number);

// State that a program has to ask the kernel for before it uses it, as the tile data of AMX
// (Documentation/arch/x86/xstate.rst): only one that did can be given it back.
struct AskedState {
  // The system call with which a program learns what it may use: this number, `what`, and where the
  // components go, as bits.
  std::int64_t call = 0;
  std::uint64_t what = 0;
  std::uint64_t components = 0;  // that have to be asked for, of this processor
};
std::optional<AskedState> asked_state();  // nothing: this processor has no such state

// What has its first value counts as not in use. Processors may say otherwise, and emulators say so
// of everything; a host that lacks it would be no place for the task.
void forget_unused_components(std::span<std::byte> state);

// Makes a regset of another host, whose components are where they are here, one of this host: its
// size, and without what this processor lacks. Names those that were left out although they were in
// use.
std::vector<std::string> fit_vector_state(std::vector<std::byte>& state);

}  // namespace godwit::arch
