#include "source-agent/capture/fd_table.h"

#include <gtest/gtest.h>
#include <linux/netlink.h>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <algorithm>

#include "common/kernel/fd_test_process.h"
#include "source-agent/capture/fd_compare.h"

namespace godwit {
namespace {

// The child holds one pidfd (of the fixture) that every preflight finds; it is left out.
Findings preflight(const TestProcess& process) {
  Findings all;
  preflight_fd_table(process.pid(), all);
  std::erase_if(all, [](const proto::Finding& finding) {
    return finding.object().starts_with(fmt::format("fd {} ", kTestPidfd));
  });
  return all;
}

std::string ids(const Findings& findings) {
  std::string out;
  for (const auto& finding : findings) {
    out += (out.empty() ? "" : " ") + std::string(finding.warning() ? "~" : "") + finding.id();
    EXPECT_FALSE(finding.way_out().empty()) << finding.id();
    EXPECT_FALSE(finding.object().empty()) << finding.id();
  }
  return out;
}

class FdPreflight : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/godwit-fd-capture-XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    directory_ = name;
  }
  void TearDown() override {
    for (const char* name : {"/file", "/fifo", "/socket"}) unlink((directory_ + name).c_str());
    rmdir(directory_.c_str());
  }
  std::string path(const char* name) const { return directory_ + name; }

 private:
  std::string directory_;
};

TEST_F(FdPreflight, OrdinaryDescriptorsAreFine) {
  TestProcess process([&] {
    open(path("/file").c_str(), O_RDWR | O_CREAT, 0600);
    open("/tmp", O_RDONLY | O_DIRECTORY);
    open("/dev/urandom", O_RDONLY);
    eventfd(0, 0);
    int ends[2];
    if (pipe(ends) != 0 || socketpair(AF_UNIX, SOCK_STREAM, 0, ends) != 0) _exit(1);
    epoll_create1(0);
  });
  EXPECT_EQ(ids(preflight(process)), "");
}

TEST_F(FdPreflight, ThePidfdItselfIsRefused) {
  TestProcess process([] {});
  Findings findings;
  preflight_fd_table(process.pid(), findings);
  EXPECT_EQ(ids(findings), "fd-pidfd");
}

TEST_F(FdPreflight, EveryForeignKindIsNamedAtOnce) {
  TestProcess process([&] {
    inotify_init();                               // 3
    memfd_create("scratch", 0);                   // 4
    socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);  // 5
    socket(AF_INET, SOCK_RAW, IPPROTO_ICMP);      // 6
    socket(AF_PACKET, SOCK_RAW, 0);               // 7
    open("/proc/self/maps", O_RDONLY);            // 8
    open("/proc/self/ns/net", O_RDONLY);          // 9
    open("/dev/kmsg", O_RDONLY | O_NONBLOCK);     // 10
    mkfifo(path("/fifo").c_str(), 0600);
    open(path("/fifo").c_str(), O_RDWR);  // 11
  });
  EXPECT_EQ(ids(preflight(process)),
            "fd-inotify fd-memfd fd-netlink-socket fd-raw-socket fd-packet-socket fd-kernel-file "
            "fd-namespace fd-device fd-fifo");
}

TEST_F(FdPreflight, Terminals) {
  TestProcess process([] {
    const int pty = open("/dev/ptmx", O_RDWR | O_NOCTTY);
    grantpt(pty);
    unlockpt(pty);
    open(ptsname(pty), O_RDWR | O_NOCTTY);
  });
  EXPECT_EQ(ids(preflight(process)), "fd-terminal fd-terminal");
}

TEST_F(FdPreflight, FilesWithoutAPathAndLocks) {
  TestProcess process([&] {
    const int deleted = open(path("/file").c_str(), O_RDWR | O_CREAT, 0600);
    unlink(path("/file").c_str());
    open("/tmp", O_RDWR | O_TMPFILE, 0600);
    const int locked = open(path("/file").c_str(), O_RDWR | O_CREAT, 0600);
    flock(locked, LOCK_EX);
    (void)deleted;
  });
  EXPECT_EQ(ids(preflight(process)), "fd-deleted-file fd-unnamed-file fd-locked");
}

TEST_F(FdPreflight, ReplacedFileIsNotTakenForTheOldOne) {
  TestProcess process([&] {
    open(path("/file").c_str(), O_RDWR | O_CREAT, 0600);
    link(path("/file").c_str(), path("/socket").c_str());  // keeps the old one alive
    unlink(path("/file").c_str());
    close(open(path("/file").c_str(), O_RDWR | O_CREAT, 0600));
  });
  const Findings findings = preflight(process);
  ASSERT_EQ(findings.size(), 1U);
  EXPECT_TRUE(findings[0].id() == "fd-deleted-file" || findings[0].id() == "fd-unreachable-file");
}

TEST_F(FdPreflight, UnixSocketsWithAnOutside) {
  int pair[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
  const UniqueFd here(pair[0]);
  UniqueFd there(pair[1]);
  // Kept above what the fixture closes.
  TestProcess process([&] {
    sockaddr_un name{};
    name.sun_family = AF_UNIX;
    snprintf(name.sun_path, sizeof name.sun_path, "%s", path("/socket").c_str());
    const int listener = socket(AF_UNIX, SOCK_STREAM, 0);
    if (bind(listener, reinterpret_cast<sockaddr*>(&name), sizeof name) != 0) _exit(1);
    listen(listener, 5);
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) != 0) _exit(1);
    // Descriptors in flight.
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
    char byte = 'x';
    iovec part{&byte, 1};
    msghdr header{};
    header.msg_iov = &part;
    header.msg_iovlen = 1;
    header.msg_control = control;
    header.msg_controllen = sizeof control;
    cmsghdr* rights = CMSG_FIRSTHDR(&header);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(rights), &ends[0], sizeof(int));
    if (sendmsg(ends[0], &header, 0) != 1) _exit(1);
  });
  EXPECT_EQ(ids(preflight(process)), "fd-unix-listening fd-unix-named fd-unix-descriptors");
}

TEST_F(FdPreflight, SharedWithAnotherProcess) {
  // The second process inherits everything from the first.
  TestProcess process([&] {
    int ends[2];
    if (pipe(ends) != 0) _exit(1);                                 // 3 4
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) != 0) _exit(1);  // 5 6
    eventfd(0, 0);                                                 // 7
    open(path("/file").c_str(), O_RDWR | O_CREAT, 0600);           // 8
    const pid_t self = getpid();
    if (fork() == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      if (getppid() != self) _exit(1);
      close_range(kTestPidfd, kTestPidfd, 0);
      pause();
    }
    usleep(50'000);
  });
  EXPECT_EQ(ids(preflight(process)),
            "fd-pipe-outside fd-pipe-outside fd-shared-outside fd-shared-outside fd-shared-outside "
            "~fd-shared-file");
}

TEST_F(FdPreflight, PeerInAnotherProcess) {
  TestProcess process([&] {
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) != 0) _exit(1);
    const pid_t self = getpid();
    if (fork() == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      if (getppid() != self) _exit(1);
      close(ends[0]);
      close_range(kTestPidfd, kTestPidfd, 0);
      pause();
    }
    close(ends[1]);
    usleep(50'000);
  });
  EXPECT_EQ(ids(preflight(process)), "fd-unix-outside-peer");
}

TEST(FdTableCapture, RefusedWhenItAppearsLater) {
  TestProcess process([] { close(kTestPidfd); }, [] { inotify_init(); });
  FdTableCapture capture(process.pid());
  EXPECT_EQ(capture.describe().descriptors_size(), 3);
  process.act();
  EXPECT_EQ(capture.describe().descriptors_size(), 3);  // it may be gone at the switch
  try {
    capture.describe_stopped();
    FAIL() << "described an inotify descriptor";
  } catch (const Refused& refused) {
    EXPECT_EQ(refused.id(), "fd-inotify");
  }
}

TEST(FdTableCapture, DescribingDoesNotConsumeNorKeep) {
  TestProcess process([] {
    close(kTestPidfd);
    int ends[2];
    if (pipe(ends) != 0 || write(ends[1], "waiting", 7) != 7) _exit(1);
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) != 0 || write(ends[0], "here too", 8) != 8)
      _exit(1);
  });
  RemoteTask task = RemoteTask::attach(process.pid());
  task.stop();
  FdTableCapture capture(process.pid());
  const auto first = capture.describe_stopped(&task);
  const auto by_fdinfo = capture.describe_stopped();
  capture.take_copies();
  SyscallBatch batch;
  capture.ask_close_on_exec(batch);
  capture.read_close_on_exec(task.run(batch));
  const auto last = capture.describe_final();
  EXPECT_EQ(capture.sockets().size(), 2U);
  EXPECT_TRUE(compare_fd_tables(first, by_fdinfo).empty());
  EXPECT_TRUE(compare_fd_tables(first, last).empty());
  std::string contents;
  for (const auto& file : last.files()) {
    contents += file.pipe_end().contents();
    for (const auto& message : file.unix_socket().messages()) contents += "/" + message;
  }
  EXPECT_EQ(contents, "waiting/here too");
  const auto count = ProcFdDirectory(getpid()).list().size();
  capture.give_back();
  EXPECT_EQ(ProcFdDirectory(getpid()).list().size() + last.descriptors_size(), count);
  EXPECT_TRUE(capture.sockets().empty());
}

TEST(CompareFdTables, NamesFieldAndValues) {
  proto::FdTable a;
  auto* file = a.add_files();
  file->set_id(3);
  file->mutable_eventfd()->set_count(4);
  proto::FdTable b = a;
  b.mutable_files(0)->mutable_eventfd()->set_count(5);
  b.add_descriptors()->set_fd(9);
  const auto lines = compare_fd_tables(a, b);
  ASSERT_EQ(lines.size(), 2U);
  EXPECT_EQ(lines[0], "fd 9: not expected");
  EXPECT_NE(lines[1].find("eventfd.count: 4 -> 5"), std::string::npos) << lines[1];
}

}  // namespace
}  // namespace godwit
