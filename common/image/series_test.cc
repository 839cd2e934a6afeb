#include "common/image/series.h"

#include "common/image/image_fixture.h"

namespace godwit {
namespace {

using ::testing::ElementsAre;

class SeriesTest : public ImageCase {
 protected:
  void add(const std::string& id, const Pages& pages) {
    const ImageSeries series(path("series"));
    const auto base = series.newest();
    const auto name = [](const std::string& image) {
      return std::filesystem::path(image).filename().string();
    };
    if (!base) return make("series/" + name(series.next_path()), id, pages);
    make("series/" + name(series.next_path()), id, pages, Codec::kNone, "series/" + name(*base));
  }
  std::vector<std::string> names() const {
    std::vector<std::string> found;
    for (const std::string& image : ImageSeries(path("series")).images()) {
      found.push_back(std::filesystem::path(image).filename().string());
    }
    return found;
  }
};

TEST_F(SeriesTest, KeepsTheNewestAndMakesTheOldestOfThemWhole) {
  add(kFirstId, {{0, page_text(0)}, {1, page_text(1)}});
  add(kSecondId, {{0, page_text(0)}, {1, page_text(1, 2)}});
  add(kThirdId, {{0, page_text(0)}, {1, page_text(1, 2)}, {2, page_text(2)}});
  const auto second = contents("series/000002", 8);
  const auto third = contents("series/000003", 8);
  ImageSeries(path("series")).trim(2);
  EXPECT_THAT(names(), ElementsAre("000002", "000003"));
  EXPECT_TRUE(Image::open(path("series/000002")).bases().empty());
  EXPECT_EQ(contents("series/000002", 8), second);
  EXPECT_EQ(contents("series/000003", 8), third);
  ImageSeries(path("series")).trim(1);
  EXPECT_THAT(names(), ElementsAre("000003"));
  EXPECT_EQ(contents("series/000003", 8), third);
  EXPECT_EQ(what_is_wrong("series/000003"), "");
  EXPECT_EQ(ImageSeries(path("series")).next_path(), path("series/000004"));
}

TEST_F(SeriesTest, GivesTheNewestThatIsWhole) {
  add(kFirstId, {{0, page_text(0)}});
  add(kSecondId, {{0, page_text(1)}});
  EXPECT_EQ(newest_whole_image(path("series")), path("series/000002"));
  std::string damaged = read("series/000002/pages");
  damaged[5000] ^= 1;
  write("series/000002/pages", damaged);
  EXPECT_EQ(newest_whole_image(path("series")), path("series/000001"));
  EXPECT_EQ(newest_whole_image(path("series/000002")), path("series/000002"));
  EXPECT_EQ(newest_whole_image(path("nowhere")), path("nowhere"));
}

}  // namespace
}  // namespace godwit
