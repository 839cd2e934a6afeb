#include "common/image/image_pages.h"

#include <random>

#include "common/image/image_fixture.h"

namespace godwit {
namespace {

using ::testing::HasSubstr;

using ImagePagesTest = ImageCase;

TEST_F(ImagePagesTest, ReadsBackWhatWasWrittenLast) {
  for (const Codec codec : {Codec::kNone, Codec::kLz4, Codec::kZstd}) {
    std::mt19937 random(3);
    Pages pages;
    std::map<unsigned, std::string> expected;
    for (int step = 0; step < 400; ++step) {
      const unsigned number = random() % 100;
      const bool zero = random() % 8 == 0;
      pages.emplace_back(number, zero ? "" : page_text(number, random() % 3));
      if (zero) {
        expected.erase(number);
      } else {
        expected[number] = pages.back().second;
      }
    }
    const std::string name(codec_name(codec));
    make(name, kFirstId, pages, codec);
    EXPECT_EQ(contents(name, 120), expected) << name;
    EXPECT_EQ(what_is_wrong(name), "");
  }
}

TEST_F(ImagePagesTest, FollowsAChainOfBases) {
  make("one", kFirstId, {{0, page_text(0)}, {1, page_text(1)}, {2, page_text(2)}}, Codec::kLz4);
  make("two", kSecondId, {{0, page_text(0)}, {1, page_text(1, 2)}, {2, page_text(2)}}, Codec::kNone,
       "one");
  make("three", kThirdId, {{0, page_text(0)}, {1, page_text(1, 2)}, {3, page_text(3)}, {2, ""}},
       Codec::kZstd, "two");
  EXPECT_EQ(contents("three", 8), (std::map<unsigned, std::string>{
                                      {0, page_text(0)}, {1, page_text(1, 2)}, {3, page_text(3)}}));
  ImagePages pages(Image::open(path("three")).open_levels());
  std::vector<std::uint32_t> levels;
  for (const StoredPages& each : pages.pages_of(0)) {
    levels.push_back(each.zero ? 99 : each.level);
  }
  EXPECT_EQ(levels, (std::vector<std::uint32_t>{2, 1, 99, 0}));
  const auto in_order = pages.pages_in_disk_order(0);
  EXPECT_TRUE(in_order.front().zero);
  EXPECT_EQ(in_order.back().level, 2U);
  EXPECT_EQ(what_is_wrong("three"), "");
}

TEST_F(ImagePagesTest, NamesThePageThatItsBaseDoesNotHave) {
  make("one", kFirstId, {{0, page_text(0)}, {1, page_text(1)}});
  make("two", kSecondId, {{0, page_text(0)}, {1, page_text(1)}}, Codec::kNone, "one");
  make("other", kThirdId, {{0, page_text(0)}});
  std::vector<ImageLevel> levels = Image::open(path("two")).open_levels();
  levels.pop_back();
  levels.push_back(std::move(Image::open(path("other")).open_levels().front()));
  ImagePages pages(std::move(levels));
  try {
    pages.pages_of(0);
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("the page at 0x700000001000 is said to be in the base"));
  }
}

TEST_F(ImagePagesTest, IsReadOnWhenTheImageIsDeletedMeanwhile) {
  make("one", kFirstId, {{0, page_text(0)}});
  ImagePages pages(Image::open(path("one")).open_levels());
  std::filesystem::remove_all(path("one"));
  EXPECT_NE(pages.find_page(0, page_at(0).start), nullptr);
}

TEST_F(ImagePagesTest, TellsAFileThatIsCutOffMeanwhile) {
  make("one", kFirstId, {{0, page_text(0)}});
  ImagePages pages(Image::open(path("one")).open_levels());
  std::filesystem::resize_file(path("one/pages"), kBlockAlignment);
  try {
    pages.find_page(0, page_at(0).start);
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("one/pages: cut off at offset 4096"));
  }
}

}  // namespace
}  // namespace godwit
