#include "common/base/steady_heap.h"

#include <malloc.h>

#include <cstddef>
#include <cstdlib>

namespace godwit {

void keep_heap_steady() {
  constexpr std::size_t kReserveBytes = 3 << 20;
  constexpr std::size_t kHolesBytes = 2 << 20;
  constexpr int kKeptBytes = 64 << 20;
  constexpr std::size_t kPageStep = 4096;
  // Of holes between what is used some are good to have, and many are only resident.
  const auto heap = ::mallinfo2();
  if (heap.fordblks - heap.keepcost > kHolesBytes) give_heap_back();
  mallopt(M_TRIM_THRESHOLD, kKeptBytes);
  mallopt(M_MMAP_THRESHOLD, kKeptBytes / 2);
  auto* reserve = static_cast<volatile char*>(std::malloc(kReserveBytes));
  if (reserve == nullptr) return;
  for (std::size_t at = 0; at < kReserveBytes; at += kPageStep) reserve[at] = 0;
  std::free(const_cast<char*>(reserve));
}

void give_heap_back() { ::malloc_trim(0); }

}  // namespace godwit
