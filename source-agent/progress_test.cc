#include "source-agent/progress.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <pty.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <chrono>
#include <thread>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/base/unique_fd.h"

namespace godwit {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

// Standard error leads to a pseudo terminal while it lives; its other end is read here.
class TerminalOnStderr {
 public:
  TerminalOnStderr() {
    int master = -1;
    int slave = -1;
    const winsize size{24, 100, 0, 0};
    if (::openpty(&master, &slave, nullptr, nullptr, &size) != 0) throw_system("openpty");
    master_.reset(master);
    before_.reset(::fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 10));
    ::dup2(slave, STDERR_FILENO);
    ::close(slave);
    ::fcntl(master, F_SETFL, O_NONBLOCK);
    ::setenv("TERM", "xterm", 1);
    ::unsetenv("NO_COLOR");
    set_up_log("test", LogLevel::kInfo);
  }
  ~TerminalOnStderr() { ::dup2(before_.get(), STDERR_FILENO); }

  // What has been written since the last time.
  std::string written() {
    std::string out;
    char buffer[4096];
    ssize_t got = 0;
    while ((got = ::read(master_.get(), buffer, sizeof buffer)) > 0) {
      out.append(buffer, static_cast<std::size_t>(got));
    }
    return out;
  }
  void type(char key) { ASSERT_EQ(::write(master_.get(), &key, 1), 1); }
  void hang_up() { master_.reset(); }

 private:
  UniqueFd master_;
  UniqueFd before_;
};

MigrateOptions options() {
  MigrateOptions out;
  out.pid = 7;
  out.to = {"b", 1};
  return out;
}

RoundReport first_round() { return {.round = 1, .pages = 10, .bytes = 40'000, .ns = 1'000'000}; }

TEST(ProgressTest, DrawsABlockAndLeavesTheScreenClean) {
  TerminalOnStderr terminal;
  {
    Progress progress(options());
    EXPECT_TRUE(progress.wants_ticks());
    progress.enter(State::kPreCopy);
    const std::string drawn = terminal.written();
    EXPECT_THAT(drawn, HasSubstr("pid 7 to b:1"));
    EXPECT_THAT(drawn, HasSubstr("\x1b[1mPreCopy\x1b[0m"));
    progress.end_round(first_round(), {});
    EXPECT_THAT(terminal.written(), Not(HasSubstr("round 1:"))) << "the block tells the rounds";
  }
  EXPECT_THAT(terminal.written(), HasSubstr("\r\x1b[1A\x1b[J"));
}

TEST(ProgressTest, DrawsNotMoreOftenThanAnEyeSees) {
  TerminalOnStderr terminal;
  Progress progress(options());
  progress.enter(State::kPreCopy);
  progress.begin_round(1);
  terminal.written();
  for (int i = 0; i < 1000; ++i) progress.sent(1, 1, 1);
  EXPECT_EQ(terminal.written(), "");
  std::this_thread::sleep_for(std::chrono::milliseconds(120));
  progress.tick();
  EXPECT_THAT(terminal.written(), HasSubstr("PreCopy"));
}

TEST(ProgressTest, PutsLogLinesAboveTheBlock) {
  TerminalOnStderr terminal;
  Progress progress(options());
  progress.enter(State::kPreCopy);
  terminal.written();
  log_info("something happened");
  const std::string drawn = terminal.written();
  const auto erased = drawn.find("\x1b[J");
  const auto said = drawn.find("something happened\r\r\n");  // the line discipline adds a \r
  const auto block = drawn.find("PreCopy");
  ASSERT_NE(erased, std::string::npos) << drawn;
  ASSERT_NE(said, std::string::npos) << drawn;
  ASSERT_NE(block, std::string::npos) << drawn;
  EXPECT_LT(erased, said);
  EXPECT_LT(said, block);
}

TEST(ProgressTest, WritesNothingInTheBlackout) {
  TerminalOnStderr terminal;
  Progress progress(options());
  progress.enter(State::kFreezing);
  progress.quiet();
  EXPECT_THAT(terminal.written(), HasSubstr("the switch"));
  EXPECT_FALSE(progress.wants_ticks());
  std::this_thread::sleep_for(std::chrono::milliseconds(120));
  log_info("from the blackout");
  progress.enter(State::kSwitching);
  progress.sent(1, 2, 3);
  progress.tick();
  EXPECT_EQ(terminal.written(), "");
  progress.loud();
  EXPECT_THAT(terminal.written(), HasSubstr("from the blackout"));
}

TEST(ProgressTest, HonoursNoColorAndDumbTerminals) {
  TerminalOnStderr terminal;
  ::setenv("NO_COLOR", "1", 1);
  {
    Progress progress(options());
    progress.enter(State::kPreCopy);
  }
  const std::string plain = terminal.written();
  EXPECT_THAT(plain, HasSubstr("PreCopy"));
  EXPECT_THAT(plain, Not(HasSubstr("\x1b[1m")));
  ::setenv("TERM", "dumb", 1);
  Progress progress(options());
  EXPECT_FALSE(progress.wants_ticks());
  progress.enter(State::kPreCopy);
  EXPECT_EQ(terminal.written(), "");
  progress.end_round(first_round(), {});
  EXPECT_THAT(terminal.written(), HasSubstr("round 1: 10 pages, 0 zero, 40.0 kB in 1.0 ms\r\n"));
  EXPECT_FALSE(can_draw_block(nullptr));
  EXPECT_FALSE(can_draw_block(""));
  EXPECT_TRUE(wants_colours(""));
}

TEST(ProgressTest, IsSilentWhenAskedTo) {
  TerminalOnStderr terminal;
  MigrateOptions quiet = options();
  quiet.quiet = true;
  {
    Progress progress(quiet);
    progress.enter(State::kPreCopy);
    progress.end_round(first_round(), {});
  }
  EXPECT_EQ(terminal.written(), "");
}

TEST(ProgressTest, DoesNotWaitForATerminalThatIsStopped) {
  TerminalOnStderr terminal;
  Progress progress(options());
  progress.enter(State::kPreCopy);
  terminal.type('\x13');  // Ctrl-S
  const std::int64_t began_ns = monotonic_ns();
  for (int i = 0; i < 200; ++i) {
    progress.enter(State::kPreCopy);
    log_info("line {}", i);
  }
  EXPECT_LT(monotonic_ns() - began_ns, 1'000'000'000);
  std::string all = terminal.written();  // the stop takes effect a moment after the key
  terminal.type('\x11');                 // Ctrl-Q
  progress.enter(State::kFreezing);
  // A terminal takes some KiB at once, and the key its time.
  const std::int64_t deadline_ns = monotonic_ns() + 10'000'000'000;
  while (all.find("Freezing") == std::string::npos && monotonic_ns() < deadline_ns) {
    progress.enter(State::kFreezing);
    all += terminal.written();
  }
  EXPECT_THAT(all, HasSubstr("line 0\r"));
  EXPECT_THAT(all, HasSubstr("line 199\r"));
  EXPECT_THAT(all, HasSubstr("Freezing"));
}

TEST(ProgressTest, OutlivesItsTerminal) {
  TerminalOnStderr terminal;
  Progress progress(options());
  progress.enter(State::kPreCopy);
  terminal.hang_up();
  progress.enter(State::kFreezing);
  log_warning("nobody reads this");
  progress.quiet();
  progress.loud();
  progress.enter(State::kCompleted);
}

TEST(ProgressTest, SaysALineForEachRoundElsewhere) {
  int ends[2];
  ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  const UniqueFd reading(ends[0]);
  UniqueFd writing(ends[1]);
  const UniqueFd before(::fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 10));
  ::dup2(writing.get(), STDERR_FILENO);
  {
    Progress progress(options());
    progress.enter(State::kPreCopy);
    progress.end_round(first_round(), {});
    EXPECT_FALSE(progress.wants_ticks());
  }
  ::dup2(before.get(), STDERR_FILENO);
  writing.reset();
  char text[256];
  const ssize_t got = ::read(reading.get(), text, sizeof text);
  ASSERT_GT(got, 0);
  EXPECT_EQ(std::string(text, static_cast<std::size_t>(got)),
            "round 1: 10 pages, 0 zero, 40.0 kB in 1.0 ms\n");
}

}  // namespace
}  // namespace godwit
