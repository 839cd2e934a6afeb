#include "common/kernel/proc_maps.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>
#include <string_view>
#include <vector>

#include "common/base/error.h"
#include "common/base/unique_fd.h"

namespace godwit {
namespace {

TEST(ProcMapsTest, ALineOfAFile) {
  const auto line = parse_maps_line(
      "7f0000001000-7f0000003000 r-xp 00002000 08:01 4711                       /lib/a b "
      "(deleted)");
  ASSERT_TRUE(line.has_value());
  EXPECT_EQ(line->range, (PageRange{0x7f0000001000, 0x7f0000003000}));
  EXPECT_EQ(line->protection, static_cast<unsigned>(PROT_READ | PROT_EXEC));
  EXPECT_FALSE(line->shared);
  EXPECT_EQ(line->offset, 0x2000u);
  EXPECT_EQ(line->device, makedev(8, 1));
  EXPECT_EQ(line->inode, 4711u);
  EXPECT_EQ(line->path, "/lib/a b (deleted)");
}

TEST(ProcMapsTest, ALineWithoutAName) {
  for (const char* text : {"1000-2000 -w-s 00000000 00:00 0", "1000-2000 -w-s 00000000 00:00 0 "}) {
    const auto line = parse_maps_line(text);
    ASSERT_TRUE(line.has_value()) << text;
    EXPECT_TRUE(line->shared);
    EXPECT_EQ(line->protection, static_cast<unsigned>(PROT_WRITE));
    EXPECT_EQ(line->path, "");
  }
}

TEST(ProcMapsTest, MalformedLinesAreNotUnderstood) {
  for (const char* text : {"", "1000", "1000-", "1000-2000", "1000-2000 r-xp",
                           "2000-1000 r-xp 00000000 00:00 0", "1000-1000 r-xp 00000000 00:00 0",
                           "1001-2000 r-xp 00000000 00:00 0", "1000-2000 r-xp zz 00:00 0",
                           "1000-2000 r-xp 00000000 0000 0", "1000-2000 r-xp 00000000 00:00 ",
                           "Size:                  4 kB", "VmFlags: rd wr mr mw me ac "}) {
    EXPECT_FALSE(parse_maps_line(text).has_value()) << text;
  }
}

TEST(ProcMapsTest, AreasThatMergedWhileTheyWereReadAreToldOnce) {
  const std::vector<MapsLine> lines = parse_maps(
      "1000-3000 rw-p 00000000 00:00 0 \n"
      "3000-5000 r--p 00001000 08:01 7 /lib/a\n"
      "2000-5000 rw-p 00000000 00:00 0 \n"
      "4000-7000 r--p 00002000 08:01 7 /lib/a\n"
      "6000-9000 rw-p 00000000 00:00 0 \n",
      "text");
  ASSERT_EQ(lines.size(), 4u);
  EXPECT_EQ(lines[1].range, (PageRange{0x3000, 0x5000}));
  EXPECT_EQ(lines[2].range, (PageRange{0x5000, 0x7000}));
  EXPECT_EQ(lines[2].offset, 0x3000u);
  EXPECT_EQ(lines[3].range, (PageRange{0x7000, 0x9000}));
}

TEST(ProcMapsTest, OwnMapsAreInOrderAndHaveFlags) {
  void* area = ::mmap(nullptr, 4 * kPageSize, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(area, MAP_FAILED);
  ASSERT_EQ(::madvise(area, 4 * kPageSize, MADV_DONTFORK), 0);
  const auto start = reinterpret_cast<Address>(area);
  Address last = 0;
  bool found = false;
  for (const MapsLine& line : read_maps(::getpid())) {
    EXPECT_GE(line.range.start, last);
    last = line.range.end;
    found = found || line.range == PageRange{start, start + 4 * kPageSize};
  }
  EXPECT_TRUE(found);
  bool flagged = false;
  for (const AreaVmFlags& each : read_vm_flags(::getpid())) {
    if (each.range.start == start) flagged = each.has("dc") && each.has("rd") && !each.has("wr");
  }
  EXPECT_TRUE(flagged);
  ::munmap(area, 4 * kPageSize);
}

// A copy of this process that does nothing.
class Idle {
 public:
  Idle() : pid_(::fork()) {
    while (pid_ == 0) ::pause();
  }
  Idle(const Idle&) = delete;
  Idle& operator=(const Idle&) = delete;
  ~Idle() {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  pid_t pid() const { return pid_; }

 private:
  pid_t pid_;
};

TEST(ProcMapsTest, TextOfManyPiecesIsComparedAndItsFlagsAreRead) {
  constexpr std::uint64_t kPages = 1000;
  void* areas = ::mmap(nullptr, kPages * kPageSize, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(areas, MAP_FAILED);
  for (std::uint64_t page = 0; page < kPages; page += 2) {
    ASSERT_EQ(::mprotect(static_cast<char*>(areas) + page * kPageSize, kPageSize, PROT_NONE), 0);
  }
  const Idle idle;
  const std::string text = read_file(fmt::format("/proc/{}/maps", idle.pid()));
  EXPECT_GT(text.size(), kPages * 40);
  EXPECT_TRUE(has_maps_text(idle.pid(), text));
  EXPECT_FALSE(has_maps_text(idle.pid(), text + "x"));
  EXPECT_FALSE(has_maps_text(idle.pid(), std::string_view(text).substr(0, text.size() - 1)));
  EXPECT_FALSE(has_maps_text(idle.pid(), ""));
  for (const std::size_t at : {std::size_t{0}, text.size() / 2, text.size() - 2}) {
    std::string other = text;
    ++other[at];
    EXPECT_FALSE(has_maps_text(idle.pid(), other)) << at;
  }
  const std::vector<MapsLine> lines = read_maps(idle.pid());
  const std::vector<AreaVmFlags> flags = read_vm_flags(idle.pid());
  ASSERT_EQ(lines.size(), flags.size());
  for (std::size_t i = 0; i < lines.size(); ++i) {
    EXPECT_EQ(lines[i].range, flags[i].range);
    EXPECT_EQ(lines[i].path, flags[i].path);
    EXPECT_EQ((lines[i].protection & PROT_READ) != 0, flags[i].has("rd"));
  }
  ::munmap(areas, kPages * kPageSize);
}

TEST(ProcMapsTest, AHoleTouchesNothing) {
  const std::vector<PageRange> one{{0x6fff'0000'0000, 0x7000'0000'0000}, {0x10000, 0x20000}};
  const std::vector<PageRange> other{{0x6ffe'ffff'0000, 0x6ffe'ffff'1000}};
  const std::uint64_t bytes = 16 * kPageSize;
  const PageRange hole = find_hole({one, other}, bytes);
  EXPECT_EQ(hole.bytes(), bytes);
  for (const auto& list : {one, other}) {
    for (const PageRange& range : list) {
      EXPECT_FALSE((PageRange{hole.start - kPageSize, hole.end + kPageSize}).overlaps(range));
    }
  }
  EXPECT_THROW(find_hole({{{0x1'0000'0000, 0x7000'0000'0000}}}, bytes), Error);
}

}  // namespace
}  // namespace godwit
