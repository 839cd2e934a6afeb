#include "common/wire/recovery_socket.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/stat.h>

#include <filesystem>
#include <memory>
#include <thread>

#include "common/base/error.h"

namespace godwit {
namespace {

constexpr std::int64_t kTimeoutNs = 10'000'000'000;

class RecoverySocketTest : public ::testing::Test {
 protected:
  ~RecoverySocketTest() override { std::filesystem::remove_all(folder_); }

  // Longer than the address of a socket may be.
  const std::filesystem::path folder_ = [] {
    std::string name = std::filesystem::temp_directory_path() / "godwit-recovery-XXXXXX";
    if (::mkdtemp(name.data()) == nullptr) throw_system("mkdtemp");
    const auto long_name = std::filesystem::path(name) / std::string(120, 'x');
    std::filesystem::create_directory(long_name);
    return long_name;
  }();
  const std::string path_ = recovery_socket_path(folder_, "0123456789abcdef");
};

TEST_F(RecoverySocketTest, AsksAndAnswers) {
  RecoverySocket socket(path_);
  struct stat info {};
  ASSERT_EQ(::stat(path_.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0600U);
  std::thread session([&] {
    pollfd wait{socket.fd(), POLLIN, 0};
    ASSERT_EQ(::poll(&wait, 1, 10'000), 1);
    socket.serve([](const proto::RecoveryRequest& request) {
      EXPECT_EQ(request.choice(), proto::RecoveryRequest::KILL);
      proto::RecoveryAnswer answer;
      for (int i = 0; i < 1000; ++i) answer.add_areas()->set_name(std::string(100, 'a'));
      answer.set_missing_pages(7);
      return answer;
    });
  });
  proto::RecoveryRequest request;
  request.set_choice(proto::RecoveryRequest::KILL);
  const auto answer = ask_recovery(path_, request, kTimeoutNs);
  session.join();
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->missing_pages(), 7U);
  EXPECT_EQ(answer->areas_size(), 1000);
}

TEST_F(RecoverySocketTest, NobodyIsThere) {
  EXPECT_FALSE(ask_recovery(path_, {}, kTimeoutNs));
  { const RecoverySocket left(path_); }
  EXPECT_FALSE(std::filesystem::exists(path_));
  // What a killed session leaves.
  { std::filesystem::create_symlink("/dev/null", path_); }
  const RecoverySocket again(path_);
  EXPECT_TRUE(std::filesystem::is_socket(path_));
  EXPECT_THROW(RecoverySocket(folder_ / "not" / "there"), Error);
}

TEST_F(RecoverySocketTest, WhyThereIsNoneIsTheAnswer) {
  RecoverySocket socket(path_);
  std::thread session([&] {
    pollfd wait{socket.fd(), POLLIN, 0};
    ASSERT_EQ(::poll(&wait, 1, 10'000), 1);
    socket.serve([](const proto::RecoveryRequest&) -> proto::RecoveryAnswer { fail("no"); });
  });
  const auto answer = ask_recovery(path_, {}, kTimeoutNs);
  session.join();
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->problem(), "no");
}

TEST_F(RecoverySocketTest, ASessionThatEndsGivesNoAnswer) {
  auto socket = std::make_unique<RecoverySocket>(path_);
  std::thread session([&] {
    pollfd wait{socket->fd(), POLLIN, 0};
    ASSERT_EQ(::poll(&wait, 1, 10'000), 1);
    socket.reset();
  });
  EXPECT_FALSE(ask_recovery(path_, {}, kTimeoutNs));
  session.join();
}

}  // namespace
}  // namespace godwit
