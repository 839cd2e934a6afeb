#include "common/image/write_ring.h"

#include <liburing.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>

#include "common/base/error.h"

namespace godwit {
namespace {

struct FreeBuffer {
  void operator()(std::byte* buffer) const { std::free(buffer); }
};

}  // namespace

struct WriteRing::Ring {
  io_uring ring{};
  ~Ring() { io_uring_queue_exit(&ring); }

  // False: this kernel has no ring that can be restricted.
  bool restrict_to_writes() {
    std::array<io_uring_restriction, 2> allowed{};
    allowed[0].opcode = IORING_RESTRICTION_SQE_OP;
    allowed[0].sqe_op = IORING_OP_WRITE;
    allowed[1].opcode = IORING_RESTRICTION_REGISTER_OP;
    allowed[1].register_op = IORING_REGISTER_ENABLE_RINGS;
    // The library of Debian 12 declares both calls and has neither.
    return ask(IORING_REGISTER_RESTRICTIONS, allowed.data(), allowed.size()) &&
           ask(IORING_REGISTER_ENABLE_RINGS, nullptr, 0);
  }

  bool ask(unsigned what, const void* argument, std::size_t count) {
    return ::syscall(SYS_io_uring_register, ring.ring_fd, what, argument, count) == 0;
  }
};

struct WriteRing::Slot {
  std::unique_ptr<std::byte, FreeBuffer> buffer;
  int fd = -1;
  std::uint64_t offset = 0;
  std::size_t bytes = 0;
  bool busy = false;
};

WriteRing::WriteRing() {
  auto ring = std::make_unique<Ring>();
  if (io_uring_queue_init(kWrites, &ring->ring, IORING_SETUP_R_DISABLED) == 0) {
    if (ring->restrict_to_writes()) ring_ = std::move(ring);
  } else {
    ring.release();  // never made: nothing to exit
  }
  for (unsigned i = 0; i < kWrites; ++i) {
    auto slot = std::make_unique<Slot>();
    slot->buffer.reset(
        static_cast<std::byte*>(std::aligned_alloc(kBlockAlignment, kBlockBytesMax)));
    if (!slot->buffer) fail("write buffers: no memory");
    slots_.push_back(std::move(slot));
  }
}

WriteRing::~WriteRing() {
  try {
    drain();
  } catch (const Error&) {
    return;  // told when it was waited for, or of no interest to anybody any more
  }
}

std::span<std::byte> WriteRing::room() {
  for (;;) {
    const auto unused =
        std::find_if(slots_.begin(), slots_.end(), [](const auto& slot) { return !slot->busy; });
    if (unused != slots_.end()) {
      filling_ = unused->get();
      return {filling_->buffer.get(), kBlockBytesMax};
    }
    await_one();
  }
}

// What a short write left, or all of it, is written here: a disk that is full says so then.
void WriteRing::finish(Slot& slot, std::int64_t result) {
  slot.busy = false;
  std::size_t done = 0;
  while (result != static_cast<std::int64_t>(slot.bytes - done)) {
    if (result < 0 && result != -EINTR && result != -EAGAIN) {
      throw_errno(static_cast<int>(-result),
                  fmt::format("write {} bytes at offset {}", slot.bytes, slot.offset));
    }
    if (result == 0) throw_errno(ENOSPC, fmt::format("write at offset {}", slot.offset + done));
    if (result > 0) done += static_cast<std::size_t>(result) / kBlockAlignment * kBlockAlignment;
    const ssize_t wrote = ::pwrite(slot.fd, slot.buffer.get() + done, slot.bytes - done,
                                   static_cast<off_t>(slot.offset + done));
    result = wrote >= 0 ? wrote : -errno;
  }
}

void WriteRing::await_one() {
  io_uring_cqe* completion = nullptr;
  int code = 0;
  do {
    code = io_uring_wait_cqe(&ring_->ring, &completion);
  } while (code == -EINTR);
  if (code < 0) throw_errno(-code, "wait for writes");
  Slot& slot = *static_cast<Slot*>(io_uring_cqe_get_data(completion));
  const int result = completion->res;
  io_uring_cqe_seen(&ring_->ring, completion);
  finish(slot, result);
}

void WriteRing::write(int fd, std::uint64_t offset, std::size_t bytes) {
  Slot& slot = *filling_;
  slot.fd = fd;
  slot.offset = offset;
  slot.bytes = bytes;
  slot.busy = true;
  if (ring_ == nullptr) return finish(slot, -EAGAIN);
  io_uring_sqe* request = io_uring_get_sqe(&ring_->ring);
  if (request == nullptr) fail("no room for a write");
  io_uring_prep_write(request, fd, slot.buffer.get(), static_cast<unsigned>(bytes), offset);
  io_uring_sqe_set_data(request, &slot);
  const int submitted = io_uring_submit(&ring_->ring);
  if (submitted < 0) {
    slot.busy = false;
    throw_errno(-submitted, fmt::format("write {} bytes at offset {}", bytes, offset));
  }
}

void WriteRing::drain() {
  while (ring_ != nullptr &&
         std::any_of(slots_.begin(), slots_.end(), [](const auto& slot) { return slot->busy; })) {
    await_one();
  }
}

}  // namespace godwit
