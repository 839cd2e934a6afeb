#include "source-agent/screen_block.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace godwit {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

StyledLine line(const std::string& text, TextStyle style = TextStyle::kPlain) {
  return {{text, style}};
}

TEST(ScreenBlockTest, DrawsOverItself) {
  ScreenBlock block(false);
  EXPECT_FALSE(block.shown());
  EXPECT_EQ(block.draw({line("one"), line("two")}, 80), "\x1b[?25lone\x1b[K\r\ntwo\x1b[K\x1b[?25h");
  EXPECT_TRUE(block.shown());
  EXPECT_EQ(block.draw({line("1"), line("2")}, 80),
            "\x1b[?25l\r\x1b[1A1\x1b[K\r\n2\x1b[K\x1b[J\x1b[?25h");
  EXPECT_EQ(block.draw({line("only")}, 80), "\x1b[?25l\r\x1b[1Aonly\x1b[K\x1b[J\x1b[?25h");
  EXPECT_EQ(block.draw({line("only")}, 80), "\x1b[?25l\ronly\x1b[K\x1b[J\x1b[?25h");
}

TEST(ScreenBlockTest, GoesWithoutATrace) {
  ScreenBlock block(false);
  EXPECT_EQ(block.erase(80), "");
  block.draw({line("one"), line("two"), line("three")}, 80);
  EXPECT_EQ(block.erase(80), "\r\x1b[2A\x1b[J");
  EXPECT_FALSE(block.shown());
  EXPECT_EQ(block.erase(80), "");
}

TEST(ScreenBlockTest, PutsLinesAboveItself) {
  ScreenBlock block(false);
  block.draw({line("one"), line("two")}, 80);
  EXPECT_EQ(block.draw_below("said\nmore\n", {line("1")}, 80),
            "\r\x1b[1A\x1b[Jsaid\r\nmore\r\n\x1b[?25l1\x1b[K\x1b[?25h");
}

TEST(ScreenBlockTest, FindsItsTopWhenTheTerminalHasBrokenItsLines) {
  ScreenBlock block(false);
  block.draw({line(std::string(25, 'x')), line("two")}, 80);
  // 25 columns take three rows of 10, the other line one.
  EXPECT_EQ(block.erase(10), "\r\x1b[3A\x1b[J");
}

TEST(ScreenBlockTest, ColoursOnlyWhereTheyAreWanted) {
  ScreenBlock colours(true);
  EXPECT_THAT(colours.draw({line("ok", TextStyle::kDone)}, 80),
              HasSubstr("\x1b[32mok\x1b[0m\x1b[K"));
  ScreenBlock plain(false);
  EXPECT_THAT(plain.draw({line("ok", TextStyle::kDone)}, 80), Not(HasSubstr("m")));
}

}  // namespace
}  // namespace godwit
