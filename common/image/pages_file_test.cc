#include "common/image/pages_file.h"

#include "common/image/image_fixture.h"

namespace godwit {
namespace {

using ::testing::HasSubstr;

using PagesFile = ImageCase;

TEST_F(PagesFile, BeginsWithTheIdOfItsImage) {
  make("one", kFirstId, {{1, page_text(1)}});
  const UniqueFd file = open_file(path("one/pages"), O_RDONLY);
  EXPECT_NO_THROW(check_pages_header(file.get(), kFirstId, "pages"));
  try {
    check_pages_header(file.get(), kSecondId, "dir/pages");
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("dir/pages: at offset 16: it belongs to another image"));
  }
}

TEST_F(PagesFile, StoresOnceWhatItsBaseHas) {
  make("one", kFirstId, {{1, page_text(1)}, {2, page_text(2)}, {3, page_text(3)}});
  make("two", kSecondId, {{1, page_text(1)}, {2, page_text(2, 9)}, {3, page_text(3)}}, Codec::kNone,
       "one");
  const Image two = Image::open(path("two"));
  EXPECT_EQ(two.manifest().data_pages(), 3U);
  EXPECT_EQ(two.manifest().base_pages(), 2U);
  EXPECT_EQ(std::filesystem::file_size(path("two/pages")), 2 * kBlockAlignment);
}

TEST_F(PagesFile, ZeroAndDataOfOnePageComeInTheirOrder) {
  ImageTarget target(path("one"), kFirstId);
  WriteRing ring;
  PagesWriter writer(target.pages_fd(), kFirstId, Codec::kNone, ring, nullptr);
  const std::string text = page_text(5);
  const auto* data = reinterpret_cast<const std::byte*>(text.data());
  const std::vector<PagePiece> pieces{
      {page_at(1), data}, {page_at(2), nullptr}, {page_at(1), nullptr}, {page_at(2), data}};
  writer.add(0, pieces);
  writer.finish(target.index_fd());
  const std::string file = read(fmt::format("one.partial-{}/index", kFirstId));
  EXPECT_GT(file.size(), 0U);
  proto::ImageManifest manifest;
  manifest.set_id(kFirstId);
  target.finish_files({}, manifest);
  target.commit(manifest);
  EXPECT_EQ(contents("one", 4), (std::map<unsigned, std::string>{{2, text}}));
}

}  // namespace
}  // namespace godwit
