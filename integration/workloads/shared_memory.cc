// Shared memory inside one process: an anonymous object mapped three times (once from its middle)
// and a regular file mapped shared. What is written through one must be seen through the others.
//
//   workload STATUS-FILE STOP-FILE [no-file]
//
// With no-file it needs no storage that both hosts share.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <cstdint>
#include <string>
#include <vector>

#include "integration/workloads/selfcheck.h"

namespace {

using selfcheck::expect;
using selfcheck::expect_equal;
using selfcheck::must;

constexpr size_t kPageBytes = 4096;
constexpr size_t kPages = 256;
constexpr size_t kBytes = kPages * kPageBytes;
constexpr size_t kMiddle = 64 * kPageBytes;

uint64_t* mapped(void* address, const char* what) {
  expect(address != MAP_FAILED, std::string(what) + ": " + strerror(errno));
  return static_cast<uint64_t*>(address);
}

class SharedMemory {
 public:
  explicit SharedMemory(bool has_file) : has_file_(has_file) {}

  void set_up() {
    first_ =
        mapped(mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0),
               "mmap of shared memory");
    // mremap with an old size of 0 makes another mapping of the same object.
    second_ = mapped(mremap(first_, 0, kBytes, MREMAP_MAYMOVE), "mremap of the whole");
    middle_ =
        mapped(mremap(first_ + kMiddle / sizeof(uint64_t), 0, kBytes - kMiddle, MREMAP_MAYMOVE),
               "mremap of the middle");
    must(mprotect(middle_, kBytes - kMiddle, PROT_READ), "mprotect");
    if (has_file_) set_up_file();
    // Only in the object: written, then unmapped from every view but the last pages' own.
    for (size_t page = 0; page < kPages; page += 2) write_page(page);
  }

  void set_up_file() {
    file_ = must(open("shared-file", O_RDWR | O_CREAT | O_CLOEXEC, 0600), "open shared-file");
    must(ftruncate(file_, kBytes), "ftruncate");
    file_memory_ = mapped(mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED, file_, 0),
                          "mmap of the file");
    must(fstat(file_, &identity_), "fstat");
  }

  void turn() {
    for (int i = 0; i < 4; ++i) write_page((turns_ * 7 + i * 64) % kPages);
    ++turns_;
    const size_t page = (turns_ * 13) % kPages;
    check_page(page);
    drop_and_check(page);
  }

  void final_check() {
    for (size_t page = 0; page < kPages; ++page) check_page(page);
    if (!has_file_) return;
    struct stat now {};
    must(fstat(file_, &now), "fstat");
    expect_equal(now.st_ino, identity_.st_ino, "the file is another one");
    unlink("shared-file");
  }

 private:
  static size_t word_of(size_t page) { return page * kPageBytes / sizeof(uint64_t) + page % 512; }

  // Alternately through the first and the second view; the file gets the same value.
  void write_page(size_t page) {
    const uint64_t value = ++versions_[page] * 0x9E3779B97F4A7C15u + page;
    (value % 2 == 0 ? first_ : second_)[word_of(page)] = value;
    if (has_file_) file_memory_[word_of(page)] = value;
  }

  uint64_t wanted(size_t page) const {
    return versions_[page] == 0 ? 0 : versions_[page] * 0x9E3779B97F4A7C15u + page;
  }

  void check_page(size_t page) {
    const size_t word = word_of(page);
    const std::string where = " of page " + std::to_string(page);
    expect_equal(first_[word], wanted(page), "the first view" + where);
    expect_equal(second_[word], wanted(page), "the second view" + where);
    if (page * kPageBytes >= kMiddle) {
      expect_equal(middle_[word - kMiddle / sizeof(uint64_t)], wanted(page), "the middle" + where);
    }
    if (!has_file_) return;
    expect_equal(file_memory_[word], wanted(page), "the file's mapping" + where);
    uint64_t read = 0;
    must(pread(file_, &read, sizeof read, static_cast<off_t>(word * sizeof read)), "pread");
    expect_equal(read, wanted(page), "the file itself" + where);
  }

  // The object keeps its data when no page table shows it.
  void drop_and_check(size_t page) {
    const size_t start = page * kPageBytes / sizeof(uint64_t);
    must(madvise(first_ + start, kPageBytes, MADV_DONTNEED), "MADV_DONTNEED");
    must(madvise(second_ + start, kPageBytes, MADV_DONTNEED), "MADV_DONTNEED");
    if (turns_ % 2 == 0) check_page(page);
  }

  bool has_file_;
  uint64_t* first_ = nullptr;
  uint64_t* second_ = nullptr;
  uint64_t* middle_ = nullptr;
  uint64_t* file_memory_ = nullptr;
  int file_ = -1;
  struct stat identity_ {};
  std::vector<uint64_t> versions_ = std::vector<uint64_t>(kPages);
  size_t turns_ = 0;
};

}  // namespace

int main(int argc, char** argv) {
  const bool has_file = argc != 4 || std::string(argv[3]) != "no-file";
  SharedMemory memory(has_file);
  return selfcheck::run_workload(
      has_file ? argc : 3, argv, [&] { memory.set_up(); }, [&] { memory.turn(); },
      [&] { memory.final_check(); });
}
