// huge_pages: memory of transparent huge pages, written page by page and read back, all the time.
// Whether it is made of huge pages after a move is looked at from outside.
#include <sys/mman.h>

#include <cstring>
#include <random>

#include "integration/workloads/selfcheck.h"

using selfcheck::expect;

namespace {

constexpr std::size_t kPage = 4096;
constexpr std::size_t kHuge = 2 << 20;
constexpr std::size_t kBytes = 16 * kHuge;
constexpr std::size_t kPages = kBytes / kPage;

struct Memory {
  std::uint64_t* start = nullptr;
  std::vector<std::uint64_t> written = std::vector<std::uint64_t>(kPages);  // what each page has
  std::mt19937 random{11};
};

std::uint64_t& word(Memory& memory, std::size_t page) {
  return memory.start[page * kPage / sizeof(std::uint64_t)];
}

void write_page(Memory& memory, std::size_t page, std::uint64_t value) {
  memory.written[page] = value;
  word(memory, page) = value;
  (&word(memory, page))[kPage / sizeof(std::uint64_t) - 1] = ~value;
}

void check_page(Memory& memory, std::size_t page) {
  const std::uint64_t value = memory.written[page];
  expect(word(memory, page) == value &&
             (&word(memory, page))[kPage / sizeof(std::uint64_t) - 1] == ~value,
         "page " + std::to_string(page) + " is not what was written to it");
}

void set_up(Memory& memory) {
  void* room =
      mmap(nullptr, kBytes + kHuge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  expect(room != MAP_FAILED, "mmap");
  const auto at = (reinterpret_cast<std::uintptr_t>(room) + kHuge - 1) / kHuge * kHuge;
  memory.start = reinterpret_cast<std::uint64_t*>(at);
  madvise(memory.start, kBytes, MADV_HUGEPAGE);
  for (std::size_t page = 0; page < kPages; ++page) write_page(memory, page, memory.random());
}

void turn(Memory& memory) {
  // Every other huge page is left alone.
  const std::size_t page = memory.random() % kPages;
  if (page * kPage / kHuge % 2 == 0) write_page(memory, page, memory.random());
  check_page(memory, memory.random() % kPages);
}

void final_check(Memory& memory) {
  for (std::size_t page = 0; page < kPages; ++page) check_page(memory, page);
}

}  // namespace

int main(int argc, char** argv) {
  Memory memory;
  return selfcheck::run_workload(
      argc, argv, [&] { set_up(memory); }, [&] { turn(memory); }, [&] { final_check(memory); });
}
