// Random pages that threads rewrite, patch and discard all the time, each one checked against what
// it must hold.
//   workload_memory_checker STATUS-FILE STOP-FILE [MIB [THREADS [WRITES-PER-SECOND]]]
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "integration/workloads/selfcheck.h"

namespace {

using selfcheck::expect;
using selfcheck::give_up;

constexpr size_t kPageBytes = 4096;
constexpr size_t kWords = kPageBytes / sizeof(uint64_t);

uint64_t mix(uint64_t value) {
  value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9u;
  value = (value ^ (value >> 27)) * 0x94D049BB133111EBu;
  return value ^ (value >> 31);
}

// What a page must hold. version 0: zeroes.
struct Expected {
  uint32_t version = 0;
  uint32_t patches = 0;  // added to word 7
};

// The pages of one thread.
class Slice {
 public:
  Slice(uint64_t* memory, size_t pages, uint64_t seed)
      : memory_(memory), expected_(pages), seed_(seed), state_(seed) {
    // The last sixteenth is left untouched: it must read as zeroes for ever, or until a write.
    for (size_t page = 0; page < pages - pages / 16; ++page) rewrite(page);
  }

  void work(int writes, int checks) {
    for (int i = 0; i < writes; ++i) {
      const size_t page = random() % expected_.size();
      check(page);
      switch (random() % 16) {
        case 0:
          discard(page);
          break;
        case 1:
        case 2:
        case 3:
        case 4:
          word(page, 7) += 1;
          ++expected_[page].patches;
          break;
        default:
          rewrite(page);
      }
    }
    for (int i = 0; i < checks; ++i) {
      check(sweep_);
      sweep_ = (sweep_ + 1) % expected_.size();
    }
  }

  void check_all() {
    for (size_t page = 0; page < expected_.size(); ++page) check(page);
  }

 private:
  uint64_t random() { return mix(state_ += 0x9E3779B97F4A7C15u); }
  uint64_t& word(size_t page, size_t index) { return memory_[page * kWords + index]; }

  uint64_t wanted(size_t page, size_t index) const {
    const Expected& expected = expected_[page];
    const uint64_t base =
        expected.version == 0 ? 0 : mix(seed_ ^ (page << 32) ^ expected.version ^ (index << 52));
    return base + (index == 7 ? expected.patches : 0);
  }

  void rewrite(size_t page) {
    ++expected_[page].version;
    expected_[page].patches = 0;
    for (size_t index = 0; index < kWords; ++index) word(page, index) = wanted(page, index);
  }

  void discard(size_t page) {
    selfcheck::must(madvise(memory_ + page * kWords, kPageBytes, MADV_DONTNEED), "MADV_DONTNEED");
    expected_[page] = {};
  }

  void check(size_t page) {
    for (size_t index = 0; index < kWords; ++index) {
      if (word(page, index) != wanted(page, index)) {
        give_up("page " + std::to_string(page) + " word " + std::to_string(index) + " version " +
                std::to_string(expected_[page].version) + " is wrong");
      }
    }
  }

  uint64_t* memory_;
  std::vector<Expected> expected_;
  uint64_t seed_;
  uint64_t state_;
  size_t sweep_ = 0;
};

}  // namespace

int main(int argc, char** argv) {
  const size_t mib = argc > 3 ? strtoul(argv[3], nullptr, 10) : 64;
  const size_t threads = argc > 4 ? strtoul(argv[4], nullptr, 10) : 2;
  const int writes_per_s = argc > 5 ? atoi(argv[5]) : 5000;
  const size_t pages_each = (mib << 20) / kPageBytes / threads;
  std::vector<Slice> slices;
  std::vector<std::thread> running;
  std::atomic<bool> stop = false;

  const auto set_up = [&] {
    void* memory = mmap(nullptr, mib << 20, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    expect(memory != MAP_FAILED, "mmap failed");
    for (size_t i = 0; i < threads; ++i) {
      slices.emplace_back(static_cast<uint64_t*>(memory) + i * pages_each * kWords, pages_each,
                          mix(i + 1));
    }
    const int writes = writes_per_s / static_cast<int>(threads) / 200;
    for (Slice& slice : slices) {
      running.emplace_back([&slice, &stop, writes] {
        while (!stop) {
          slice.work(writes, 40);
          selfcheck::sleep_ms(5);
        }
      });
    }
  };
  const auto final_check = [&] {
    stop = true;
    for (std::thread& thread : running) thread.join();
    for (Slice& slice : slices) slice.check_all();
  };
  return selfcheck::run_workload(
      std::min(argc, 3), argv, set_up, [] {}, final_check);
}
