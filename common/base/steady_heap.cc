#include "common/base/steady_heap.h"

#include <malloc.h>

#include <cstdlib>

namespace godwit {

void keep_heap_steady(std::size_t bytes) {
  constexpr int kKeptBytes = 64 << 20;
  constexpr std::size_t kPageStep = 4096;
  mallopt(M_TRIM_THRESHOLD, kKeptBytes);
  mallopt(M_MMAP_THRESHOLD, kKeptBytes / 2);
  auto* reserve = static_cast<volatile char*>(std::malloc(bytes));
  if (reserve == nullptr) return;
  for (std::size_t at = 0; at < bytes; at += kPageStep) reserve[at] = 0;
  std::free(const_cast<char*>(reserve));
}

}  // namespace godwit
