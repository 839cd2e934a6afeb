#include "common/kernel/agent_privileges.h"

#include <gtest/gtest.h>
#include <linux/capability.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>

namespace godwit {
namespace {

// What a child says that has done `body` before.
std::string said_after(const std::function<void()>& body) {
  int ends[2];
  if (::pipe(ends) != 0) return "pipe";
  const pid_t child = ::fork();
  if (child == 0) {
    body();
    const std::string story = missing_privileges();
    ::_exit(::write(ends[1], story.data(), story.size()) < 0 ? 1 : 0);
  }
  ::close(ends[1]);
  char text[400];
  const ssize_t bytes = ::read(ends[0], text, sizeof(text));
  ::close(ends[0]);
  ::waitpid(child, nullptr, 0);
  return {text, bytes > 0 ? static_cast<std::size_t>(bytes) : 0};
}

void drop(int capability) {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct sets[2];
  ::syscall(SYS_capget, &header, sets);
  sets[capability / 32].effective &= ~(1U << (capability % 32));
  ::syscall(SYS_capset, &header, sets);
}

TEST(AgentPrivileges, NameWhatIsMissing) {
  EXPECT_EQ(missing_privileges(), "");
  EXPECT_EQ(said_after([] { drop(CAP_SYS_CHROOT); }), "");
  EXPECT_EQ(said_after([] {
              drop(CAP_NET_ADMIN);
              drop(CAP_SYS_PTRACE);
            }),
            "it runs without CAP_SYS_PTRACE, CAP_NET_ADMIN");
  EXPECT_EQ(said_after([] {
              if (::setuid(65534) != 0) ::_exit(1);
            }),
            "it does not run as root");
}

}  // namespace
}  // namespace godwit
