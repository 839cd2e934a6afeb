// The loop that every workload program shares. A workload exercises one kind of kernel object and
// checks itself, so that a move at any instant, any number of times, either passes unnoticed or is
// reported.
//
//   workload STATUS-FILE STOP-FILE
//
// STATUS-FILE gets one line per event: READY, then PASS or "FAIL: what". The program works until
// STOP-FILE exists and exits with 0 or 1. Nothing goes to stdout; no descriptor is kept for the
// status file, so a workload's descriptors are its own.
//
// What must hold for any process is checked here at each turn: its ids, and clocks that never go
// back nor leap.
#pragma once

#include <fcntl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <string>

namespace selfcheck {

inline std::string& status_path() {
  static std::string path;
  return path;
}

// Appends one line to the status file; thread-safe, one write.
inline void report(const std::string& line) {
  const std::string text = line + "\n";
  const int fd = open(status_path().c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
  if (fd < 0 || write(fd, text.data(), text.size()) != static_cast<ssize_t>(text.size())) _exit(3);
  close(fd);
}

// Says what is wrong and ends the whole process. From any thread.
[[noreturn]] inline void give_up(const std::string& what) {
  report("FAIL: " + what);
  _exit(1);
}

inline void expect(bool condition, const std::string& message) {
  if (!condition) give_up(message);
}

// For a call that must not fail: the message ends in the text of errno. Returns the result.
template <typename Result>
Result must(Result result, const std::string& message) {
  const int code = errno;
  if (result < 0) give_up(message + ": " + strerror(code));
  return result;
}

template <typename Value, typename Wanted>
void expect_equal(const Value& found, const Wanted& wanted, const std::string& message) {
  if (!(found == static_cast<Value>(wanted))) {
    give_up(message + ": found " + std::to_string(found) + ", expected " + std::to_string(wanted));
  }
}

inline std::int64_t now_ns(clockid_t clock) {
  timespec now{};
  clock_gettime(clock, &now);
  return now.tv_sec * 1'000'000'000LL + now.tv_nsec;
}

inline void sleep_ms(int ms) {
  timespec left{ms / 1000, (ms % 1000) * 1'000'000L};
  while (nanosleep(&left, &left) != 0 && errno == EINTR) {
  }
}

// What must not change whatever happens to the process.
class Identity {
 public:
  void check() {
    expect_equal(getpid(), pid_, "getpid changed");
    expect_equal(syscall(SYS_gettid), tid_, "gettid changed");
    expect_equal(getpgid(0), group_, "the process group changed");
    expect_equal(getsid(0), session_, "the session changed");
    monotonic_ = no_leap(CLOCK_MONOTONIC, monotonic_, "CLOCK_MONOTONIC");
    boottime_ = no_leap(CLOCK_BOOTTIME, boottime_, "CLOCK_BOOTTIME");
  }

 private:
  static std::int64_t no_leap(clockid_t clock, std::int64_t before, const std::string& name) {
    const std::int64_t now = now_ns(clock);
    expect(now >= before, name + " went back by " + std::to_string(before - now) + " ns");
    expect(now - before < 60'000'000'000LL, name + " leapt by more than a minute");
    return now;
  }

  pid_t pid_ = getpid();
  long tid_ = syscall(SYS_gettid);
  pid_t group_ = getpgid(0);
  pid_t session_ = getsid(0);
  std::int64_t monotonic_ = now_ns(CLOCK_MONOTONIC);
  std::int64_t boottime_ = now_ns(CLOCK_BOOTTIME);
};

// Runs the workload; the value is main's. `turn` is called every few milliseconds until the stop
// file is there, at least once; it may sleep, but not long.
inline int run_workload(int argc, char** argv, const std::function<void()>& set_up,
                        const std::function<void()>& turn,
                        const std::function<void()>& final_check) {
  if (argc != 3) {
    fprintf(stderr, "usage: %s STATUS-FILE STOP-FILE\n", argv[0]);
    return 2;
  }
  status_path() = argv[1];
  Identity identity;
  set_up();
  report("READY");
  do {
    turn();
    identity.check();
    sleep_ms(2);
  } while (access(argv[2], F_OK) != 0);
  final_check();
  identity.check();
  report("PASS");
  return 0;
}

}  // namespace selfcheck
