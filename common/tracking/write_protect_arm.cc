#include "common/tracking/write_protect_arm.h"

#include "common/kernel/userfaultfd.h"

namespace godwit {

void enable_write_protect_tracking(int uffd) {
  userfaultfd_enable(uffd, kUffdWriteProtectAsync | kUffdWriteProtectUnpopulated);
}

std::vector<UnarmedRange> arm_write_protect(int uffd, std::span<const PageRange> ranges) {
  std::vector<UnarmedRange> unarmed;
  for (const PageRange& range : ranges) {
    const int code = try_userfaultfd_register(uffd, range, UFFDIO_REGISTER_MODE_WP);
    if (code != 0) unarmed.push_back({range, code});
  }
  return unarmed;
}

}  // namespace godwit
