#include "common/model/vdso_image.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "arch/arch.h"
#include "common/base/error.h"
#include "common/kernel/proc_maps.h"
#include "common/model/host_features.h"

namespace godwit {
namespace {

Address own_vdso() {
  for (const MapsLine& line : read_maps(::getpid())) {
    if (line.path == "[vdso]") return line.range.start;
  }
  return 0;
}

// Calls clock_gettime of an image that was made executable.
std::int64_t clock_of(std::span<const std::byte> image) {
  void* at =
      mmap(nullptr, image.size(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  std::memcpy(at, image.data(), image.size());
  mprotect(at, image.size(), PROT_READ | PROT_EXEC);
  std::int64_t ns = -1;
  for (const VdsoFunction& function : vdso_functions(image)) {
    if (!function.name.ends_with("_clock_gettime")) continue;
    using Call = int (*)(clockid_t, timespec*);
    timespec now{};
    const auto call = reinterpret_cast<Call>(static_cast<char*>(at) + function.offset);
    if (call(CLOCK_MONOTONIC, &now) == 0) ns = now.tv_sec * 1'000'000'000LL + now.tv_nsec;
  }
  munmap(at, image.size());
  return ns;
}

std::int64_t clock_here() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1'000'000'000LL + now.tv_nsec;
}

TEST(VdsoImage, AStandInGoesOnInTheKernelsOwn) {
  const std::string image = read_host_features().vdso_image();
  const std::int64_t before = clock_here();
  const std::int64_t told = clock_of(stand_in_for(bytes_of(image), bytes_of(image), own_vdso()));
  EXPECT_GE(told, before);
  EXPECT_LE(told, clock_here());
}

TEST(VdsoImage, WithoutACounterpartTheCallIsMade) {
  const std::string image = read_host_features().vdso_image();
  std::string other = image;  // whose functions have other names
  for (std::size_t at = 0; (at = other.find("clock_gettime", at)) != std::string::npos;) {
    other.replace(at, 13, "clock_nothing");
  }
  const std::int64_t before = clock_here();
  const std::int64_t told = clock_of(stand_in_for(bytes_of(image), bytes_of(other), own_vdso()));
  EXPECT_GE(told, before);
  EXPECT_LE(told, clock_here());
}

TEST(VdsoImage, RefusesWhatIsNone) {
  EXPECT_THROW(vdso_functions({}), Error);
  const std::string image = read_host_features().vdso_image();
  EXPECT_THROW(vdso_functions(bytes_of(image).first(200)), Error);
  EXPECT_TRUE(arch::vdso_call_code("unheard_of").empty());
}

}  // namespace
}  // namespace godwit
