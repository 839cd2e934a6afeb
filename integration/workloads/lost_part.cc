// Memory of which a part may be lost for good: what is touched all the time goes on whatever
// becomes of the rest. SIGUSR1: a thread walks over the rest and reports "WALKED RIGHT LOST",
// counting pages that it was sent SIGBUS for; all others must be right. At the end the same is done
// again.
//   workload_lost_part STATUS-FILE STOP-FILE [MIB]
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <string>

#include "integration/workloads/selfcheck.h"

namespace {

using selfcheck::expect;
using selfcheck::give_up;

constexpr size_t kPageBytes = 4096;
constexpr size_t kWords = kPageBytes / sizeof(uint64_t);
constexpr size_t kHotPages = 64;
constexpr size_t kStackBytes = 256 << 10;

volatile sig_atomic_t walk_wanted = 0;
thread_local sigjmp_buf lost_page;

void on_sigbus(int) { siglongjmp(lost_page, 1); }
void on_sigusr1(int) { walk_wanted = 1; }

uint64_t wanted(size_t page, size_t word) { return (page + 1) * 0x9E3779B97F4A7C15u + word; }

struct Walk {
  size_t right = 0;
  size_t lost = 0;
};

class Memory {
 public:
  explicit Memory(size_t pages) : pages_(pages) {
    void* memory = mmap(nullptr, pages * kPageBytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    expect(memory != MAP_FAILED, "mmap failed");
    words_ = static_cast<volatile uint64_t*>(memory);
    selfcheck::must(mlock(memory, kHotPages * kPageBytes), "mlock");
    for (size_t page = 0; page < pages; ++page) {
      for (size_t word = 0; word < kWords; ++word)
        words_[page * kWords + word] = wanted(page, word);
    }
  }

  // Pages [from, to), which the calling thread may lose.
  void walk(size_t from, size_t to, Walk& walk) const {
    for (size_t page = from; page < to; ++page) {
      if (check(page)) {
        ++walk.right;
      } else {
        ++walk.lost;
      }
    }
  }
  size_t pages() const { return pages_; }

 private:
  // False: it is lost.
  bool check(size_t page) const {
    if (sigsetjmp(lost_page, 1) != 0) return false;
    for (size_t word = 0; word < kWords; ++word) {
      if (words_[page * kWords + word] != wanted(page, word)) {
        give_up("page " + std::to_string(page) + " word " + std::to_string(word) + " is wrong");
      }
    }
    return true;
  }

  size_t pages_;
  volatile uint64_t* words_ = nullptr;
};

void check_hot(const Memory& memory) {
  Walk hot;
  memory.walk(0, kHotPages, hot);
  expect(hot.lost == 0, "a page is lost that was there");
}

// A page stays lost: both walks of the rest come to the same.
void report_walk(const Memory& memory) {
  Walk walk;
  memory.walk(kHotPages, memory.pages(), walk);
  selfcheck::report("WALKED " + std::to_string(walk.right) + " " + std::to_string(walk.lost));
}

void lock_all() {
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    uintptr_t from = 0;
    uintptr_t to = 0;
    char protection[5] = "";
    expect(sscanf(line.c_str(), "%lx-%lx %4s", &from, &to, protection) == 3, "maps: " + line);
    if (protection[0] != 'r' || line.find("[v") != std::string::npos) continue;
    selfcheck::must(mlock(reinterpret_cast<void*>(from), to - from), "mlock " + line);
  }
}

struct Walker {
  std::atomic<Memory*> memory = nullptr;
  std::atomic<bool> stop = false;
  pthread_t thread{};

  static void* run(void* self) {
    static_cast<Walker*>(self)->work();
    return nullptr;
  }
  void work() {
    prctl(PR_SET_NAME, "walker");
    sigset_t none;
    sigemptyset(&none);
    pthread_sigmask(SIG_SETMASK, &none, nullptr);
    for (; !stop; selfcheck::sleep_ms(2)) {
      if (memory == nullptr) continue;
      check_hot(*memory);
      if (walk_wanted == 0) continue;
      walk_wanted = 0;
      report_walk(*memory);
    }
  }
};

// With a small stack; SIGUSR1 is for it.
void start(Walker& walker) {
  sigset_t walkers;
  sigemptyset(&walkers);
  sigaddset(&walkers, SIGUSR1);
  pthread_sigmask(SIG_BLOCK, &walkers, nullptr);
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, kStackBytes);
  expect(pthread_create(&walker.thread, &attributes, Walker::run, &walker) == 0, "pthread_create");
  pthread_attr_destroy(&attributes);
}

}  // namespace

int main(int argc, char** argv) {
  const size_t mib = argc > 3 ? strtoul(argv[3], nullptr, 10) : 16;
  Walker walker;

  const auto set_up = [&] {
    signal(SIGBUS, on_sigbus);
    signal(SIGUSR1, on_sigusr1);
    start(walker);
    // What the program itself needs is locked, and so never missing.
    lock_all();
    walker.memory = new Memory((mib << 20) / kPageBytes);
  };
  const auto final_check = [&] {
    walker.stop = true;
    pthread_join(walker.thread, nullptr);
    report_walk(*walker.memory);
  };
  return selfcheck::run_workload(
      std::min(argc, 3), argv, set_up, [&] { check_hot(*walker.memory); }, final_check);
}
