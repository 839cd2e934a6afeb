// An address space with one area of every sort. What /proc/self/maps and the flags in smaps say at
// the start must be said again after any move, and every byte must be what was written.
//   workload_mappings STATUS-FILE STOP-FILE [guard-regions]
// guard-regions adds an area with MADV_GUARD_INSTALL (Linux 6.13).
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <map>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "integration/workloads/selfcheck.h"

namespace {

using selfcheck::expect;
using selfcheck::expect_equal;
using selfcheck::must;

constexpr size_t kPage = 4096;
constexpr int kMadvGuardInstall = 102;  // not yet in the headers of glibc 2.36

using Bytes = unsigned char*;

Bytes map(size_t bytes, int protection, int flags, int fd = -1, off_t offset = 0) {
  void* area = mmap(nullptr, bytes, protection, flags, fd, offset);
  expect(area != MAP_FAILED, std::string("mmap: ") + strerror(errno));
  return static_cast<Bytes>(area);
}

Bytes map_anonymous(size_t bytes, int protection = PROT_READ | PROT_WRITE, int flags = 0) {
  return map(bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS | flags);
}

unsigned char byte_of(size_t at, unsigned seed) {
  return static_cast<unsigned char>(at * 7 + at / kPage + seed);
}

void fill(Bytes area, size_t bytes, unsigned seed) {
  for (size_t at = 0; at < bytes; at += 61) area[at] = byte_of(at, seed);
}

void check(Bytes area, size_t bytes, unsigned seed, const char* what, size_t shift = 0) {
  for (size_t at = (61 - shift % 61) % 61; at < bytes; at += 61) {
    expect_equal(int{area[at]}, int{byte_of(at + shift, seed)},
                 std::string(what) + ": byte " + std::to_string(at));
  }
}

// Whether the kernel lets this process read a byte; a fault would end it.
bool readable(Bytes at) {
  unsigned char byte = 0;
  const iovec local{&byte, 1};
  const iovec remote{at, 1};
  return process_vm_readv(getpid(), &local, 1, &remote, 1, 0) == 1;
}

// Advice that this kernel may be built without.
void advise(Bytes area, size_t bytes, int advice) {
  expect(madvise(area, bytes, advice) == 0 || errno == EINVAL, "madvise failed");
}

// One area as maps and smaps tell it.
struct Area {
  uint64_t start = 0;
  uint64_t end = 0;
  uint64_t offset = 0;
  std::string rest;  // protection, path or name, flags

  bool operator==(const Area&) const = default;
};

// Where each area begins and ends, neighbours that differ in nothing joined: the kernel may merge
// them or not. Flags that a mover sets (userfaultfd) or the kernel by itself are left out.
class Layout {
 public:
  void read() {
    areas_.clear();
    std::istringstream lines(text_of("/proc/self/smaps"));
    for (std::string line; std::getline(lines, line);) {
      if (line.starts_with("VmFlags:")) {
        if (!areas_.empty()) areas_.back().rest += flags_of(line);
      } else if (line.find('-') < line.find(':') && line.find('-') < line.find(' ')) {
        areas_.push_back(head_of(line));
      }
    }
    join();
  }

  // Empty, or the first difference. The heap, the stack and `moving` (an area that grows downward)
  // have their own lives. `more_allowed`: while a process is being moved, the mover may have a page
  // of its own in it.
  std::string difference(const Layout& now, bool more_allowed) const {
    const std::vector<Area> before = steady();
    const std::vector<Area> after = now.steady();
    for (const Area& area : before) {
      if (std::find(after.begin(), after.end(), area) == after.end()) return "lost " + text(area);
    }
    for (const Area& area : after) {
      const bool known = std::find(before.begin(), before.end(), area) != before.end();
      if (!known && !more_allowed) return "new " + text(area);
    }
    return "";
  }

  void leave_out(uint64_t end) { moving_end_ = end; }

 private:
  static std::string text_of(const char* path) {
    static char buffer[1 << 18];
    const int fd = must(open(path, O_RDONLY | O_CLOEXEC), path);
    size_t bytes = 0;
    for (;;) {
      const ssize_t got = must(::read(fd, buffer + bytes, sizeof buffer - bytes), path);
      if (got == 0) break;
      bytes += static_cast<size_t>(got);
    }
    close(fd);
    return std::string(buffer, bytes);
  }

  static Area head_of(const std::string& line) {
    Area area;
    char protection[8] = "";
    char device[16] = "";
    unsigned long inode = 0;
    int path_at = 0;
    sscanf(line.c_str(), "%lx-%lx %7s %lx %15s %lu %n", &area.start, &area.end, protection,
           &area.offset, device, &inode, &path_at);
    const std::string path = line.substr(std::min<size_t>(path_at, line.size()));
    // The inode of shared anonymous memory is a number without meaning.
    const bool file = path.starts_with('/') && !path.starts_with("/dev/zero");
    area.rest = std::string(protection) + " " + (file ? std::string(device) : "") + " " + path;
    if (!path.starts_with('/')) area.offset = 0;
    return area;
  }

  static std::string flags_of(const std::string& line) {
    std::string kept;
    std::istringstream words(line.substr(8));
    for (std::string word; words >> word;) {
      static const std::string_view kKept[] = {"gd", "lo", "nr", "dc", "dd", "wf",
                                               "mg", "hg", "nh", "sr", "rr", "sh"};
      if (std::find(std::begin(kKept), std::end(kKept), word) != std::end(kKept)) {
        kept += " " + word;
      }
    }
    return kept;
  }

  void join() {
    std::vector<Area> joined;
    for (Area& area : areas_) {
      const bool same =
          !joined.empty() && joined.back().end == area.start && joined.back().rest == area.rest &&
          (joined.back().offset == 0 && area.offset == 0
               ? area.rest.find('/') == std::string::npos
               : joined.back().offset + area.start - joined.back().start == area.offset);
      if (same) {
        joined.back().end = area.end;
      } else {
        joined.push_back(std::move(area));
      }
    }
    areas_ = std::move(joined);
  }

  std::vector<Area> steady() const {
    std::vector<Area> kept;
    for (const Area& area : areas_) {
      const bool own_life = area.rest.find("[heap]") != std::string::npos ||
                            area.rest.find("[stack]") != std::string::npos ||
                            area.end == moving_end_;
      if (!own_life) kept.push_back(area);
    }
    return kept;
  }

  static std::string text(const Area& area) {
    char range[64];
    snprintf(range, sizeof range, "%lx-%lx at %lx ", area.start, area.end, area.offset);
    return range + area.rest;
  }

  std::vector<Area> areas_;
  uint64_t moving_end_ = 0;
};

class Zoo {
 public:
  explicit Zoo(bool guard_regions) : guard_regions_(guard_regions) {}

  void set_up() {
    make_protections();
    make_flags();
    make_files();
    make_growing();
    if (guard_regions_) {
      guarded_ = map_anonymous(16 * kPage);
      fill(guarded_, 16 * kPage, 11);
      must(madvise(guarded_ + 4 * kPage, 2 * kPage, kMadvGuardInstall), "MADV_GUARD_INSTALL");
    }
    layout_.read();  // the first reading makes the heap as large as it gets
    layout_.leave_out(reinterpret_cast<uint64_t>(growing_end_));
    layout_.read();
    check_all(false);
  }

  void turn() {
    if (++turns_ % 8 != 0) return;
    grow();
    // Written, then protected again: the layout is the same at every comparison.
    must(mprotect(protections_, kPage, PROT_READ | PROT_WRITE), "mprotect");
    protections_[2] = static_cast<unsigned char>(turns_);
    must(mprotect(protections_, kPage, PROT_READ), "mprotect");
    expect_equal(int{protections_[2]}, int{static_cast<unsigned char>(turns_)}, "a fresh byte");
    check_all(true);
  }

  void check_all(bool more_allowed) {
    check_protections();
    check(locked_, 8 * kPage, 3, "locked");
    check(named_, 8 * kPage, 4, "named");
    check(moved_, 24 * kPage, 5, "moved");
    for (size_t i = 0; i < advised_.size(); ++i) {
      check(advised_[i], 4 * kPage, static_cast<unsigned>(20 + i), "advised");
    }
    check_files();
    for (Bytes at = growing_; at < growing_end_; at += kPage) {
      expect_equal(int{*at}, int{byte_of(static_cast<size_t>(growing_end_ - at), 6)}, "growing");
    }
    reserved_[reserved_pages_ / 2 * kPage] += 1;
    if (guard_regions_) check_guards();
    Layout now;
    now.leave_out(reinterpret_cast<uint64_t>(growing_end_));
    now.read();
    const std::string difference = layout_.difference(now, more_allowed);
    expect(difference.empty(), "an area changed: " + difference);
  }

  // By now nobody moves it any more.
  void final_check() {
    check_all(false);
    must(mprotect(locked_none_, 4 * kPage, PROT_READ), "mprotect");
    check(locked_none_, 4 * kPage, 9, "locked and inaccessible");
    unlink("mapped-file");
  }

 private:
  // Pages in turn: read, write, none, execute; a hole and PROT_NONE between writable neighbours.
  void make_protections() {
    protections_ = map_anonymous(16 * kPage);
    fill(protections_, 16 * kPage, 1);
    static constexpr int kTurns[] = {PROT_READ, PROT_READ | PROT_WRITE, PROT_NONE,
                                     PROT_READ | PROT_EXEC};
    for (size_t page = 0; page < 16; ++page) {
      must(mprotect(protections_ + page * kPage, kPage, kTurns[page % 4]), "mprotect");
    }
    holes_ = map_anonymous(12 * kPage);
    fill(holes_, 12 * kPage, 2);
    must(munmap(holes_ + 4 * kPage, 2 * kPage), "munmap");
    must(mprotect(holes_ + 8 * kPage, kPage, PROT_NONE), "mprotect");
    none_ = map_anonymous(size_t{64} << 30, PROT_NONE, MAP_NORESERVE);
    reserved_ = map_anonymous(reserved_pages_ * kPage, PROT_READ | PROT_WRITE, MAP_NORESERVE);
  }

  void check_protections() {
    for (size_t page = 0; page < 16; ++page) {
      const Bytes at = protections_ + page * kPage;
      expect_equal(readable(at), page % 4 != 2, "page " + std::to_string(page) + " readable");
      if (page % 4 == 2) continue;
      const size_t offset = (61 - page * kPage % 61) % 61;
      expect_equal(int{at[offset]}, int{byte_of(page * kPage + offset, 1)}, "protected");
    }
    expect(!readable(holes_ + 4 * kPage), "a hole was filled");
    expect(!readable(holes_ + 8 * kPage), "a guard page became readable");
    check(holes_, 4 * kPage, 2, "before the hole");
    check(holes_ + 6 * kPage, 2 * kPage, 2, "after the hole", 6 * kPage);
    expect(!readable(none_ + (size_t{32} << 30)), "the reservation became readable");
  }

  void make_flags() {
    locked_ = map_anonymous(8 * kPage);
    must(mlock(locked_, 8 * kPage), "mlock");
    fill(locked_, 8 * kPage, 3);
    // What mlockall(2) makes of guard pages.
    locked_none_ = map_anonymous(4 * kPage);
    fill(locked_none_, 4 * kPage, 9);
    must(mlock(locked_none_, 4 * kPage), "mlock");
    must(mprotect(locked_none_, 4 * kPage, PROT_NONE), "mprotect");
    named_ = map_anonymous(8 * kPage);
    fill(named_, 8 * kPage, 4);
    expect(prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, named_, 8 * kPage, "a named area") == 0 ||
               errno == EINVAL,
           "PR_SET_VMA_ANON_NAME failed");
    moved_ =
        static_cast<Bytes>(mremap(map_anonymous(8 * kPage), 8 * kPage, 24 * kPage, MREMAP_MAYMOVE));
    expect(moved_ != MAP_FAILED, "mremap failed");
    fill(moved_, 24 * kPage, 5);
    for (const int advice : {MADV_DONTFORK, MADV_DONTDUMP, MADV_WIPEONFORK, MADV_MERGEABLE,
                             MADV_HUGEPAGE, MADV_NOHUGEPAGE, MADV_SEQUENTIAL, MADV_RANDOM}) {
      const Bytes area = map_anonymous(4 * kPage);
      fill(area, 4 * kPage, static_cast<unsigned>(20 + advised_.size()));
      advise(area, 4 * kPage, advice);
      advised_.push_back(area);
    }
  }

  void make_files() {
    const int fd = must(open("mapped-file", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600), "open");
    std::string content(32 * kPage, '\0');
    fill(reinterpret_cast<Bytes>(content.data()), content.size(), 7);
    must(write(fd, content.data(), content.size()), "write");
    must(fsync(fd), "fsync");
    copied_ = map(32 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd);
    offset_ = map(8 * kPage, PROT_READ, MAP_PRIVATE, fd, 8 * kPage);
    close(fd);
    for (size_t page = 1; page < 32; page += 3) copied_[page * kPage] = byte_of(page, 8);
  }

  void check_files() {
    for (size_t page = 0; page < 32; ++page) {
      const bool copied = page % 3 == 1;
      const size_t at = page * kPage;
      const size_t offset = (61 - at % 61) % 61;
      if (copied) expect_equal(int{copied_[at]}, int{byte_of(page, 8)}, "a copied page");
      if (offset != 0 || !copied) {
        expect_equal(int{copied_[at + offset]}, int{byte_of(at + offset, 7)}, "a file page");
      }
    }
    check(offset_, 8 * kPage, 7, "mapped at an offset", 8 * kPage);
  }

  // A stack of its own: it grows when the page below its lowest one is touched.
  void make_growing() {
    const Bytes room = map_anonymous(1024 * kPage, PROT_NONE, MAP_NORESERVE);
    must(munmap(room, 1024 * kPage), "munmap");
    void* top = mmap(room + 1022 * kPage, 2 * kPage, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN | MAP_FIXED_NOREPLACE, -1, 0);
    expect(top == room + 1022 * kPage, "mmap of a growing area");
    growing_end_ = room + 1024 * kPage;
    growing_ = growing_end_;
    grow();
    grow();
  }

  void grow() {
    if (growing_end_ - growing_ >= static_cast<ptrdiff_t>(100 * kPage)) return;
    growing_ -= kPage;
    *growing_ = byte_of(static_cast<size_t>(growing_end_ - growing_), 6);
  }

  void check_guards() {
    for (size_t page = 0; page < 16; ++page) {
      const bool guard = page == 4 || page == 5;
      expect_equal(readable(guarded_ + page * kPage), !guard,
                   "guard region, page " + std::to_string(page));
    }
  }

  bool guard_regions_;
  Bytes protections_ = nullptr;
  Bytes holes_ = nullptr;
  Bytes none_ = nullptr;
  Bytes reserved_ = nullptr;
  size_t reserved_pages_ = 1024;
  Bytes locked_ = nullptr;
  Bytes locked_none_ = nullptr;
  Bytes named_ = nullptr;
  Bytes moved_ = nullptr;
  Bytes copied_ = nullptr;
  Bytes offset_ = nullptr;
  Bytes growing_ = nullptr;  // lowest page touched
  Bytes growing_end_ = nullptr;
  Bytes guarded_ = nullptr;
  std::vector<Bytes> advised_;
  Layout layout_;
  size_t turns_ = 0;
};

}  // namespace

int main(int argc, char** argv) {
  Zoo zoo(argc > 3 && std::string_view(argv[3]) == "guard-regions");
  return selfcheck::run_workload(
      std::min(argc, 3), argv, [&] { zoo.set_up(); }, [&] { zoo.turn(); },
      [&] { zoo.final_check(); });
}
