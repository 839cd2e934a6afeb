// A real skeleton takes the address space of a child, then that of the child as it became.
#include "dest-agent/restore/mappings.h"

#include <gtest/gtest.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <optional>

#include "common/base/error.h"
#include "common/kernel/pidfd.h"
#include "common/model/layout_diff.h"
#include "common/remote/test_child.h"
#include "source-agent/capture/mappings.h"

namespace godwit {
namespace {

using testing::Child;
using testing::Shared;
using testing::wait_until;

constexpr Address kBase = 0x300000000000;
constexpr int kAgentPidfd = 200;

void* at(std::uint64_t page) { return reinterpret_cast<void*>(kBase + page * kPageSize); }

bool map(std::uint64_t page, std::uint64_t pages, int protection, int flags) {
  return ::mmap(at(page), pages * kPageSize, protection,
                flags | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == at(page);
}

bool first_layout() {
  return map(0, 8, PROT_READ | PROT_WRITE, MAP_PRIVATE) &&
         map(16, 8, PROT_READ | PROT_WRITE, MAP_SHARED) &&
         ::mprotect(at(18), 2 * kPageSize, PROT_READ) == 0 &&
         map(32, 8, PROT_NONE, MAP_PRIVATE | MAP_NORESERVE) &&
         map(48, 4, PROT_READ | PROT_WRITE, MAP_PRIVATE) &&
         ::madvise(at(48), 4 * kPageSize, MADV_DONTFORK) == 0 &&
         ::madvise(at(48), 4 * kPageSize, MADV_DONTDUMP) == 0 &&
         map(64, 4, PROT_READ | PROT_WRITE, MAP_PRIVATE) && ::mlock(at(64), 4 * kPageSize) == 0;
}

bool second_layout() {
  return ::munmap(at(2), 2 * kPageSize) == 0 && ::mprotect(at(16), kPageSize, PROT_NONE) == 0 &&
         ::mprotect(at(32), 2 * kPageSize, PROT_READ | PROT_WRITE) == 0 &&
         ::madvise(at(48), 4 * kPageSize, MADV_DOFORK) == 0 &&
         ::munlock(at(64), 4 * kPageSize) == 0 && map(80, 4, PROT_READ, MAP_SHARED);
}

proto::Mappings stable(proto::Mappings mappings) {
  mappings = join_areas(mappings);
  for (proto::Mapping& area : *mappings.mutable_areas()) area.clear_shared_object();
  mappings.mutable_marks()->clear_vdso_hash();
  return mappings;
}

void expect_same(const proto::Mappings& expected, const proto::Mappings& found) {
  const proto::Mappings want = stable(expected);
  const proto::Mappings have = stable(found);
  ASSERT_EQ(want.areas_size(), have.areas_size()) << have.DebugString();
  for (int index = 0; index < want.areas_size(); ++index) {
    EXPECT_EQ(want.areas(index).DebugString(), have.areas(index).DebugString());
  }
  EXPECT_EQ(want.marks().SerializeAsString(), have.marks().SerializeAsString());
}

// A skeleton of a child of this process.
class MappingsMove : public ::testing::Test {
 protected:
  RemoteTask make_skeleton() {
    agent_ = open_pidfd(::getpid());
    init_.emplace([&]() -> int {
      if (::dup2(agent_.get(), kAgentPidfd) != kAgentPidfd) return 1;
      *ready_ = 1;
      for (;;) pause();
    });
    EXPECT_TRUE(wait_until([&] { return *ready_ == 1; }));
    parent_.emplace(RemoteTask::adopt_skeleton(init_->pid()));
    return RemoteTask::adopt_skeleton(parent_->clone_process(0));
  }

 private:
  const Shared<std::atomic<int>> ready_;
  UniqueFd agent_;
  std::optional<Child> init_;
  std::optional<RemoteTask> parent_;
};

proto::Mapping& add_area(proto::Mappings& mappings, std::uint64_t page, std::uint64_t pages) {
  proto::Mapping& area = *mappings.add_areas();
  area.set_start(kBase + page * kPageSize);
  area.set_end(kBase + (page + pages) * kPageSize);
  area.set_protection(PROT_READ | PROT_WRITE);
  area.set_backing(proto::BACKING_ANONYMOUS);
  return area;
}

void place_page(int userfaultfd, std::uint64_t page) {
  const std::vector<char> content(kPageSize, 'x');
  uffdio_copy copy{};
  copy.dst = kBase + page * kPageSize;
  copy.src = reinterpret_cast<__u64>(content.data());
  copy.len = kPageSize;
  ASSERT_EQ(::ioctl(userfaultfd, UFFDIO_COPY, &copy), 0);
}

// Whether the areas were released before they grew.
class GrowingAreas : public MappingsMove, public ::testing::WithParamInterface<bool> {};
INSTANTIATE_TEST_SUITE_P(Released, GrowingAreas, ::testing::Bool());

// Areas of one look, side by side, each with pages: what is added to one must not go to another,
// for mremap refuses a range of two mappings.
TEST_P(GrowingAreas, StayOneMappingEachBesideTheirLikes) {
  Child model([]() -> int {
    for (;;) pause();
  });
  const proto::Mappings first = MappingsCapture(model.pid()).describe(nullptr);
  const auto with_areas = [&](const std::vector<std::pair<int, int>>& pages) {
    proto::Mappings layout = first;
    proto::Mappings areas;
    for (const auto& [page, count] : pages) {
      add_area(areas, static_cast<std::uint64_t>(page), static_cast<std::uint64_t>(count));
    }
    layout.mutable_areas()->MergeFrom(areas.areas());
    std::sort(layout.mutable_areas()->begin(), layout.mutable_areas()->end(),
              [](const auto& a, const auto& b) { return a.start() < b.start(); });
    return layout;
  };
  RemoteTask task = make_skeleton();
  MappingsRestorer restorer(task, kAgentPidfd);
  const std::vector<std::pair<int, int>> before{{0, 4}, {8, 4}, {16, 4}, {24, 8}};
  const std::vector<std::pair<int, int>> after{{0, 4}, {4, 8}, {12, 8}, {20, 4}, {24, 8}, {32, 4}};
  restorer.build(with_areas(before));
  for (const auto& [page, count] : before) {
    place_page(restorer.userfaultfd(), static_cast<std::uint64_t>(page));
    place_page(restorer.userfaultfd(), static_cast<std::uint64_t>(page + count - 1));
  }
  if (GetParam()) restorer.release();
  const proto::Mappings want = with_areas(after);
  restorer.reconcile(want);
  restorer.finish();
  for (const MapsLine& line : read_maps(task.host_pid())) {
    for (const proto::Mapping& area : want.areas()) {
      EXPECT_FALSE(line.range.end > area.start() && line.range.end < area.end())
          << fmt::format("{:x}-{:x} is divided at {:x}", area.start(), area.end(), line.range.end);
    }
  }
  for (const AreaVmFlags& area : read_vm_flags(task.host_pid())) {
    if (area.range.start >= kBase && area.range.end <= kBase + 64 * kPageSize) {
      EXPECT_FALSE(area.has("dd"));
    }
  }
}

bool is_registered(pid_t pid, std::uint64_t page) {
  for (const AreaVmFlags& area : read_vm_flags(pid)) {
    if (area.range.contains(kBase + page * kPageSize)) return area.has("um");
  }
  throw Error("no such area");
}

TEST_F(MappingsMove, ReleasedAreasAreWrittenThroughTheMemoryFile) {
  Child model([]() -> int {
    for (;;) pause();
  });
  proto::Mappings want = MappingsCapture(model.pid()).describe(nullptr);
  add_area(want, 0, 4);
  add_area(want, 8, 4).set_protection(PROT_NONE);
  std::sort(want.mutable_areas()->begin(), want.mutable_areas()->end(),
            [](const auto& a, const auto& b) { return a.start() < b.start(); });
  RemoteTask task = make_skeleton();
  MappingsRestorer restorer(task, kAgentPidfd);
  restorer.build(want);
  EXPECT_TRUE(is_registered(task.host_pid(), 0));
  place_page(restorer.userfaultfd(), 1);
  restorer.release();
  EXPECT_FALSE(is_registered(task.host_pid(), 0));
  const std::vector<std::byte> content(kPageSize, std::byte{'y'});
  for (const std::uint64_t page : {0, 1, 9}) {
    task.write_memory(kBase + page * kPageSize, content);
  }
  // What appears later is not registered either.
  proto::Mapping& grown = *std::find_if(want.mutable_areas()->begin(), want.mutable_areas()->end(),
                                        [](const auto& area) { return area.start() == kBase; });
  grown.set_end(grown.end() + 2 * kPageSize);
  restorer.reconcile(want);
  EXPECT_FALSE(is_registered(task.host_pid(), 5));
  restorer.finish();
  expect_same(want, MappingsCapture(task.host_pid()).describe(&task));
}

TEST_F(MappingsMove, ASkeletonFollowsAChangingAddressSpace) {
  const Shared<std::atomic<int>> step;
  Child model([&] {
    if (!first_layout()) return 1;
    *step = 1;
    while (*step == 1) usleep(200);
    if (!second_layout()) return 2;
    *step = 3;
    for (;;) pause();
  });
  ASSERT_TRUE(wait_until([&] { return *step == 1; }));
  const proto::Mappings first = MappingsCapture(model.pid()).describe(nullptr);
  *step = 2;
  ASSERT_TRUE(wait_until([&] { return *step == 3; }));
  const proto::Mappings second = MappingsCapture(model.pid()).describe(nullptr);

  RemoteTask task = make_skeleton();
  MappingsRestorer restorer(task, kAgentPidfd);
  restorer.build(first);
  EXPECT_FALSE(restorer.take_page_areas().empty());
  restorer.reconcile(second);
  // Shared memory is open until the end, so that its pages can be placed.
  for (const MapsLine& line : read_maps(task.host_pid())) {
    if (line.shared && line.range.start >= kBase && line.range.start < kBase + (1 << 20)) {
      EXPECT_EQ(line.protection, static_cast<unsigned>(PROT_READ | PROT_WRITE));
    }
  }
  restorer.finish();
  expect_same(second, MappingsCapture(task.host_pid()).describe(&task));
}

}  // namespace
}  // namespace godwit
