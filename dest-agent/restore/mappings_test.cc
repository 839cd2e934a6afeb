// A real skeleton takes the address space of a child, then that of the child as it became.
#include "dest-agent/restore/mappings.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>

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

TEST(MappingsRestorerTest, ASkeletonFollowsAChangingAddressSpace) {
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

  const UniqueFd agent = open_pidfd(::getpid());
  Child init([&]() -> int {
    if (::dup2(agent.get(), kAgentPidfd) != kAgentPidfd) return 1;
    *step = 4;
    for (;;) pause();
  });
  ASSERT_TRUE(wait_until([&] { return *step == 4; }));
  RemoteTask parent = RemoteTask::adopt_skeleton(init.pid());
  RemoteTask task = RemoteTask::adopt_skeleton(parent.clone_process(0));
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
