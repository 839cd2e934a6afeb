#include "common/kernel/userfaultfd.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

#include "common/base/scope_exit.h"

namespace godwit {
namespace {

// `done` holds the bytes done, or the negative errno when there were none. The ioctl itself answers
// EAGAIN for every partial one.
CopyOutcome outcome_of(std::int64_t done, int code) {
  if (done > 0) return {static_cast<std::uint64_t>(done), EAGAIN};
  return {0, done < 0 ? static_cast<int>(-done) : code};
}

int write_protect(int uffd, const PageRange& range, std::uint64_t mode) {
  uffdio_writeprotect request{};
  request.range = {range.start, range.bytes()};
  request.mode = mode;
  return ioctl(uffd, UFFDIO_WRITEPROTECT, &request) == 0 ? 0 : errno;
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

int try_userfaultfd_protect(int uffd, const PageRange& range) {
  return write_protect(uffd, range, UFFDIO_WRITEPROTECT_MODE_WP);
}

int try_userfaultfd_unprotect(int uffd, const PageRange& range) {
  return write_protect(uffd, range, 0);
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

CopyOutcome userfaultfd_poison(int uffd, const PageRange& range) {
  UffdPoison request{};
  request.range = {range.start, range.bytes()};
  if (ioctl(uffd, kUffdPoisonRequest, &request) == 0) return {range.bytes(), 0};
  return outcome_of(request.updated, errno);
}

bool can_poison() {
  void* memory =
      mmap(nullptr, kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw_system("mmap");
  const ScopeExit unmap([memory] { munmap(memory, kPageSize); });
  const auto page = reinterpret_cast<Address>(memory);
  const UniqueFd file(memfd_create("probe", MFD_CLOEXEC));
  const UniqueFd uffd = make_userfaultfd();
  userfaultfd_enable(uffd.get(), 0);
  userfaultfd_register(uffd.get(), {page, page + kPageSize}, UFFDIO_REGISTER_MODE_MISSING);
  if (userfaultfd_poison(uffd.get(), {page, page + kPageSize}).code != 0) return false;
  return write(file.get(), memory, 1) < 0 && errno == EFAULT;
}

// A copy of nothing fails after it was seen that there is somebody to copy it to.
bool is_space_gone(int uffd, Address missing_page) {
  return userfaultfd_copy(uffd, missing_page, nullptr, kPageSize).code == ESRCH;
}

void userfaultfd_wake(int uffd, const PageRange& range) noexcept {
  uffdio_range request{range.start, range.bytes()};
  ioctl(uffd, UFFDIO_WAKE, &request);
}

}  // namespace godwit
