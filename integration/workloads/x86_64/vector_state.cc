// Vector and floating point registers of x86_64 in several threads: each fills them (zmm and mask
// registers where the processor has them, else ymm, else xmm; the x87 stack and control word;
// mxcsr), spins without touching memory, and looks whether anything changed. One more is most of
// the time in a signal handler: its registers are in the signal frame on its stack (sigreturn(2)),
// where they are as the processor that it began on has them; not with "no-handler", for processors
// with fewer registers. Written in assembly, as no compiler promises to keep a value in a register
// for milliseconds.
#include <pthread.h>
#include <signal.h>
#include <sys/auxv.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <random>
#include <string_view>
#include <thread>
#include <vector>

#include "integration/workloads/selfcheck.h"

namespace {

using selfcheck::expect;

constexpr int kThreadsMax = 4;
constexpr std::uint64_t kSpins = 3'000'000;     // about a millisecond
constexpr std::uint32_t kMxcsr = 0xff80;        // rounds towards zero, flushes to zero, all masked
constexpr std::uint16_t kControlWord = 0x067f;  // 53 bits, rounds down

struct alignas(64) Registers {
  std::array<std::array<std::uint64_t, 8>, 32> vectors{};
  std::array<std::uint64_t, 8> masks{};
  friend bool operator==(const Registers&, const Registers&) = default;
};

std::atomic<bool> stop{false};
std::atomic<long> rounds[kThreadsMax];
std::atomic<long> handled{0};

void hold_zmm(const Registers& in, Registers& out, std::uint64_t spins) {
  asm volatile(
      ".irp i,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,"
      "31\n vmovdqu64 (\\i*64)(%[in]), %%zmm\\i\n .endr\n"
      ".irp i,1,2,3,4,5,6,7\n kmovw (2048+\\i*8)(%[in]), %%k\\i\n .endr\n"
      "1: dec %[spins]\n jnz 1b\n"
      ".irp i,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,"
      "31\n vmovdqu64 %%zmm\\i, (\\i*64)(%[out])\n .endr\n"
      ".irp i,1,2,3,4,5,6,7\n kmovw %%k\\i, (2048+\\i*8)(%[out])\n .endr\n"
      "vzeroupper\n"
      : [spins] "+r"(spins)
      : [in] "r"(&in), [out] "r"(&out)
      : "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8",
        "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
}

void hold_ymm(const Registers& in, Registers& out, std::uint64_t spins) {
  asm volatile(
      ".irp i,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n vmovdqu (\\i*64)(%[in]), %%ymm\\i\n .endr\n"
      "1: dec %[spins]\n jnz 1b\n"
      ".irp i,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n vmovdqu %%ymm\\i, (\\i*64)(%[out])\n .endr\n"
      "vzeroupper\n"
      : [spins] "+r"(spins)
      : [in] "r"(&in), [out] "r"(&out)
      : "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8",
        "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
}

void hold_xmm(const Registers& in, Registers& out, std::uint64_t spins) {
  asm volatile(
      ".irp i,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n movdqu (\\i*64)(%[in]), %%xmm\\i\n .endr\n"
      "1: dec %[spins]\n jnz 1b\n"
      ".irp i,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n movdqu %%xmm\\i, (\\i*64)(%[out])\n .endr\n"
      : [spins] "+r"(spins)
      : [in] "r"(&in), [out] "r"(&out)
      : "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8",
        "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
}

struct FloatingPoint {
  std::array<std::array<unsigned char, 16>, 4> stack{};  // ten bytes each
  std::uint16_t control = 0;
  std::uint32_t mxcsr = 0;
};

void hold_x87(FloatingPoint& out, std::uint64_t spins) {
  std::uint32_t saved_mxcsr = 0;
  std::uint16_t saved_control = 0;
  asm volatile(
      "stmxcsr %[saved_mxcsr]\n fnstcw %[saved_control]\n"
      "fninit\n fldcw %[control]\n ldmxcsr %[mxcsr]\n"
      "fldpi\n fldl2e\n fldlg2\n fldln2\n"
      "1: dec %[spins]\n jnz 1b\n"
      "fstpt 0(%[stack])\n fstpt 16(%[stack])\n fstpt 32(%[stack])\n fstpt 48(%[stack])\n"
      "fnstcw %[control_out]\n stmxcsr %[mxcsr_out]\n"
      "fninit\n fldcw %[saved_control]\n ldmxcsr %[saved_mxcsr]\n"
      : [spins] "+r"(spins), [saved_mxcsr] "+m"(saved_mxcsr), [saved_control] "+m"(saved_control),
        [control_out] "=m"(out.control), [mxcsr_out] "=m"(out.mxcsr)
      : [stack] "r"(out.stack.data()), [control] "m"(kControlWord), [mxcsr] "m"(kMxcsr)
      : "memory", "cc", "st", "st(1)", "st(2)", "st(3)");
}

Registers random_registers(std::mt19937_64& random) {
  Registers registers;
  for (auto& vector : registers.vectors) {
    for (std::uint64_t& word : vector) word = random();
  }
  for (std::size_t i = 1; i < registers.masks.size(); ++i) registers.masks[i] = random() & 0xffff;
  return registers;
}

void check_vectors(std::mt19937_64& random) {
  const Registers in = random_registers(random);
  Registers out = in;  // what the processor does not have stays equal
  if (__builtin_cpu_supports("avx512f")) {
    hold_zmm(in, out, kSpins);
  } else if (__builtin_cpu_supports("avx")) {
    hold_ymm(in, out, kSpins);
  } else {
    hold_xmm(in, out, kSpins);
  }
  for (std::size_t i = 0; i < in.vectors.size(); ++i) {
    expect(in.vectors[i] == out.vectors[i], "vector register " + std::to_string(i) + " changed");
  }
  expect(in.masks == out.masks, "a mask register changed");
}

void work(int index) {
  std::mt19937_64 random(index + 1);
  FloatingPoint first;
  hold_x87(first, 1);
  while (!stop) {
    check_vectors(random);
    FloatingPoint now;
    hold_x87(now, kSpins);
    expect(now.stack == first.stack, "the x87 stack changed");
    expect(now.control == kControlWord, "the x87 control word changed");
    expect((now.mxcsr & 0xffc0) == kMxcsr, "mxcsr changed");
    ++rounds[index];
    selfcheck::sleep_ms(3);
  }
}

// Other values than those of the interrupted thread.
void on_signal(int) {
  static std::mt19937_64 random(99);
  check_vectors(random);
  selfcheck::sleep_ms(30);
  ++handled;
}

// Long enough for a signal to find it in there.
void hold_interrupted() {
  std::mt19937_64 random(7);
  while (!stop) {
    check_vectors(random);
    selfcheck::sleep_ms(1);
  }
}

void interrupt(pthread_t thread) {
  struct sigaction action {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_RESTART;
  selfcheck::must(sigaction(SIGUSR2, &action, nullptr), "sigaction");
  while (!stop) {
    const long before = handled;
    pthread_kill(thread, SIGUSR2);
    while (handled == before && !stop) selfcheck::sleep_ms(1);
  }
}

}  // namespace

int main(int argc, char** argv) {
  // Two for each processor, which leaves something of it for others.
  const int count = std::min<int>(kThreadsMax, 2 * std::thread::hardware_concurrency());
  const bool with_handler = argc < 4 || std::string_view(argv[3]) != "no-handler";
  std::vector<std::thread> threads;
  std::thread interrupted;
  std::thread interrupter;
  return selfcheck::run_workload(
      std::min(argc, 3), argv,
      [&] {
        for (int index = 0; index < count; ++index) threads.emplace_back(work, index);
        for (int index = 0; index < count; ++index) {
          while (rounds[index] == 0) selfcheck::sleep_ms(1);
        }
        if (!with_handler) return;
        interrupted = std::thread(hold_interrupted);
        interrupter = std::thread(interrupt, interrupted.native_handle());
        while (handled == 0) selfcheck::sleep_ms(1);
      },
      [] {},
      [&] {
        stop = true;
        for (std::thread& thread : threads) thread.join();
        if (!with_handler) return;
        interrupter.join();  // signals the other, which must be there
        interrupted.join();
      });
}
