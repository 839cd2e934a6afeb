// Moves descriptor tables from one child process into another and describes the result again: the
// source's code checks the destination's.
#include "dest-agent/restore/fd_table.h"

#include <gtest/gtest.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>

#include <cstring>

#include "dest-agent/restore/fd_table_fixture.h"

namespace godwit {
namespace {

TEST_F(FdTableMove, RegularFilesDirectoriesAndDevices) {
  TestProcess source([&] {
    const int file =
        open(path().c_str(), O_RDWR | O_CREAT | O_TRUNC | O_APPEND | O_NONBLOCK | O_CLOEXEC, 0644);
    expect_child(file == 3, "the first file is 3");
    expect_child(write(file, "abcdefgh", 8) == 8, "write");
    lseek(file, 3, SEEK_SET);
    dup2(file, 17);
    open(path().c_str(), O_RDONLY);
    lseek(4, 6, SEEK_SET);
    open(directory().c_str(), O_RDONLY | O_DIRECTORY);
    open("/dev/urandom", O_RDONLY);
    open("/dev/zero", O_RDWR | O_CLOEXEC);
    open(directory().c_str(), O_PATH);
  });
  Move move(source);
  move.build();
  move.build();
  move.finish();
  EXPECT_EQ(move.differences(), "");
  EXPECT_EQ(move.found().files_size(), 7);  // 0 to 2 share one
  const UniqueFd shared = move.copy(3);
  EXPECT_EQ(lseek(shared.get(), 0, SEEK_CUR), 3);
  EXPECT_EQ(lseek(shared.get(), 5, SEEK_SET), 5);
  EXPECT_EQ(lseek(move.copy(17).get(), 0, SEEK_CUR), 5);  // one offset
}

TEST_F(FdTableMove, DirectoryReadToItsEndCanBeRewound) {
  constexpr int kEntries = 400;  // more than a block: an indexed directory where there are such
  const auto entry = [&](int number) { return fmt::format("{}/{}", directory(), number); };
  for (int i = 0; i < kEntries; ++i) write_file_at(entry(i), "");
  const ScopeExit remove([&] {
    for (int i = 0; i < kEntries; ++i) unlink(entry(i).c_str());
  });
  const auto read_some = [](int fd) {
    alignas(8) char block[4096];
    return syscall(SYS_getdents64, fd, block, sizeof block);
  };
  TestProcess source([&] {
    const int listing = open(directory().c_str(), O_RDONLY | O_DIRECTORY);
    while (read_some(listing) > 0) {
    }
  });
  Move move(source);
  move.build();
  move.finish();
  EXPECT_EQ(move.differences(), "");
  const UniqueFd listing = move.copy(3);
  EXPECT_EQ(read_some(listing.get()), 0);
  EXPECT_EQ(lseek(listing.get(), 0, SEEK_SET), 0);
  EXPECT_GT(read_some(listing.get()), 0);
}

TEST_F(FdTableMove, MissingFileIsNamedWithTheWayOut) {
  TestProcess source([&] { open(path().c_str(), O_RDONLY); });
  Move move(source);
  auto want = move.capture().describe();
  unlink(path().c_str());
  try {
    move.restorer().build(want);
    FAIL() << "built without the file";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("fd 3: open " + path()), std::string::npos)
        << error.what();
    EXPECT_NE(std::string(error.what()).find("No such file"), std::string::npos) << error.what();
    EXPECT_FALSE(error.hint().empty());
  }
}

TEST_F(FdTableMove, DifferentSizeIsRefused) {
  TestProcess source([&] { open(path().c_str(), O_RDONLY); });
  Move move(source);
  auto want = move.capture().describe();
  want.mutable_files(1)->mutable_regular_file()->set_bytes(11);
  want.mutable_files(1)->mutable_regular_file()->set_modified_ns(clock_ns(CLOCK_REALTIME) +
                                                                 1'000'000'000);
  EXPECT_THROW(move.restorer().build(want), Error);
}

TEST_F(FdTableMove, PipesKeepContentsCapacityAndEnds) {
  TestProcess source([] {
    int a[2];
    int b[2];
    int c[2];
    int d[2];
    expect_child(pipe(a) == 0 && pipe2(b, O_NONBLOCK | O_CLOEXEC) == 0, "pipe");
    fcntl(a[0], F_SETPIPE_SZ, 1 << 18);
    const std::string text(100'000, 'x');
    expect_child(write(a[1], text.data(), text.size()) == 100'000, "fill");
    expect_child(pipe2(c, O_DIRECT | O_NONBLOCK) == 0, "packet pipe");
    expect_child(write(c[1], "one", 3) == 3 && write(c[1], "three", 5) == 5, "packets");
    expect_child(pipe(d) == 0 && write(d[1], "last words", 10) == 10, "pipe");
    close(d[1]);
    open("/proc/self/fd/3", O_RDONLY | O_NONBLOCK);  // another open file of the same end
  });
  Move move(source);
  move.build();
  move.finish();
  EXPECT_EQ(move.differences(), "");
  char text[16];
  const UniqueFd packets = move.copy(7);
  EXPECT_EQ(read(packets.get(), text, sizeof text), 3);
  EXPECT_EQ(read(packets.get(), text, sizeof text), 5);
  const UniqueFd orphan = move.copy(9);
  EXPECT_EQ(read(orphan.get(), text, sizeof text), 10);
  EXPECT_EQ(read(orphan.get(), text, sizeof text), 0);  // the writing end is closed
  EXPECT_EQ(fcntl(move.copy(3).get(), F_GETPIPE_SZ), 1 << 18);
  const UniqueFd writer = move.copy(6);
  EXPECT_EQ(write(writer.get(), "x", 1), 1);
  EXPECT_EQ(read(move.copy(5).get(), text, sizeof text), 1);
}

TEST_F(FdTableMove, EventfdsTimerfdsSignalfds) {
  TestProcess source([] {
    eventfd(7, EFD_SEMAPHORE | EFD_NONBLOCK);
    const int big = eventfd(0, EFD_CLOEXEC);
    const std::uint64_t count = 0x1234567890;
    expect_child(write(big, &count, 8) == 8, "count");
    sigset_t mask;
    sigemptyset(&mask);
    sigaddset(&mask, SIGUSR1);
    sigaddset(&mask, SIGRTMAX);
    signalfd(-1, &mask, SFD_NONBLOCK);
    const int periodic = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    itimerspec value{{0, 10'000'000}, {0, 10'000'000}};
    timerfd_settime(periodic, 0, &value, nullptr);
    const int once = timerfd_create(CLOCK_BOOTTIME, 0);
    value = {{0, 0}, {100, 5}};
    timerfd_settime(once, 0, &value, nullptr);
    const int wall = timerfd_create(CLOCK_REALTIME, 0);
    value = {{0, 0}, {time(nullptr) + 50, 0}};
    timerfd_settime(wall, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, &value, nullptr);
    timerfd_create(CLOCK_MONOTONIC, 0);
    usleep(25'000);
  });
  Move move(source);
  move.build();
  move.finish();
  EXPECT_EQ(move.differences(), "");
  std::uint64_t value = 0;
  EXPECT_EQ(read(move.copy(4).get(), &value, 8), 8);
  EXPECT_EQ(value, 0x1234567890U);
  // The periodic timer keeps its unread count and its phase.
  const proto::TimerFd* before = nullptr;
  for (const auto& file : move.wanted().files()) {
    if (file.id() == 6) before = &file.timerfd();
  }
  ASSERT_NE(before, nullptr);
  EXPECT_GE(before->expirations(), 2U);
  const std::int64_t since_ns = clock_ns(CLOCK_MONOTONIC) - before->deadline_ns();
  const std::uint64_t due = before->expirations() + (since_ns < 0 ? 0 : since_ns / 10'000'000 + 1);
  EXPECT_EQ(read(move.copy(6).get(), &value, 8), 8);
  EXPECT_GE(value + 1, due);
  EXPECT_LE(value, due + 1);
  itimerspec left{};
  EXPECT_EQ(timerfd_gettime(move.copy(7).get(), &left), 0);
  EXPECT_GE(left.it_value.tv_sec, 95);
}

TEST_F(FdTableMove, EpollTargetsNestedAndChanged) {
  TestProcess source(
      [] {
        const int outer = epoll_create1(EPOLL_CLOEXEC);
        const int inner = epoll_create1(0);
        const int event = eventfd(1, 0);
        const int other = eventfd(0, 0);
        epoll_event wanted{};
        wanted.events = EPOLLIN | EPOLLET;
        wanted.data.u64 = 0xfeedfacecafebeef;
        epoll_ctl(inner, EPOLL_CTL_ADD, event, &wanted);
        wanted.events = EPOLLIN | EPOLLONESHOT;
        wanted.data.u64 = 2;
        epoll_ctl(inner, EPOLL_CTL_ADD, other, &wanted);
        wanted.events = EPOLLIN;
        expect_child(epoll_ctl(outer, EPOLL_CTL_ADD, inner, &wanted) == 0, "nested");
      },
      [] {
        epoll_event wanted{};
        wanted.events = EPOLLIN | EPOLLOUT;
        wanted.data.u64 = 3;
        epoll_ctl(4, EPOLL_CTL_MOD, 6, &wanted);
        epoll_ctl(4, EPOLL_CTL_DEL, 5, nullptr);
        close(5);
        const int fresh = eventfd(9, 0);  // 5 again
        epoll_ctl(4, EPOLL_CTL_ADD, fresh, &wanted);
        dup2(6, 20);
      });
  Move move(source);
  move.build();
  source.act();
  move.build();
  move.finish();
  EXPECT_EQ(move.differences(), "");
  epoll_event ready[4];
  EXPECT_EQ(epoll_wait(move.copy(4).get(), ready, 4, 0), 2);
}

TEST_F(FdTableMove, EpollTargetWithoutANumberIsRefused) {
  TestProcess source([] {
    const int set = epoll_create1(0);
    const int event = eventfd(1, 0);
    epoll_event wanted{};
    wanted.events = EPOLLIN;
    epoll_ctl(set, EPOLL_CTL_ADD, event, &wanted);
    dup2(event, 30);
    close(event);
  });
  Move move(source);
  Findings findings;
  preflight_fd_table(source.pid(), findings);
  ASSERT_EQ(findings.size(), 1U);
  EXPECT_EQ(findings[0].id(), "fd-epoll-target");
  EXPECT_THROW(move.finish(), Refused);
}

TEST_F(FdTableMove, UnixPairs) {
  TestProcess source([] {
    int a[2];
    int b[2];
    int c[2];
    int d[2];
    expect_child(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, a) == 0, "stream pair");
    const std::string text(50'000, 'y');
    expect_child(write(a[0], text.data(), text.size()) == 50'000, "fill");
    expect_child(socketpair(AF_UNIX, SOCK_DGRAM, 0, b) == 0, "datagram pair");
    const int on = 1;
    const int bytes = 77'000;
    setsockopt(b[1], SOL_SOCKET, SO_PASSCRED, &on, sizeof on);
    setsockopt(b[0], SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
    expect_child(send(b[0], "first", 5, 0) == 5 && send(b[0], "", 0, 0) == 0 &&
                     send(b[0], "second", 6, 0) == 6,
                 "send");
    expect_child(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, c) == 0, "seqpacket pair");
    expect_child(send(c[1], "tail", 4, 0) == 4, "send");
    close(c[1]);
    expect_child(socketpair(AF_UNIX, SOCK_STREAM, 0, d) == 0, "stream pair");
    expect_child(send(d[0], "bye", 3, 0) == 3, "send");
    shutdown(d[0], SHUT_WR);
    socket(AF_UNIX, SOCK_STREAM, 0);
  });
  Move move(source);
  move.build();
  move.finish();
  EXPECT_EQ(move.differences(), "");
  char text[64];
  EXPECT_EQ(recv(move.copy(6).get(), text, sizeof text, 0), 5);
  EXPECT_EQ(recv(move.copy(6).get(), text, sizeof text, 0), 0);
  EXPECT_EQ(recv(move.copy(6).get(), text, sizeof text, 0), 6);
  const UniqueFd widow = move.copy(7);
  EXPECT_EQ(recv(widow.get(), text, sizeof text, 0), 4);
  EXPECT_EQ(recv(widow.get(), text, sizeof text, 0), 0);
  ucred peer{};
  socklen_t bytes = sizeof peer;
  EXPECT_EQ(getsockopt(move.copy(3).get(), SOL_SOCKET, SO_PEERCRED, &peer, &bytes), 0);
  EXPECT_NE(peer.pid, getpid());
}

TEST_F(FdTableMove, ShapeChangesBetweenRounds) {
  TestProcess source(
      [&] {
        open(path().c_str(), O_RDONLY);
        eventfd(1, 0);
        int ends[2];
        expect_child(pipe(ends) == 0, "pipe");
        dup2(4, 40);
      },
      [&] {
        close(3);
        close(4);                                 // its file lives on as 40
        eventfd(2, EFD_SEMAPHORE);                // 3
        open("/dev/null", O_WRONLY | O_CLOEXEC);  // 4
        fcntl(5, F_SETFD, FD_CLOEXEC);
        dup2(kTestPidfd - 190, 11);
      });
  Move move(source);
  move.build();
  source.act();
  move.finish();  // without another build: the blackout does the rest
  EXPECT_EQ(move.differences(), "");
}

TEST_F(FdTableMove, NumberOfThePidfdIsWanted) {
  TestProcess source([&] {});
  Move move(source);
  move.source_task().stop();
  SyscallBatch batch;
  batch.add(SYS_dup3, {0, kTestPidfd, 0});
  move.source_task().run(batch);
  move.source_task().resume();
  move.build();
  EXPECT_NE(move.restorer().agent_pidfd(), kTestPidfd);
  move.finish();
  EXPECT_EQ(move.differences(), "");
}

// Figures, with a bound that only a quadratic step would break.
void move_many(int count, const std::string& path) {
  rlimit limit{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
  count = static_cast<int>(std::min<rlim_t>(count, limit.rlim_max / 2));
  TestProcess source([&] {
    rlimit all = limit;
    all.rlim_cur = all.rlim_max;
    setrlimit(RLIMIT_NOFILE, &all);
    for (int i = 0; i < count / 4; ++i) {
      int pair[2];
      eventfd(0, 0);
      open(path.c_str(), O_RDONLY);
      expect_child(pipe(pair) == 0, "pipe");
    }
  });
  Move move(source);
  std::int64_t start = monotonic_ns();
  const auto shape = move.capture().describe(FdDepth::kAhead);
  const double describe_ms = to_ms(monotonic_ns() - start);
  start = monotonic_ns();
  move.restorer().build(shape);
  const double build_ms = to_ms(monotonic_ns() - start);
  move.build_ahead();
  move.finish_changes();
  printf(
      "%d descriptors: describe %.2f ms, build %.2f ms; blackout: describe %.2f ms, confirm %.2f "
      "ms, cut over %.2f ms, finish %.2f ms\n",
      count, describe_ms, build_ms, move.describe_final_ms(), move.confirm_ms(), move.cut_over_ms(),
      move.finish_ms());
  EXPECT_EQ(move.differences(), "");
  EXPECT_LT(build_ms, 5000);
  EXPECT_LT(move.describe_final_ms(), 5000);
}

TEST_F(FdTableMove, HundredDescriptors) { move_many(100, path()); }
TEST_F(FdTableMove, TenThousandDescriptors) { move_many(10'000, path()); }

TEST_F(FdTableMove, OwnersAndAsyncFlags) {
  TestProcess source([] {
    int ends[2];
    expect_child(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0, "pair");
    signal(SIGIO, SIG_IGN);
    f_owner_ex owner{F_OWNER_PGRP, getpgrp()};
    fcntl(ends[0], F_SETOWN_EX, &owner);
    fcntl(ends[0], F_SETSIG, SIGRTMIN + 1);
  });
  Move move(source);
  move.build();
  move.finish();
  EXPECT_EQ(move.differences(), "");
}

}  // namespace
}  // namespace godwit
