#include "common/base/standard_fds.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

namespace godwit {
namespace {

// In a child, whose standard descriptors may go.
int exit_code_of_child(int (*body)()) {
  const pid_t pid = ::fork();
  if (pid == 0) ::_exit(body());
  int status = 0;
  ::waitpid(pid, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST(KeepStandardFds, FillsWhatIsClosed) {
  EXPECT_EQ(exit_code_of_child([] {
              ::close(0);
              ::close(1);
              ::close(2);
              keep_standard_fds();
              const int next = ::open("/dev/null", O_RDONLY);
              char byte = 0;
              if (next <= STDERR_FILENO) return 1;
              if (::read(0, &byte, 1) != 0) return 2;
              if (::write(1, "x", 1) >= 0 || ::write(2, "x", 1) >= 0) return 3;
              return 0;
            }),
            0);
}

TEST(KeepStandardFds, LeavesWhatIsOpen) {
  EXPECT_EQ(exit_code_of_child([] {
              int ends[2];
              if (::pipe(ends) != 0 || ::dup2(ends[1], 2) != 2) return 1;
              ::close(1);
              keep_standard_fds();
              return ::write(2, "x", 1) == 1 ? 0 : 2;
            }),
            0);
}

}  // namespace
}  // namespace godwit
