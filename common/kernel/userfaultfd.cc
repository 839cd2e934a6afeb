#include "common/kernel/userfaultfd.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

namespace godwit {
namespace {

// `done` holds the bytes done, or the negative errno when there were none. The ioctl itself answers
// EAGAIN for every partial one.
CopyOutcome outcome_of(std::int64_t done, int code) {
  if (done > 0) return {static_cast<std::uint64_t>(done), EAGAIN};
  return {0, done < 0 ? static_cast<int>(-done) : code};
}

}  // namespace

UniqueFd make_userfaultfd() {
  UniqueFd uffd(static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK)));
  if (!uffd.valid()) throw_system("userfaultfd");
  return uffd;
}

bool try_userfaultfd_enable(int uffd, std::uint64_t features) {
  uffdio_api api{};
  api.api = UFFD_API;
  api.features = features;
  return ioctl(uffd, UFFDIO_API, &api) == 0;
}

void userfaultfd_enable(int uffd, std::uint64_t features) {
  if (!try_userfaultfd_enable(uffd, features)) {
    throw_system("userfaultfd {}: features {:#x}", uffd, features);
  }
}

int try_userfaultfd_register(int uffd, const PageRange& range, std::uint64_t mode) {
  uffdio_register request{};
  request.range = {range.start, range.bytes()};
  request.mode = mode;
  return ioctl(uffd, UFFDIO_REGISTER, &request) == 0 ? 0 : errno;
}

void userfaultfd_register(int uffd, const PageRange& range, std::uint64_t mode) {
  const int code = try_userfaultfd_register(uffd, range, mode);
  if (code != 0) {
    throw_errno(code, fmt::format("userfaultfd: register {:x}-{:x}", range.start, range.end));
  }
}

int try_userfaultfd_unregister(int uffd, const PageRange& range) {
  uffdio_range request{range.start, range.bytes()};
  return ioctl(uffd, UFFDIO_UNREGISTER, &request) == 0 ? 0 : errno;
}

int try_userfaultfd_unprotect(int uffd, const PageRange& range) {
  uffdio_writeprotect request{};
  request.range = {range.start, range.bytes()};
  return ioctl(uffd, UFFDIO_WRITEPROTECT, &request) == 0 ? 0 : errno;
}

CopyOutcome userfaultfd_copy(int uffd, Address to, const std::byte* from, std::uint64_t bytes) {
  uffdio_copy request{};
  request.dst = to;
  request.src = reinterpret_cast<std::uint64_t>(from);
  request.len = bytes;
  if (ioctl(uffd, UFFDIO_COPY, &request) == 0) return {bytes, 0};
  return outcome_of(request.copy, errno);
}

CopyOutcome userfaultfd_zero(int uffd, const PageRange& range) {
  uffdio_zeropage request{};
  request.range = {range.start, range.bytes()};
  if (ioctl(uffd, UFFDIO_ZEROPAGE, &request) == 0) return {range.bytes(), 0};
  return outcome_of(request.zeropage, errno);
}

void userfaultfd_wake(int uffd, const PageRange& range) noexcept {
  uffdio_range request{range.start, range.bytes()};
  ioctl(uffd, UFFDIO_WAKE, &request);
}

}  // namespace godwit
