// Directories: reading one in small steps across moves, openat and fchdir by descriptor, cwd.
#include <sys/stat.h>
#include <sys/syscall.h>

#include <climits>
#include <set>

#include "integration/workloads/selfcheck.h"

using selfcheck::expect;
using selfcheck::expect_equal;
using selfcheck::must;

namespace {

constexpr int kEntries = 300;

struct Directories {
  std::string path;
  int lister = -1;  // read a few entries at a time
  int base = -1;    // O_PATH
  int plain = -1;   // O_DIRECTORY | O_CLOEXEC
  std::set<std::string> seen;
  bool at_end = false;
};

std::string entry_name(int number) { return "entry-" + std::to_string(number); }

void set_up(Directories& all) {
  all.path = selfcheck::status_path() + ".dir";
  must(mkdir(all.path.c_str(), 0755), "mkdir");
  all.plain =
      must(open(all.path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC), "open the directory");
  for (int i = 0; i < kEntries; ++i) {
    close(
        must(openat(all.plain, entry_name(i).c_str(), O_WRONLY | O_CREAT, 0644), "make an entry"));
  }
  all.lister = must(open(all.path.c_str(), O_RDONLY | O_DIRECTORY), "open the directory");
  all.base = must(open(all.path.c_str(), O_PATH | O_DIRECTORY), "open the directory with O_PATH");
  must(fchdir(all.plain), "fchdir");
}

// One small getdents64: several turns make one pass.
void list_some(Directories& all) {
  alignas(8) char block[512];
  const long bytes = syscall(SYS_getdents64, all.lister, block, sizeof block);
  must(bytes, "getdents64");
  for (long at = 0; at < bytes;) {
    unsigned short length = 0;
    memcpy(&length, block + at + 16, sizeof length);
    const std::string name = block + at + 19;
    if (name != "." && name != "..")
      expect(all.seen.insert(name).second, name + " was listed twice");
    at += length;
  }
  if (bytes != 0) return;
  expect_equal(all.seen.size(), static_cast<std::size_t>(kEntries), "entries of one pass");
  all.seen.clear();
  must(lseek(all.lister, 0, SEEK_SET), "rewind");
}

void turn(Directories& all) {
  list_some(all);
  struct stat status {};
  must(fstatat(all.base, entry_name(7).c_str(), &status, 0), "fstatat by an O_PATH directory");
  must(fstatat(all.plain, entry_name(8).c_str(), &status, 0), "fstatat by a directory");
  expect((fcntl(all.base, F_GETFL) & O_PATH) != 0, "O_PATH is gone");
  char byte = 0;
  expect(read(all.base, &byte, 1) == -1 && errno == EBADF, "an O_PATH descriptor can be read");
  must(access(entry_name(9).c_str(), R_OK), "an entry by a relative path");
  char cwd[PATH_MAX];
  expect(getcwd(cwd, sizeof cwd) != nullptr && all.path == cwd, "the working directory changed");
}

void final_check(Directories& all) {
  for (int i = 0; i < kEntries; ++i)
    must(unlinkat(all.base, entry_name(i).c_str(), 0), "unlink an entry");
  must(chdir("/"), "chdir");
  must(rmdir(all.path.c_str()), "rmdir");
}

}  // namespace

int main(int argc, char** argv) {
  Directories all;
  return selfcheck::run_workload(
      argc, argv, [&] { set_up(all); }, [&] { turn(all); }, [&] { final_check(all); });
}
