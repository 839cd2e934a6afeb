#include "source-agent/capture/process.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/mman.h>

#include <algorithm>

#include "common/kernel/fd_test_process.h"
#include "common/model/snapshot.h"
#include "common/model/snapshot_check.h"

namespace godwit {
namespace {

constexpr int kMappedPages = 4;

// Has of each sort something that can't be moved, beside an ordinary file.
void hold_what_cannot_move() {
  char folder[] = "/tmp/godwit-gone-XXXXXX";
  const int memory = memfd_create("unmovable", 0);
  const bool done =
      mkdtemp(folder) != nullptr && chdir(folder) == 0 && rmdir(folder) == 0 &&
      ftruncate(memory, kMappedPages * 4096) == 0 &&
      mmap(nullptr, kMappedPages * 4096, PROT_READ, MAP_SHARED, memory, 0) != MAP_FAILED &&
      open("/etc/passwd", O_RDONLY) >= 0;
  if (!done) _exit(1);
}

TEST(DescribeOutside, RefusesOrLeavesOutWhatCannotMove) {
  TestProcess process(hold_what_cannot_move);
  Findings findings;
  preflight_process_kinds(process.pid(), findings);
  for (const char* id : {"fd-memfd", "mapping-memfd", "directory-deleted"}) {
    EXPECT_TRUE(std::any_of(findings.begin(), findings.end(), [&](const proto::Finding& finding) {
      return finding.id() == id;
    })) << id;
  }
  ProcessCapture capture(process.pid());
  EXPECT_THROW(capture.describe_outside(), Refused);
  proto::Snapshot snapshot;
  snapshot.set_version(kSnapshotVersion);
  snapshot.set_generation(1);
  proto::Process& rest = *snapshot.add_processes();
  rest = capture.describe_outside(Unmovable::kLeaveOut);
  EXPECT_NO_THROW(check_snapshot(snapshot, SnapshotPart::kOutline));
  EXPECT_FALSE(rest.has_filesystem_context());
  EXPECT_GT(rest.mappings().areas_size(), 5);
  for (const proto::FileIdentity& file : rest.mappings().files()) {
    EXPECT_EQ(file.path().find("memfd"), std::string::npos);
  }
  std::vector<std::string> paths;
  for (const proto::OpenFile& file : rest.fd_table().files()) {
    EXPECT_NE(file.kind_case(), proto::OpenFile::KIND_NOT_SET);
    if (file.has_regular_file()) paths.push_back(file.regular_file().path());
  }
  EXPECT_EQ(std::count(paths.begin(), paths.end(), "/etc/passwd"), 1);
}

}  // namespace
}  // namespace godwit
