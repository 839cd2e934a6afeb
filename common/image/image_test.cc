#include "common/image/image.h"

#include <random>

#include "common/image/image_fixture.h"
#include "common/image/sealed_file.h"

namespace godwit {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

using ImageTest = ImageCase;

TEST_F(ImageTest, IsWholeAsItWasWritten) {
  make("one", kFirstId, {{0, page_text(0)}, {1, page_text(1)}}, Codec::kZstd);
  const Image image = Image::open(path("one") + "/");
  EXPECT_EQ(image.path(), path("one"));
  EXPECT_EQ(image.manifest().id(), kFirstId);
  EXPECT_EQ(image.read_state().monotonic_ns(), 17);
  EXPECT_EQ(what_is_wrong("one"), "");
}

TEST_F(ImageTest, TellsEveryFileThatIsCutOff) {
  make("one", kFirstId, {{0, page_text(0)}, {1, page_text(1)}});
  for (const char* part : {"manifest", "state", "index", "pages"}) {
    const std::string name = std::string("one/") + part;
    const std::string whole = read(name);
    for (const std::size_t bytes : {std::size_t{0}, std::size_t{5}, whole.size() - 1}) {
      write(name, whole.substr(0, bytes));
      EXPECT_THAT(what_is_wrong("one"), AllOf(HasSubstr(name), HasSubstr("")))
          << bytes << " bytes of " << part;
    }
    write(name, whole);
  }
  EXPECT_EQ(what_is_wrong("one"), "");
}

TEST_F(ImageTest, TellsEveryFlippedBit) {
  make("one", kFirstId, {{0, page_text(0)}, {7, page_text(1)}}, Codec::kLz4);
  std::mt19937 random(11);
  for (const char* part : {"manifest", "state", "index", "pages"}) {
    const std::string name = std::string("one/") + part;
    const std::string whole = read(name);
    for (int i = 0; i < 300; ++i) {
      const std::size_t bit = i < 256 ? i : random() % (whole.size() * 8);
      if (bit / 8 >= whole.size()) continue;
      std::string damaged = whole;
      damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ (1 << (bit % 8)));
      write(name, damaged);
      EXPECT_THAT(what_is_wrong("one"), HasSubstr(name)) << "bit " << bit << " of " << part;
    }
    write(name, whole);
  }
}

TEST_F(ImageTest, TellsAPlaceThatIsNoImage) {
  EXPECT_THAT(what_is_wrong("nothing"), HasSubstr("No such file"));
  std::filesystem::create_directory(path("empty"));
  EXPECT_THAT(what_is_wrong("empty"), HasSubstr("it has no manifest"));
  write("file", "x");
  EXPECT_THAT(what_is_wrong("file"), HasSubstr("Not a directory"));
  make("one", kFirstId, {{0, page_text(0)}});
  std::filesystem::create_symlink(path("one"), path("link"));
  EXPECT_THAT(what_is_wrong("link"), HasSubstr("is a symbolic link"));
  std::filesystem::rename(path("one/state"), path("state"));
  std::filesystem::create_symlink(path("state"), path("one/state"));
  EXPECT_THAT(what_is_wrong("one"), HasSubstr("one/state: Too many levels of symbolic links"));
}

TEST_F(ImageTest, TellsANewerVersionAndFilesOfAnotherImage) {
  make("one", kFirstId, {{0, page_text(0)}});
  make("two", kSecondId, {{0, page_text(0)}});
  for (const char* part : {"manifest", "state", "index", "pages"}) {
    const std::string name = std::string("one/") + part;
    const std::string whole = read(name);
    std::string newer = whole;
    newer[8] = 9;
    write(name, newer);
    EXPECT_THAT(what_is_wrong("one"), HasSubstr(name)) << part;
    write(name, read(std::string("two/") + part));
    if (part != std::string("manifest") && part != std::string("state")) {
      EXPECT_THAT(what_is_wrong("one"), HasSubstr(name)) << part;
    }
    write(name, whole);
  }
  std::string newer = read("one/manifest");
  newer[8] = 9;
  write("one/manifest", newer);
  EXPECT_THAT(what_is_wrong("one"), HasSubstr("format version 9, this release reads version 1"));
}

TEST_F(ImageTest, TellsABaseThatIsMissingOrAnother) {
  make("one", kFirstId, {{0, page_text(0)}});
  make("two", kSecondId, {{0, page_text(0)}}, Codec::kNone, "one");
  std::filesystem::rename(path("one"), path("away"));
  EXPECT_THAT(what_is_wrong("two"), AllOf(HasSubstr("two: its base image"), HasSubstr("/one")));
  make("one", kThirdId, {{0, page_text(0)}});
  EXPECT_THAT(what_is_wrong("two"), HasSubstr("was replaced"));
}

TEST_F(ImageTest, TellsAnImageThatIsItsOwnBaseAndABaseAtTheRoot) {
  make("one", kFirstId, {{0, page_text(0)}});
  proto::ImageManifest manifest = Image::open(path("one")).manifest();
  manifest.mutable_base()->set_id(kFirstId);
  manifest.mutable_base()->set_path("one");
  write("one/manifest", manifest_bytes(manifest));
  EXPECT_THAT(what_is_wrong("one"), HasSubstr("is its own base"));
  manifest.mutable_base()->set_id(kSecondId);
  manifest.mutable_base()->set_path("/etc");
  write("one/manifest", manifest_bytes(manifest));
  EXPECT_THAT(what_is_wrong("one"), HasSubstr("'/etc' is no path of a base image"));
}

}  // namespace
}  // namespace godwit
