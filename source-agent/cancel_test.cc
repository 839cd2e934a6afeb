#include "source-agent/cancel.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <unistd.h>

#include <cerrno>

namespace godwit {
namespace {

using ::testing::HasSubstr;

std::string story_of_cancel() {
  try {
    throw_if_cancelled();
  } catch (const Cancelled& error) {
    return error.what();
  }
  return "";
}

TEST(CancelSignalsTest, NotesEachOfThem) {
  for (const int number : {SIGINT, SIGTERM, SIGHUP}) {
    const CancelSignals signals;
    EXPECT_EQ(cancel_requested(), 0);
    EXPECT_NO_THROW(throw_if_cancelled());
    ::kill(::getpid(), number);
    EXPECT_EQ(cancel_requested(), number);
    EXPECT_NE(story_of_cancel(), "");
  }
  const CancelSignals signals;
  ::kill(::getpid(), SIGHUP);
  EXPECT_THAT(story_of_cancel(), HasSubstr("terminal"));
}

TEST(CancelSignalsTest, InterruptsOnlyWaitsThatLetThemIn) {
  const CancelSignals signals;
  const sigset_t mask = cancel_wait_mask();
  ::kill(::getpid(), SIGINT);
  const timespec moment{0, 1'000'000};
  EXPECT_EQ(::ppoll(nullptr, 0, &moment, nullptr), 0) << "went on to its end";
  const timespec long_time{60, 0};
  EXPECT_EQ(::ppoll(nullptr, 0, &long_time, &mask), -1);
  EXPECT_EQ(errno, EINTR);
  EXPECT_EQ(cancel_requested(), SIGINT);
}

TEST(CancelSignalsTest, SwallowsWhatComesTooLate) {
  {
    const CancelSignals signals;
    ::kill(::getpid(), SIGINT);
    ::kill(::getpid(), SIGTERM);
  }
  SUCCEED() << "the default action would have ended this program";
}

TEST(CancelSignalsTest, LeavesAnIgnoredHangUpIgnored) {
  const auto before = ::signal(SIGHUP, SIG_IGN);
  {
    const CancelSignals signals;
    ::kill(::getpid(), SIGHUP);
    EXPECT_EQ(cancel_requested(), 0);
  }
  ::signal(SIGHUP, before);
}

TEST(CancelSignalsTest, IsNotStoppedByAShell) {
  const CancelSignals signals;
  ::kill(::getpid(), SIGTSTP);
  SUCCEED() << "this program goes on";
}

}  // namespace
}  // namespace godwit
