// Changes of memory that leave little or no trace in the page tables that trackers of written pages
// look at: areas that are new, moved with their page tables, or merged; pages that are given back
// and then read; pages in swap; a process's own copies of a file's pages; shared memory that is
// written and unmapped; huge pages. Each page is compared with what it must hold, all the time.
#include <sys/mman.h>
#include <sys/syscall.h>

#include <array>
#include <cstdlib>
#include <memory>
#include <vector>

#include "integration/workloads/selfcheck.h"

namespace {

using selfcheck::expect;
using selfcheck::must;

constexpr size_t kPageBytes = 4096;
constexpr size_t kTableBytes = 2 << 20;  // what one page table describes, and one huge page
constexpr size_t kWords = kPageBytes / sizeof(uint64_t);

uint64_t next_random() {
  static uint64_t state = 1;
  state = state * 6364136223846793005u + 1442695040888963407u;
  return state >> 33;
}

char* map(size_t bytes, int flags, int fd = -1) {
  void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, flags, fd, 0);
  expect(at != MAP_FAILED, std::string("mmap: ") + strerror(errno));
  return static_cast<char*>(at);
}

char* map_private(size_t bytes) { return map(bytes, MAP_PRIVATE | MAP_ANONYMOUS); }

// Memory at a multiple of kTableBytes. What surrounds it is given back.
char* map_aligned(size_t bytes) {
  char* whole = map_private(bytes + kTableBytes);
  const auto address = reinterpret_cast<uintptr_t>(whole);
  const size_t before = (kTableBytes - address % kTableBytes) % kTableBytes;
  if (before > 0) munmap(whole, before);
  munmap(whole + before + bytes, kTableBytes - before);
  return whole + before;
}

// Pages of which each holds one value in every word, or zeros.
class Pages {
 public:
  Pages(char* memory, size_t bytes, std::string name)
      : memory_(memory), values_(bytes / kPageBytes), name_(std::move(name)) {}

  char* memory() const { return memory_; }
  size_t any() const { return next_random() % values_.size(); }
  char* at(size_t page) const { return memory_ + page * kPageBytes; }

  void write(size_t page) {
    const uint64_t value = next_random() | 1;
    auto* words = reinterpret_cast<uint64_t*>(at(page));
    for (size_t i = 0; i < kWords; ++i) words[i] = value;
    values_[page] = value;
  }
  void write_all() {
    for (size_t page = 0; page < values_.size(); ++page) write(page);
  }
  // The page holds `value` now, by whatever means.
  void became(size_t page, uint64_t value) { values_[page] = value; }
  uint64_t value(size_t page) const { return values_[page]; }

  void check(size_t page) const {
    const volatile auto* words = reinterpret_cast<uint64_t*>(at(page));
    for (const size_t i : {size_t{0}, kWords / 2, kWords - 1}) {
      selfcheck::expect_equal(
          words[i], values_[page],
          name_ + ": page " + std::to_string(page) + " word " + std::to_string(i));
    }
  }
  void check_all() const {
    for (size_t page = 0; page < values_.size(); ++page) check(page);
  }

 private:
  char* memory_;
  std::vector<uint64_t> values_;
  std::string name_;
};

class HiddenWrites {
 public:
  HiddenWrites()
      : given_back_(map_private(kSmallBytes), kSmallBytes, "given back"),
        huge_(map_aligned(kTableBytes), kTableBytes, "huge page"),
        left_(map_aligned(kTableBytes), kTableBytes, "exchanged"),
        right_(map_aligned(kTableBytes), kTableBytes, "exchanged too"),
        room_(map_aligned(kTableBytes)),
        swapped_(map_private(kSmallBytes), kSmallBytes, "swapped"),
        shared_(map(kSmallBytes, MAP_SHARED | MAP_ANONYMOUS), kSmallBytes, "shared"),
        merged_(map_private(2 * kSmallBytes), 2 * kSmallBytes, "merged"),
        file_(map_file(), kFileBytes, "copies of a file") {
    madvise(huge_.memory(), kTableBytes, MADV_HUGEPAGE);
    for (size_t page = 0; page < first_words_.size(); ++page) {
      first_words_[page] = *first_word_of(page);
    }
    for (Pages* pages : all()) pages->write_all();
    file_.write_all();
  }

  void turn() {
    give_back_and_read();
    exchange_tables();
    page_out();
    unmap_shared();
    split_and_merge();
    copy_of_file();
    new_area();
    huge_.write(huge_.any());
    for (Pages* pages : all()) pages->check(pages->any());
  }

  void check_all() {
    for (Pages* pages : all()) pages->check_all();
    for (size_t page = 0; page < first_words_.size(); ++page) {
      if (page != shown_) file_.check(page);
    }
  }

 private:
  static constexpr size_t kSmallBytes = 64 * kPageBytes;
  static constexpr size_t kFileBytes = 4 * kPageBytes;

  std::array<Pages*, 7> all() {
    return {&given_back_, &huge_, &left_, &right_, &swapped_, &shared_, &merged_};
  }

  // Of the program itself, which both hosts have.
  static char* map_file() {
    const int fd = must(open("/proc/self/exe", O_RDONLY | O_CLOEXEC), "open the program");
    char* at = map(kFileBytes, MAP_PRIVATE, fd);
    close(fd);
    return at;
  }

  // It reads as the kernel's page of zeros then, which is there and was not written.
  void give_back_and_read() {
    const size_t page = given_back_.any();
    if (next_random() % 2 == 0) {
      given_back_.write(page);
      return;
    }
    must(madvise(given_back_.at(page), kPageBytes, MADV_DONTNEED), "MADV_DONTNEED");
    given_back_.became(page, 0);
    given_back_.check(page);
  }

  // Three moves of whole page tables; nothing is written, and the areas are where they were.
  void exchange_tables() {
    left_.write(left_.any());
    right_.write(right_.any());
    move(left_.memory(), room_);
    move(right_.memory(), left_.memory());
    move(room_, right_.memory());
    void* room = mmap(room_, kTableBytes, PROT_NONE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    expect(room == room_, std::string("mmap of the room: ") + strerror(errno));
    for (size_t page = 0; page < kTableBytes / kPageBytes; ++page) {
      const uint64_t value = left_.value(page);
      left_.became(page, right_.value(page));
      right_.became(page, value);
    }
  }
  static void move(char* from, char* to) {
    void* at = mremap(from, kTableBytes, kTableBytes, MREMAP_MAYMOVE | MREMAP_FIXED, to);
    expect(at == to, std::string("mremap: ") + strerror(errno));
  }

  void page_out() {
    swapped_.write(swapped_.any());
    must(madvise(swapped_.at(swapped_.any()), kPageBytes, MADV_PAGEOUT), "MADV_PAGEOUT");
  }

  // The page stays in the object; its entry in the page table goes, and comes back unwritten.
  void unmap_shared() {
    const size_t page = shared_.any();
    shared_.write(page);
    must(madvise(shared_.at(page), kPageBytes, MADV_DONTNEED), "MADV_DONTNEED of shared memory");
    if (next_random() % 2 == 0) shared_.check(page);
    const size_t emptied = shared_.any();
    must(madvise(shared_.at(emptied), kPageBytes, MADV_REMOVE), "MADV_REMOVE");
    shared_.became(emptied, 0);
  }

  // What divides two halves goes away again, and what joins them has been written meanwhile.
  void split_and_merge() {
    char* half = merged_.memory() + kSmallBytes;
    must(mprotect(half, kSmallBytes, PROT_READ), "mprotect");
    const size_t page = next_random() % (kSmallBytes / kPageBytes);
    merged_.write(page);
    must(mprotect(half, kSmallBytes, PROT_READ | PROT_WRITE), "mprotect");
    merged_.write(page + kSmallBytes / kPageBytes);
  }

  // A copy that is given back shows the file again, until the next turn.
  void copy_of_file() {
    if (shown_ < first_words_.size()) {
      selfcheck::expect_equal(*first_word_of(shown_), first_words_[shown_], "the file shows again");
      file_.write(shown_);
      shown_ = first_words_.size();
      return;
    }
    shown_ = file_.any();
    must(madvise(file_.at(shown_), kPageBytes, MADV_DONTNEED), "MADV_DONTNEED of a file's page");
  }
  volatile uint64_t* first_word_of(size_t page) const {
    return reinterpret_cast<volatile uint64_t*>(file_.at(page));
  }

  // Where another one was a moment ago: it is gone, and the pages of the new one are others.
  void new_area() {
    void* at = mmap(merged_.memory(), kPageBytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    expect(at == merged_.memory(), std::string("mmap over: ") + strerror(errno));
    merged_.became(0, 0);
    if (next_random() % 2 == 0) merged_.write(0);
  }

  Pages given_back_, huge_, left_, right_;
  char* room_;
  Pages swapped_, shared_, merged_, file_;
  std::array<uint64_t, kFileBytes / kPageBytes> first_words_{};
  size_t shown_ = kFileBytes / kPageBytes;  // the page whose copy was given back
};

}  // namespace

int main(int argc, char** argv) {
  std::unique_ptr<HiddenWrites> writes;
  return selfcheck::run_workload(
      argc, argv, [&] { writes = std::make_unique<HiddenWrites>(); }, [&] { writes->turn(); },
      [&] { writes->check_all(); });
}
