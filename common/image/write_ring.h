// Writes that go on while the next block is filled: io_uring(7), by liburing. Where the kernel
// gives no ring (kernel.io_uring_disabled, an old kernel) each write is a pwrite(2) that is waited
// for.
//
// The ring is made before a sandbox is entered and can then do nothing but write
// (IORING_REGISTER_RESTRICTIONS). Thread: one at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "common/image/page_index.h"

namespace godwit {

class WriteRing {
 public:
  static constexpr unsigned kWrites = 8;  // at a time, a block each

  WriteRing();  // never fails: see has_ring()
  ~WriteRing();
  WriteRing(const WriteRing&) = delete;
  WriteRing& operator=(const WriteRing&) = delete;

  bool has_ring() const { return ring_ != nullptr; }
  // An unused buffer of kBlockBytesMax, aligned for O_DIRECT; waits for one.
  std::span<std::byte> room();
  // Writes the first `bytes` (whole kBlockAlignment) of what room() gave last. Throws Error, with
  // errno as its code, when this or an earlier write failed.
  void write(int fd, std::uint64_t offset, std::size_t bytes);
  // Until every write has ended.
  void drain();

 private:
  struct Ring;
  struct Slot;
  void finish(Slot& slot, std::int64_t result);
  void await_one();

  std::unique_ptr<Ring> ring_;
  std::vector<std::unique_ptr<Slot>> slots_;
  Slot* filling_ = nullptr;
};

}  // namespace godwit
