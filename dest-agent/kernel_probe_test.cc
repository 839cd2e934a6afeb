#include "dest-agent/kernel_probe.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/capability.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>

namespace godwit {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kId[] = "00000000000000aa";

std::string found(const proto::Process& process) {
  Findings findings;
  probe_kernel(process, kId, true, findings);
  std::string text;
  for (const proto::Finding& finding : findings) {
    text += finding.id() + " " + finding.object() + ": " + finding.problem() + "\n";
  }
  return text;
}

// In a child that has given all capabilities away, as in a container that was given none.
std::string found_without_capabilities(const proto::Process& process) {
  int ends[2];
  if (::pipe(ends) != 0) return "pipe";
  const pid_t child = ::fork();
  if (child == 0) {
    __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
    __user_cap_data_struct none[2] = {};
    ::syscall(SYS_capset, &header, none);
    const std::string text = found(process);
    ::_exit(::write(ends[1], text.data(), text.size()) < 0 ? 1 : 0);
  }
  ::close(ends[1]);
  std::string text(4096, '\0');
  const ssize_t bytes = ::read(ends[0], text.data(), text.size());
  ::close(ends[0]);
  ::waitpid(child, nullptr, 0);
  text.resize(bytes > 0 ? static_cast<std::size_t>(bytes) : 0);
  return text;
}

proto::Process with_a_socket() {
  proto::Process process;
  process.mutable_fd_table()->add_files()->mutable_tcp_socket();
  return process;
}

TEST(ProbeKernel, FindsNothingMissingHere) {
  EXPECT_EQ(found({}), "");
  EXPECT_EQ(found(with_a_socket()), "");
}

TEST(ProbeKernel, TellsEverythingThatDoesNotWork) {
  EXPECT_THAT(found_without_capabilities({}),
              AllOf(HasSubstr("kernel-feature-missing clone3(2) with set_tid: does not work on the "
                              "destination: clone3: Operation not permitted"),
                    HasSubstr("no-time-namespace time_namespaces(7)"),
                    Not(HasSubstr("pidfd_getfd")), Not(HasSubstr("TCP_REPAIR"))));
  EXPECT_THAT(found_without_capabilities(with_a_socket()),
              AllOf(HasSubstr("clone3"), HasSubstr("kernel-feature-missing TCP_REPAIR"),
                    HasSubstr("kernel-feature-missing nftables")));
}

}  // namespace
}  // namespace godwit
