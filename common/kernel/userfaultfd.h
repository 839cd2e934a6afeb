// userfaultfd(2): requests on a descriptor that belongs to an address space, its own or another's
// (ioctl_userfaultfd(2)). Constants that the C library's headers lack are here.
#pragma once

#include <linux/userfaultfd.h>
#include <sys/ioctl.h>

#include <cstddef>
#include <cstdint>

#include "common/base/page_range.h"
#include "common/base/unique_fd.h"

namespace godwit {

inline constexpr std::uint64_t kUffdWriteProtectUnpopulated = 1 << 13;  // Linux 6.4
inline constexpr std::uint64_t kUffdWriteProtectAsync = 1 << 15;        // Linux 6.7

// UFFDIO_POISON (Linux 6.6), its request and its number.
struct UffdPoison {
  uffdio_range range;
  std::uint64_t mode;
  std::int64_t updated;  // bytes, or the negative errno
};
inline constexpr unsigned long kUffdPoisonRequest = _IOWR(UFFDIO, 0x08, UffdPoison);

// A descriptor for the calling process; for another one the call is made inside it (RemoteTask) and
// the descriptor fetched with pidfd_getfd(2). Throws Error.
UniqueFd make_userfaultfd();

// UFFDIO_API; once for each descriptor. Throws Error when the kernel lacks one of the features.
void userfaultfd_enable(int uffd, std::uint64_t features);
// The same; false when the kernel lacks one. The descriptor is useless then.
bool try_userfaultfd_enable(int uffd, std::uint64_t features);

// UFFDIO_REGISTER with UFFDIO_REGISTER_MODE_* bits. 0 or the errno: EINVAL: no such mapping, or one
// that cannot be registered; EBUSY: another descriptor has it.
int try_userfaultfd_register(int uffd, const PageRange& range, std::uint64_t mode);
void userfaultfd_register(int uffd, const PageRange& range, std::uint64_t mode);
int try_userfaultfd_unregister(int uffd, const PageRange& range);

// UFFDIO_WRITEPROTECT, for pages that are there. 0 or the errno: ENOENT: some of it is not
// registered; EAGAIN: a change of the layout waits for being read.
int try_userfaultfd_protect(int uffd, const PageRange& range);
// The same without its mode bit: the pages count as written, and whoever waits goes on.
int try_userfaultfd_unprotect(int uffd, const PageRange& range);

// UFFDIO_COPY of missing pages. `bytes` were copied, then `code` (0: all of it) stopped it: EEXIST:
// the next page is there already; EAGAIN: the address space is changing, try again; ENOENT: no such
// registered mapping, or the range crosses its end; ESRCH: the address space is gone.
struct CopyOutcome {
  std::uint64_t bytes = 0;
  int code = 0;
};
CopyOutcome userfaultfd_copy(int uffd, Address to, const std::byte* from, std::uint64_t bytes);
// UFFDIO_ZEROPAGE, with the same answers.
CopyOutcome userfaultfd_zero(int uffd, const PageRange& range);
// UFFDIO_POISON, with the same answers, and EINVAL on a kernel that lacks it: whoever touches such
// a page gets SIGBUS, a system call EFAULT, also when the descriptor is closed.
CopyOutcome userfaultfd_poison(int uffd, const PageRange& range);
// True when UFFDIO_POISON does here what it is to do: tried on memory of the calling process.
bool can_poison();
// True when the descriptor's address space is gone, so far as a page tells that is missing there.
bool is_space_gone(int uffd, Address missing_page);
// UFFDIO_WAKE: whoever waits for a page of the range looks again. Failures do not matter: then
// nobody waits.
void userfaultfd_wake(int uffd, const PageRange& range) noexcept;

}  // namespace godwit
