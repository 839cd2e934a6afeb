// A heap and an address space that never rest: malloc and free of all sizes, which move the break
// up and down, mmap, mremap and munmap, on several threads, every byte checked before it is given
// back.
#include <malloc.h>
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

constexpr size_t kPageBytes = 4096;
constexpr int kThreads = 3;

class Churn {
 public:
  explicit Churn(uint64_t seed) : state_(seed), blocks_(200) {}
  ~Churn() {
    for (Block& block : blocks_) give_back(block);
  }

  void turn() {
    for (int i = 0; i < 20; ++i) {
      Block& block = blocks_[random() % blocks_.size()];
      check(block);
      if (block.mapped && random() % 2 == 0) {
        resize(block);
      } else {
        give_back(block);
        take(block);
      }
    }
  }

  void check_all() {
    for (Block& block : blocks_) check(block);
  }

 private:
  struct Block {
    unsigned char* data = nullptr;
    size_t bytes = 0;
    uint64_t seed = 0;
    bool mapped = false;
  };

  uint64_t random() {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return state_;
  }

  static unsigned char value(const Block& block, size_t at) {
    return static_cast<unsigned char>((block.seed >> (at % 56)) + at * 31);
  }

  static void fill(Block& block, size_t from) {
    for (size_t at = from; at < block.bytes; ++at) block.data[at] = value(block, at);
  }

  void take(Block& block) {
    block.seed = random();
    block.mapped = random() % 3 == 0;
    if (block.mapped) {
      block.bytes = (1 + random() % 16) * kPageBytes;
      void* area =
          mmap(nullptr, block.bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      expect(area != MAP_FAILED, "mmap failed");
      block.data = static_cast<unsigned char*>(area);
    } else {
      block.bytes = 16 + random() % (random() % 8 == 0 ? 100'000 : 3000);
      block.data = static_cast<unsigned char*>(malloc(block.bytes));
      expect(block.data != nullptr, "malloc failed");
    }
    fill(block, 0);
  }

  void resize(Block& block) {
    const size_t bytes = (1 + random() % 16) * kPageBytes;
    void* area = mremap(block.data, block.bytes, bytes, MREMAP_MAYMOVE);
    expect(area != MAP_FAILED, "mremap failed");
    block.data = static_cast<unsigned char*>(area);
    const size_t before = block.bytes;
    block.bytes = bytes;
    fill(block, std::min(before, bytes));
  }

  static void give_back(Block& block) {
    if (block.mapped) {
      munmap(block.data, block.bytes);
    } else {
      free(block.data);
    }
    block = {};
  }

  static void check(const Block& block) {
    for (size_t at = 0; at < block.bytes; ++at) {
      if (block.data[at] != value(block, at)) {
        selfcheck::give_up(std::string(block.mapped ? "mapped" : "allocated") + " byte " +
                           std::to_string(at) + " of " + std::to_string(block.bytes) + " is wrong");
      }
    }
  }

  uint64_t state_;
  std::vector<Block> blocks_;
};

}  // namespace

int main(int argc, char** argv) {
  std::atomic<bool> stop = false;
  std::vector<std::thread> threads;
  Churn own(0x1234567);
  const auto set_up = [&] {
    // The main thread's heap lives at the program break: let that go up and down all the time.
    mallopt(M_TRIM_THRESHOLD, kPageBytes);
    mallopt(M_MMAP_THRESHOLD, 1 << 20);
    mallopt(M_TOP_PAD, 0);
    own.turn();
    for (int i = 0; i < kThreads; ++i) {
      threads.emplace_back([&stop, i] {
        Churn churn(0x9E3779B9u + static_cast<uint64_t>(i));
        while (!stop) {
          churn.turn();
          selfcheck::sleep_ms(1);
        }
        churn.check_all();
      });
    }
  };
  const auto final_check = [&] {
    stop = true;
    for (std::thread& thread : threads) thread.join();
    own.check_all();
  };
  return selfcheck::run_workload(
      argc, argv, set_up, [&] { own.turn(); }, final_check);
}
