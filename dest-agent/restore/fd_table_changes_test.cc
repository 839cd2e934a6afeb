// The blackout's part of a move of descriptors: what has not changed since it was described is not
// named, and every change is seen.
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

// 3 and 4: a file, opened twice; 5 and 6: a pipe with something in it; 7: the copy of 6; 8: a
// counter; 9: a semaphore; 10: an epoll set with 5, 8 and 9; 11: a copy of 8; 12 and 13: a pipe.
void open_some(const std::string& path) {
  int ends[2];
  expect_child(open(path.c_str(), O_RDWR) == 3 && open(path.c_str(), O_RDWR) == 4, "open");
  lseek(3, 2, SEEK_SET);
  expect_child(pipe2(ends, O_NONBLOCK) == 0 && write(6, "abc", 3) == 3 && dup(6) == 7, "pipe");
  expect_child(eventfd(5, EFD_NONBLOCK) == 8 && eventfd(3, EFD_SEMAPHORE) == 9, "eventfd");
  expect_child(epoll_create1(EPOLL_CLOEXEC) == 10, "epoll");
  for (const int fd : {5, 8, 9}) {
    epoll_event event{EPOLLIN, {.fd = fd}};
    expect_child(epoll_ctl(10, EPOLL_CTL_ADD, fd, &event) == 0, "epoll_ctl");
  }
  expect_child(dup(8) == 11 && pipe(ends) == 0, "dup");
}

TEST_F(FdTableMove, WhatHasNotChangedIsNotNamed) {
  TestProcess source([&] { open_some(path()); });
  Move move(source);
  move.build_ahead();
  move.finish_changes();
  EXPECT_EQ(move.differences(), "");
  EXPECT_EQ(move.wanted().descriptors_size(), 14);
  EXPECT_TRUE(move.changes().changes_only());
  EXPECT_EQ(move.changes().ShortDebugString(), "changes_only: true");
}

struct Change {
  const char* name;
  std::function<void(const std::string& path)> act;
};

const Change kChanges[] = {
    {"offset", [](auto&) { lseek(3, 5, SEEK_SET); }},
    {"status flags", [](auto&) { fcntl(3, F_SETFL, O_APPEND); }},
    {"status flags of a pipe", [](auto&) { fcntl(6, F_SETFL, 0); }},
    {"close on exec", [](auto&) { fcntl(4, F_SETFD, FD_CLOEXEC); }},
    {"close on exec of a pipe", [](auto&) { fcntl(7, F_SETFD, FD_CLOEXEC); }},
    {"closed", [](auto&) { close(4); }},
    {"leader closed", [](auto&) { close(6); }},
    {"opened", [](auto&) { eventfd(1, 0); }},
    {"closed and opened", [](auto& path) { close(3), open(path.c_str(), O_RDWR); }},
    {"shared instead of opened",
     [](auto&) {
       lseek(3, 0, SEEK_SET);
       dup2(3, 4);
     }},
    {"shared instead of opened, at the same place", [](auto&) { dup3(4, 3, 0); }},
    {"opened instead of shared",
     [](auto&) {
       close(11);
       eventfd(5, EFD_NONBLOCK);
     }},
    {"exchanged",
     [](auto&) {
       dup2(3, 20);
       dup2(4, 3);
       dup2(20, 4);
       close(20);
     }},
    {"another kind", [](auto&) { dup2(3, 9); }},
    {"pipe read",
     [](auto&) {
       char byte = 0;
       expect_child(read(5, &byte, 1) == 1, "read");
     }},
    {"pipe filled again with as much",
     [](auto&) {
       char block[3];
       expect_child(read(5, block, 3) == 3 && write(6, "xyz", 3) == 3, "refill");
     }},
    {"empty pipe written to", [](auto&) { expect_child(write(13, "new", 3) == 3, "write"); }},
    {"another pipe",
     [](auto&) {
       for (const int fd : {5, 6, 7}) close(fd);
       int ends[2];
       expect_child(pipe2(ends, O_NONBLOCK) == 0 && write(6, "abc", 3) == 3 && dup(6) == 7, "pipe");
     }},
    {"pipe closed",
     [](auto&) {
       close(12);
       close(13);
     }},
    {"count up",
     [](auto&) {
       const std::uint64_t more = 7;
       expect_child(write(8, &more, sizeof more) == sizeof more, "write");
     }},
    {"count down",
     [](auto&) {
       std::uint64_t count = 0;
       const std::uint64_t less = 2;
       expect_child(read(8, &count, sizeof count) > 0 && write(8, &less, sizeof less) > 0, "count");
     }},
    {"semaphore",
     [](auto&) {
       std::uint64_t count = 0;
       expect_child(read(9, &count, sizeof count) == sizeof count, "read");
     }},
    {"epoll target",
     [](auto&) {
       epoll_event event{EPOLLOUT, {.fd = 77}};
       expect_child(epoll_ctl(10, EPOLL_CTL_MOD, 5, &event) == 0, "epoll_ctl");
     }},
    {"epoll target gone",
     [](auto&) { expect_child(epoll_ctl(10, EPOLL_CTL_DEL, 9, nullptr) == 0, "epoll_ctl"); }},
    {"file grown", [](auto&) { expect_child(pwrite(3, "longer", 6, 20) == 6, "pwrite"); }},
    {"another file at the path",
     [](auto& path) {
       rename(path.c_str(), (path + "-old").c_str());
       close(3);
       close(4);
       expect_child(open(path.c_str(), O_RDWR | O_CREAT, 0600) == 3, "open");
       expect_child(write(3, "0123456789", 10) == 10 && open(path.c_str(), O_RDWR) == 4, "write");
       lseek(3, 2, SEEK_SET);
       unlink((path + "-old").c_str());
     }},
};

TEST_F(FdTableMove, EveryChangeIsSeen) {
  for (const Change& change : kChanges) {
    SCOPED_TRACE(change.name);
    unlink(path().c_str());
    write_file_at(path(), "0123456789");
    TestProcess source([&] { open_some(path()); }, [&] { change.act(path()); });
    Move move(source);
    move.build_ahead();
    source.act();
    move.finish_changes();
    EXPECT_EQ(move.differences(), "");
    EXPECT_NE(move.changes().ShortDebugString(), "changes_only: true");
    EXPECT_LT(move.changes().descriptors_size(), 8);
    const UniqueFd file = move.copy(3);
    struct stat there {};
    struct stat here {};
    ASSERT_EQ(fstat(file.get(), &there), 0);
    ASSERT_EQ(stat(path().c_str(), &here), 0);
    EXPECT_EQ(there.st_ino, here.st_ino);
  }
}

TEST_F(FdTableMove, WhatWasTakenForUnchangedIsConfirmed) {
  const Change changes[] = {
      {"owner", [](auto&) { fcntl(3, F_SETOWN, getpid()); }},
      {"signal", [](auto&) { fcntl(8, F_SETSIG, SIGRTMIN); }},
      {"capacity", [](auto&) { fcntl(6, F_SETPIPE_SZ, 8192); }},
      {"lock", [](auto&) { flock(3, LOCK_EX); }},
      {"epoll target elsewhere",
       [](auto&) {
         dup2(9, 30);
         close(9);
         eventfd(3, EFD_SEMAPHORE);
       }},
  };
  for (const Change& change : changes) {
    SCOPED_TRACE(change.name);
    TestProcess source([&] { open_some(path()); }, [&] { change.act(path()); });
    Move move(source);
    move.build_ahead();
    source.act();
    EXPECT_THROW(move.finish_changes(), Error);
  }
}

}  // namespace
}  // namespace godwit
