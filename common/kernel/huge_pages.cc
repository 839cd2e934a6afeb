#include "common/kernel/huge_pages.h"

#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <string>

#include "common/base/error.h"
#include "common/base/unique_fd.h"

namespace godwit {
namespace {

constexpr const char* kFolder = "/sys/kernel/mm/transparent_hugepage/";
constexpr int kCollapse = 25;  // MADV_COLLAPSE; the C library's headers are older

}  // namespace

std::uint64_t huge_page_bytes() {
  try {
    return std::stoull(read_file(std::string(kFolder) + "hpage_pmd_size"));
  } catch (const std::exception&) {
    return 0;
  }
}

bool huge_pages_are_off() {
  try {
    return read_file(std::string(kFolder) + "enabled").find("[never]") != std::string::npos;
  } catch (const Error&) {
    return true;
  }
}

std::size_t collapse_huge_pages(int pidfd, std::span<const PageRange> ranges,
                                const std::function<bool()>& goes_on) {
  const std::uint64_t bytes = huge_page_bytes();
  std::size_t collapsed = 0;
  if (bytes == 0) return 0;
  for (const PageRange& range : ranges) {
    for (Address at = (range.start + bytes - 1) / bytes * bytes; at + bytes <= range.end;
         at += bytes) {
      if (!goes_on()) return collapsed;
      const iovec page{reinterpret_cast<void*>(at), bytes};
      const long done = ::syscall(SYS_process_madvise, pidfd, &page, 1, kCollapse, 0);
      if (done < 0 && errno == ESRCH) throw_system("make huge pages");
      if (done == static_cast<long>(bytes)) ++collapsed;
      ::sched_yield();
    }
  }
  return collapsed;
}

}  // namespace godwit
