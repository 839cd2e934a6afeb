#include "dest-agent/player.h"

#include <netinet/tcp.h>

#include "common/image/image_fixture.h"

namespace godwit {
namespace {

using ::testing::HasSubstr;

using PlayerTest = ImageCase;

TEST_F(PlayerTest, PlaysNoStateThatNoProcessCanBeMadeFrom) {
  make("one", kFirstId, {{0, page_text(0)}});
  try {
    Player(Image::open(path("one")), kSecondId, {});
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("one"));
  }
}

}  // namespace
}  // namespace godwit
