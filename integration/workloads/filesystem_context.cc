// Working directory and umask: relative paths and modes of new files go on as they were.
#include <sys/stat.h>

#include <climits>
#include <cstdlib>

#include "integration/workloads/selfcheck.h"

namespace {

using selfcheck::expect;
using selfcheck::expect_equal;
using selfcheck::must;

constexpr mode_t kMask = 0137;
std::string directory;
int turns = 0;

// Beside the status file, which both hosts see.
void set_up() {
  directory = selfcheck::status_path() + ".directory";
  must(mkdir(directory.c_str(), 0755) == 0 || errno == EEXIST ? 0 : -1, "mkdir " + directory);
  char path[PATH_MAX];
  expect(realpath(directory.c_str(), path) != nullptr, "realpath " + directory);
  directory = path;
  must(chdir(directory.c_str()), "chdir");
  umask(kMask);
}

void turn() {
  char path[PATH_MAX];
  expect(getcwd(path, sizeof(path)) != nullptr, "getcwd");
  expect(directory == path, "the working directory became " + std::string(path));
  const mode_t before = umask(kMask);
  expect_equal(before, kMask, "umask");
  // Now and then only: a file that is open and gone at the moment of a move stops the move.
  if (++turns % 20 != 0) return;
  const std::string name = "file" + std::to_string(turns % 10);
  unlink(name.c_str());
  const int fd = must(open(name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0777), "create");
  struct stat status {};
  must(fstat(fd, &status), "fstat");
  close(fd);
  expect_equal(status.st_mode & 0777, 0777 & ~kMask, "mode of a new file");
  must(access((directory + "/" + name).c_str(), F_OK), "the file is not where it should be");
  must(unlink(name.c_str()), "unlink");
  const mode_t now = umask(kMask);
  expect_equal(now, kMask, "umask");
}

void final_check() { must(rmdir(directory.c_str()), "rmdir"); }

}  // namespace

int main(int argc, char** argv) {
  // A relative stop file would be looked for in the wrong place after chdir.
  if (argc == 3 && argv[2][0] != '/') return 2;
  return selfcheck::run_workload(argc, argv, set_up, turn, final_check);
}
