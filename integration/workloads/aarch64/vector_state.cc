// Registers of aarch64 beyond the general ones, in several threads: each fills them (the vector
// registers, those of SVE as wide as they are, predicates, the floating point control register),
// spins without touching memory, and looks whether anything changed; and it signs pointers with its
// keys, whose signatures stay the same. One more is most of the time in a signal handler: its
// registers are in the signal frame on its stack (sigreturn(2)). Written in assembly, as no
// compiler promises to keep a value in a register for milliseconds.
#include <pthread.h>
#include <signal.h>
#include <sys/auxv.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <random>
#include <thread>
#include <vector>

#include "integration/workloads/selfcheck.h"

namespace {

using selfcheck::expect;

constexpr int kThreadsMax = 4;
constexpr std::uint64_t kSpins = 300'000;       // some milliseconds when it is emulated
constexpr std::size_t kVectorBytesMax = 256;    // of SVE
constexpr std::uint64_t kControl = 0x00c00000;  // rounds towards zero

struct alignas(16) Registers {
  std::array<std::uint64_t, 32 * kVectorBytesMax / 8> vectors{};
  std::array<std::uint64_t, 16 * kVectorBytesMax / 64> predicates{};
  friend bool operator==(const Registers&, const Registers&) = default;
};

std::atomic<bool> stop{false};
std::atomic<long> rounds[kThreadsMax];
std::atomic<long> handled{0};

bool has_sve() { return (getauxval(AT_HWCAP) & HWCAP_SVE) != 0; }

void hold_simd(const Registers& in, Registers& out, std::uint64_t spins) {
  asm volatile(
      ".irp "
      "i,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31\n "
      "ldr q\\i, [%[in], #(\\i*16)]\n .endr\n"
      "1: subs %[spins], %[spins], #1\n b.ne 1b\n"
      ".irp "
      "i,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31\n "
      "str q\\i, [%[out], #(\\i*16)]\n .endr\n"
      : [spins] "+r"(spins)
      : [in] "r"(in.vectors.data()), [out] "r"(out.vectors.data())
      : "memory", "cc", "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9", "v10", "v11",
        "v12", "v13", "v14", "v15", "v16", "v17", "v18", "v19", "v20", "v21", "v22", "v23", "v24",
        "v25", "v26", "v27", "v28", "v29", "v30", "v31");
}

// The predicates by way of memory as well; each is an eighth of a vector long.
void hold_sve(const Registers& in, Registers& out, std::uint64_t spins) {
  asm volatile(
      ".arch_extension sve\n"
      ".irp "
      "i,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31\n "
      "ldr z\\i, [%[in], #\\i, mul vl]\n .endr\n"
      ".irp i,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n ldr p\\i, [%[in_p], #\\i, mul vl]\n .endr\n"
      "1: subs %[spins], %[spins], #1\n b.ne 1b\n"
      ".irp "
      "i,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31\n "
      "str z\\i, [%[out], #\\i, mul vl]\n .endr\n"
      ".irp i,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n str p\\i, [%[out_p], #\\i, mul vl]\n .endr\n"
      : [spins] "+r"(spins)
      : [in] "r"(in.vectors.data()), [in_p] "r"(in.predicates.data()),
        [out] "r"(out.vectors.data()), [out_p] "r"(out.predicates.data())
      : "memory", "cc", "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9", "v10", "v11",
        "v12", "v13", "v14", "v15", "v16", "v17", "v18", "v19", "v20", "v21", "v22", "v23", "v24",
        "v25", "v26", "v27", "v28", "v29", "v30", "v31");
}

// Another rounding, kept while nothing else happens.
std::uint64_t hold_control(std::uint64_t spins) {
  std::uint64_t saved = 0;
  std::uint64_t found = 0;
  asm volatile(
      "mrs %[saved], fpcr\n msr fpcr, %[control]\n"
      "1: subs %[spins], %[spins], #1\n b.ne 1b\n"
      "mrs %[found], fpcr\n msr fpcr, %[saved]\n"
      : [spins] "+r"(spins), [saved] "=&r"(saved), [found] "=&r"(found)
      : [control] "r"(kControl)
      : "memory", "cc");
  return found;
}

// A pointer signed with keys A of instructions and of data: the thread's own (prctl(2),
// PR_PAC_RESET_KEYS). Without such keys these do nothing.
std::array<std::uint64_t, 2> signatures() {
  std::uint64_t code = 0x5555550000;
  std::uint64_t data = code;
  if ((getauxval(AT_HWCAP) & HWCAP_PACA) == 0) return {code, data};
  asm(".arch_extension pauth\n pacia %0, %2\n pacda %1, %2\n"
      : "+r"(code), "+r"(data)
      : "r"(std::uint64_t{42}));
  return {code, data};
}

Registers random_registers(std::mt19937_64& random) {
  Registers registers;
  for (std::uint64_t& word : registers.vectors) word = random();
  for (std::uint64_t& word : registers.predicates) word = random();
  return registers;
}

void check_vectors(std::mt19937_64& random) {
  const Registers in = random_registers(random);
  Registers out = in;  // what the processor does not have stays equal
  if (has_sve()) {
    hold_sve(in, out, kSpins);
  } else {
    hold_simd(in, out, kSpins);
  }
  for (std::size_t i = 0; i < in.vectors.size(); ++i) {
    expect(in.vectors[i] == out.vectors[i],
           "word " + std::to_string(i) + " of the vectors changed");
  }
  expect(in.predicates == out.predicates, "a predicate changed");
}

void work(int index) {
  std::mt19937_64 random(index + 1);
  const auto signed_first = signatures();
  while (!stop) {
    check_vectors(random);
    expect(hold_control(kSpins) == kControl, "the floating point control register changed");
    expect(signatures() == signed_first, "the keys that sign pointers changed");
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
  std::vector<std::thread> threads;
  std::thread interrupted;
  std::thread interrupter;
  return selfcheck::run_workload(
      argc, argv,
      [&] {
        for (int index = 0; index < count; ++index) threads.emplace_back(work, index);
        for (int index = 0; index < count; ++index) {
          while (rounds[index] == 0) selfcheck::sleep_ms(1);
        }
        interrupted = std::thread(hold_interrupted);
        interrupter = std::thread(interrupt, interrupted.native_handle());
        while (handled == 0) selfcheck::sleep_ms(1);
      },
      [] {},
      [&] {
        stop = true;
        for (std::thread& thread : threads) thread.join();
        interrupter.join();  // signals the other, which must be there
        interrupted.join();
      });
}
