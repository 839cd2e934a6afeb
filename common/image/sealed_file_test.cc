#include "common/image/sealed_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/base/error.h"

namespace godwit {
namespace {

using ::testing::HasSubstr;

std::string story_of(std::string_view file) {
  try {
    unseal(kStateMagic, file, "dir/state");
    return {};
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), EPROTO);
    return error.what();
  }
}

TEST(SealedFile, GivesBackItsBody) {
  EXPECT_EQ(unseal(kStateMagic, seal(kStateMagic, "what it holds"), "f"), "what it holds");
  EXPECT_EQ(unseal(kStateMagic, seal(kStateMagic, ""), "f"), "");
}

TEST(SealedFile, TellsEveryCut) {
  const std::string file = seal(kStateMagic, "what it holds");
  for (std::size_t bytes = 0; bytes < file.size(); ++bytes) {
    EXPECT_THAT(story_of(file.substr(0, bytes)), HasSubstr("dir/state: ")) << bytes;
  }
}

TEST(SealedFile, TellsEveryFlippedBit) {
  const std::string file = seal(kStateMagic, "what it holds");
  for (std::size_t bit = 0; bit < file.size() * 8; ++bit) {
    std::string damaged = file;
    damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ (1 << (bit % 8)));
    EXPECT_NE(story_of(damaged), "") << "bit " << bit;
  }
}

TEST(SealedFile, TellsAnotherKindOfFileAndANewerVersion) {
  EXPECT_THAT(story_of(seal(kIndexMagic, "x")), HasSubstr("not a file of an image"));
  EXPECT_THAT(story_of(std::string(100, '\x7f')), HasSubstr("offset 0"));
  std::string newer = seal(kStateMagic, "x");
  newer[8] = 2;
  EXPECT_THAT(story_of(newer), HasSubstr("format version 2, this release reads version 1"));
}

}  // namespace
}  // namespace godwit
