#include "common/image/image_target.h"

#include <sys/wait.h>
#include <unistd.h>

#include "common/image/image_fixture.h"

namespace godwit {
namespace {

using ImageTargetTest = ImageCase;

std::string refusal(const std::string& path) {
  try {
    ImageTarget target(path, kSecondId);
    return "none";
  } catch (const Refused& refused) {
    return refused.id();
  }
}

TEST_F(ImageTargetTest, HasItsNameOnlyWhenItIsComplete) {
  {
    ImageTarget target(path("one"), kFirstId);
    EXPECT_FALSE(std::filesystem::exists(path("one")));
    EXPECT_FALSE(is_image_committed(path("one"), kFirstId));
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder_));
  make("one", kFirstId, {{0, page_text(0)}});
  EXPECT_TRUE(is_image_committed(path("one"), kFirstId));
  EXPECT_FALSE(is_image_committed(path("one"), kSecondId));
  remove_image(path("one"));
  EXPECT_TRUE(std::filesystem::is_empty(folder_));
}

TEST_F(ImageTargetTest, TakesAnEmptyDirectoryAndNothingElse) {
  std::filesystem::create_directory(path("empty"));
  make("empty", kFirstId, {{0, page_text(0)}});
  EXPECT_EQ(refusal(path("empty")), "image-exists");
  EXPECT_EQ(what_is_wrong("empty"), "");
  write("file", "x");
  EXPECT_EQ(refusal(path("file")), "image-exists");
  std::filesystem::create_directory(path("elsewhere"));
  std::filesystem::create_symlink(path("elsewhere"), path("link"));
  EXPECT_EQ(refusal(path("link")), "image-target-link");
  EXPECT_EQ(refusal(path("no/where")), "image-unwritable");
  EXPECT_EQ(refusal("/proc/image"), "image-unwritable");
}

TEST_F(ImageTargetTest, RemovesWhatAKilledOneLeftAndNotWhatALivingOneMakes) {
  const pid_t child = fork();
  if (child == 0) {
    new ImageTarget(path("one"), kFirstId);
    _exit(0);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  const std::string left = path(fmt::format("one.partial-{}", kFirstId));
  ASSERT_TRUE(std::filesystem::exists(left));
  ImageTarget living(path("one"), kSecondId);
  EXPECT_FALSE(std::filesystem::exists(left));
  ImageTarget third(path("one"), kThirdId);
  EXPECT_TRUE(std::filesystem::exists(path(fmt::format("one.partial-{}", kSecondId))));
}

TEST_F(ImageTargetTest, AFailedRenameLeavesTheOtherImageAsItIs) {
  ImageTarget target(path("one"), kFirstId);
  make("one", kSecondId, {{0, page_text(0)}});
  proto::ImageManifest manifest;
  manifest.set_id(kFirstId);
  EXPECT_THROW(target.commit(manifest), Error);
  EXPECT_EQ(Image::open(path("one")).manifest().id(), kSecondId);
  EXPECT_EQ(what_is_wrong("one"), "");
}

}  // namespace
}  // namespace godwit
