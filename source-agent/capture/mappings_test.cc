#include "source-agent/capture/mappings.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>

#include "common/base/error.h"
#include "common/remote/test_child.h"

namespace godwit {
namespace {

using testing::Child;
using testing::Shared;
using testing::wait_until;

constexpr Address kBase = 0x300000000000;

void* at(std::uint64_t page) { return reinterpret_cast<void*>(kBase + page * kPageSize); }

void map(std::uint64_t page, std::uint64_t pages, int flags, int fd = -1) {
  const int kind = fd < 0 ? flags | MAP_ANONYMOUS : flags;
  if (::mmap(at(page), pages * kPageSize, PROT_READ | PROT_WRITE, kind | MAP_FIXED_NOREPLACE, fd,
             0) != at(page)) {
    throw_system("mmap");
  }
}

// A child that stands still once `body` is done.
class Model {
 public:
  explicit Model(const std::function<void()>& body)
      : child_([this, &body]() -> int {
          body();
          *ready_ = true;
          for (;;) pause();
        }) {
    if (!wait_until([this] { return ready_->load(); })) fail("the child is not ready");
  }
  pid_t pid() const { return child_.pid(); }

 private:
  Shared<std::atomic<bool>> ready_;
  Child child_;
};

const proto::Mapping* find(const proto::Mappings& all, std::uint64_t page) {
  for (const proto::Mapping& area : all.areas()) {
    if (area.start() <= kBase + page * kPageSize && kBase + page * kPageSize < area.end()) {
      return &area;
    }
  }
  return nullptr;
}

std::string refusal(pid_t pid) {
  try {
    MappingsCapture(pid).describe(nullptr);
  } catch (const Refused& refused) {
    return refused.id();
  }
  return "moved";
}

std::vector<std::string> findings_of(pid_t pid) {
  Findings findings;
  preflight_mappings(pid, findings);
  std::vector<std::string> ids;
  for (const proto::Finding& finding : findings) ids.push_back(finding.id());
  return ids;
}

TEST(MappingsCaptureTest, KindsFlagsAndNames) {
  const Model model([] {
    map(0, 4, MAP_PRIVATE);
    ::madvise(at(0), 4 * kPageSize, MADV_DONTDUMP);
    ::madvise(at(0), 4 * kPageSize, MADV_WIPEONFORK);
    map(16, 8, MAP_SHARED);
    *static_cast<char*>(at(18)) = 1;
    ::munmap(at(16), kPageSize);
    map(32, 4, MAP_PRIVATE | MAP_NORESERVE);
    ::prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, at(32), 4 * kPageSize, "a name");
  });
  const proto::Mappings all = MappingsCapture(model.pid()).describe(nullptr);
  ASSERT_NE(find(all, 0), nullptr);
  EXPECT_EQ(find(all, 0)->flags(),
            static_cast<unsigned>(proto::AREA_DONT_DUMP | proto::AREA_WIPE_ON_FORK));
  const proto::Mapping* shared = find(all, 18);
  ASSERT_NE(shared, nullptr);
  EXPECT_EQ(shared->backing(), proto::BACKING_SHARED_ANONYMOUS);
  EXPECT_EQ(shared->offset(), kPageSize);
  EXPECT_EQ(shared->shared_object_bytes(), 8 * kPageSize);
  ASSERT_NE(find(all, 32), nullptr);
  EXPECT_EQ(find(all, 32)->flags(), static_cast<unsigned>(proto::AREA_NO_RESERVE));
  const std::string maps = read_file(fmt::format("/proc/{}/maps", model.pid()));
  const bool names = maps.find("[anon:a name]") != std::string::npos;
  EXPECT_EQ(find(all, 32)->name(), names ? "a name" : "");
}

TEST(MappingsCaptureTest, AMemfdIsRefused) {
  const Model model([] {
    const int fd = ::memfd_create("thing", 0);
    if (::ftruncate(fd, kPageSize) != 0) throw_system("ftruncate");
    map(0, 1, MAP_SHARED, fd);
  });
  EXPECT_EQ(refusal(model.pid()), "mapping-memfd");
  EXPECT_EQ(findings_of(model.pid()), std::vector<std::string>{"mapping-memfd"});
}

TEST(MappingsCaptureTest, ADeletedFileIsRefused) {
  const Model model([] {
    char path[] = "/tmp/godwit-mappings-XXXXXX";
    const int fd = ::mkstemp(path);
    if (::ftruncate(fd, kPageSize) != 0) throw_system("ftruncate");
    map(0, 1, MAP_PRIVATE, fd);
    ::unlink(path);
  });
  EXPECT_EQ(refusal(model.pid()), "mapping-file-deleted");
  EXPECT_EQ(findings_of(model.pid()), std::vector<std::string>{"mapping-file-deleted"});
}

TEST(MappingsCaptureTest, GuardRegionsAreRefused) {
  constexpr int kGuardInstall = 102;  // MADV_GUARD_INSTALL
  Shared<bool> known;
  const Model model([&] {
    map(0, 4, MAP_PRIVATE);
    *known = ::madvise(at(1), kPageSize, kGuardInstall) == 0;
  });
  if (!*known) GTEST_SKIP() << "this kernel has no guard regions";
  EXPECT_EQ(findings_of(model.pid()), std::vector<std::string>{"mapping-guard-region"});
}

}  // namespace
}  // namespace godwit
