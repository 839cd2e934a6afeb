// Memory that shows whether it is that of one instant. Writers go round many pages, each with its
// own set, and write a number that grows with each page: at any instant the pages behind the place
// where a writer is hold this round's numbers, those before it the last round's, and nothing else
// is possible. A pair of counters, far apart, is written in strict order. Others fill memory anew
// and give it back, move it, fork, and read into it by system calls, with numbers that can be
// checked as well.
//   workload_one_instant STATUS-FILE STOP-FILE [MIB [forks | nobody]]
// forks: a child now and then. nobody: as a user without privileges.
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <sys/wait.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "integration/workloads/selfcheck.h"

namespace {

using selfcheck::expect;
using selfcheck::give_up;
using selfcheck::must;

constexpr size_t kPageBytes = 4096;
constexpr uid_t kNobody = 65534;
constexpr size_t kWords = kPageBytes / sizeof(uint64_t);

uint64_t* map(size_t bytes) {
  void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  expect(at != MAP_FAILED, std::string("mmap: ") + strerror(errno));
  return static_cast<uint64_t*>(at);
}

void store(uint64_t* at, uint64_t value) { __atomic_store_n(at, value, __ATOMIC_SEQ_CST); }
uint64_t load(const uint64_t* at) { return __atomic_load_n(at, __ATOMIC_SEQ_CST); }

// The restored process finds its threads in the middle of their work: each checks what the memory
// holds before it goes on, at each turn, against what it has in its registers and on its stack.
class Writer {
 public:
  virtual ~Writer() = default;
  virtual void turn() = 0;
};

// Page after page: number n goes to page n modulo their count, at both ends of the page.
class Sequence final : public Writer {
 public:
  Sequence(size_t pages, size_t stride_pages, uint64_t* memory)
      : pages_(pages), stride_(stride_pages * kWords), memory_(memory) {}

  void turn() override {
    for (int i = 0; i < 256; ++i) {
      uint64_t* page = memory_ + next_ % pages_ * stride_;
      store(page, next_);
      store(page + kWords - 1, next_);
      ++next_;
    }
    check();
  }

 private:
  // Number next_ - 1 was the last one: each page holds the greatest one of its own.
  void check() const {
    for (size_t page = 0; page < pages_; ++page) {
      const uint64_t last = next_ - 1;
      uint64_t wanted = last - (last + pages_ - page) % pages_;
      if (last < page) wanted = 0;
      const uint64_t* words = memory_ + page * stride_;
      const uint64_t first = load(words);
      const uint64_t end = load(words + kWords - 1);
      if (first != wanted || end != wanted) {
        give_up("page " + std::to_string(page) + " holds " + std::to_string(first) + " and " +
                std::to_string(end) + ", expected " + std::to_string(wanted) +
                ": not the memory of one instant");
      }
    }
  }

  size_t pages_;
  size_t stride_;
  uint64_t* memory_;
  uint64_t next_ = 1;
};

// A counter in page A, then in page B: A is B or one more, for whoever looks, B first.
struct Pair {
  uint64_t* a;
  uint64_t* b;
  void write() const {
    store(a, load(a) + 1);
    store(b, load(a));
  }
  void check() const {
    const uint64_t first = load(b);
    const uint64_t then = load(a);
    expect(then >= first, "the counter in the first page (" + std::to_string(then) +
                              ") is behind that in the second (" + std::to_string(first) + ")");
  }
  // At rest, when nobody writes: after the writer has looked itself.
  void check_between() const {
    const uint64_t one = load(a);
    const uint64_t other = load(b);
    expect(one == other,
           "a pair of counters differs: " + std::to_string(one) + " and " + std::to_string(other));
  }
};

class Pairs final : public Writer {
 public:
  Pairs(uint64_t* memory, size_t pages) {
    const size_t half = pages / 2;
    for (size_t i = 0; i < half; ++i) {
      pairs_.push_back({memory + i * kWords, memory + (half + (i * 7) % half) * kWords});
    }
  }
  // All pairs hold the same number, or are behind or in front of the one that is written.
  void turn() override {
    for (const Pair& pair : pairs_) pair.write();
    ++round_;
    for (const Pair& pair : pairs_) {
      pair.check_between();
      expect(load(pair.a) == round_, "a pair of counters missed a round");
    }
  }
  void look() const {
    for (const Pair& pair : pairs_) pair.check();
  }

 private:
  std::vector<Pair> pairs_;
  uint64_t round_ = 0;
};

// A block that is filled, compared, and given back: much of it is new at any instant.
class Refill final : public Writer {
 public:
  Refill(uint64_t* memory, size_t pages) : memory_(memory), pages_(pages) {}
  void turn() override {
    ++round_;
    for (size_t page = 0; page < pages_; ++page) store(memory_ + page * kWords, round_ + page);
    for (size_t page = 0; page < pages_; ++page) {
      expect(load(memory_ + page * kWords) == round_ + page, "a filled page changed");
    }
    const size_t part = round_ % 4 * (pages_ / 4);
    must(madvise(memory_ + part * kWords, pages_ / 4 * kPageBytes, MADV_DONTNEED), "DONTNEED");
    for (size_t page = part; page < part + pages_ / 4; ++page) {
      expect(load(memory_ + page * kWords) == 0, "a page that was given back is not empty");
    }
    if (round_ % 8 == 0) selfcheck::sleep_ms(5);
  }

 private:
  uint64_t* memory_;
  size_t pages_;
  uint64_t round_ = 0;
};

// A block that moves about with its content, and into which system calls write.
class Moving final : public Writer {
 public:
  explicit Moving(size_t pages) : bytes_(pages * kPageBytes), memory_(map(bytes_)) {
    must(uname(&names_), "uname");
    for (size_t page = 0; page < pages; ++page) store(memory_ + page * kWords, page + 1);
  }
  void turn() override {
    ++round_;
    uint64_t* place = map(bytes_);
    void* moved = mremap(memory_, bytes_, bytes_, MREMAP_MAYMOVE | MREMAP_FIXED, place);
    expect(moved == place, std::string("mremap: ") + strerror(errno));
    memory_ = place;
    const size_t pages = bytes_ / kPageBytes;
    for (size_t page = 0; page < pages; ++page) {
      expect(load(memory_ + page * kWords) == page + 1, "a page changed when it was moved");
    }
    auto* names = reinterpret_cast<utsname*>(memory_ + round_ % pages * kWords + 1);
    memset(names, 0, sizeof(*names));
    must(uname(names), "a system call that writes to the memory");
    expect(memcmp(names, &names_, sizeof(names_)) == 0, "a system call wrote something else");
    selfcheck::sleep_ms(3);
  }

 private:
  size_t bytes_;
  uint64_t* memory_;
  utsname names_{};
  uint64_t round_ = 0;
};

// Forks when it has just been stopped for a moment: a process with children is not saved. The child
// sees the pairs as they are when it is made, and writes to its own.
class Forks final : public Writer {
 public:
  Forks(const Pairs& pairs, uint64_t* memory) : pairs_(pairs), memory_(memory) {}
  void turn() override {
    constexpr int64_t kPauseNs = 1'500'000;
    constexpr int64_t kSeldomNs = 700'000'000;
    const int64_t before = selfcheck::now_ns(CLOCK_MONOTONIC);
    usleep(300);
    const int64_t now = selfcheck::now_ns(CLOCK_MONOTONIC);
    if (now - before < kPauseNs || now - last_ns_ < kSeldomNs) return;
    last_ns_ = now;
    const pid_t child = must(fork(), "fork");
    if (child == 0) {
      pairs_.look();
      for (size_t page = 0; page < 64; ++page) store(memory_ + page * kWords, UINT64_MAX);
      _exit(0);
    }
    int status = 0;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    expect(status == 0, "the child found its memory wrong");
  }

 private:
  const Pairs& pairs_;
  uint64_t* memory_;
  int64_t last_ns_ = 0;
};

}  // namespace

int main(int argc, char** argv) {
  const size_t mib = argc > 3 ? strtoul(argv[3], nullptr, 10) : 96;
  const size_t pages = (mib << 20) / kPageBytes;
  const std::string extra = argc > 4 ? argv[4] : "";
  std::vector<std::unique_ptr<Writer>> writers;
  std::vector<std::thread> running;
  std::atomic<bool> stop = false;
  const Pairs* pairs = nullptr;

  const auto set_up = [&] {
    if (extra == "nobody") {
      const int status = must(open(argv[1], O_WRONLY | O_CREAT | O_CLOEXEC, 0666), argv[1]);
      must(fchmod(status, 0666), "fchmod");
      close(status);
      must(setresuid(kNobody, kNobody, kNobody), "setresuid");
    }
    uint64_t* memory = map(pages * kPageBytes);
    memset(memory, 0, pages * kPageBytes);
    // Two sequences with interleaved pages, spread over a half of the memory.
    constexpr size_t kSpread = 512;
    const size_t stride = std::max<size_t>(pages / 2 / kSpread, 4);
    writers.push_back(std::make_unique<Sequence>(kSpread, stride, memory));
    writers.push_back(std::make_unique<Sequence>(kSpread, stride, memory + 2 * kWords));
    auto made = std::make_unique<Pairs>(memory + pages / 2 * kWords, pages / 4);
    pairs = made.get();
    writers.push_back(std::make_unique<Refill>(memory + pages / 4 * 3 * kWords, pages / 4));
    writers.push_back(std::make_unique<Moving>(256));
    if (extra == "forks")
      writers.push_back(std::make_unique<Forks>(*made, memory + pages / 2 * kWords));
    writers.push_back(std::move(made));
    for (const auto& writer : writers) {
      running.emplace_back([&writer = *writer, &stop] {
        while (!stop) writer.turn();
      });
    }
  };
  const auto final_check = [&] {
    stop = true;
    for (std::thread& thread : running) thread.join();
    pairs->look();
  };
  return selfcheck::run_workload(
      std::min(argc, 3), argv, set_up, [&] { pairs->look(); }, final_check);
}
