#include "common/wire/key_folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include <ctime>
#include <filesystem>
#include <random>
#include <utility>
#include <vector>

#include "common/base/error.h"
#include "common/base/unique_fd.h"
#include "common/wire/test_certificates.h"

namespace godwit {
namespace {

using ::testing::AnyOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

class KeyFolderTest : public ::testing::Test {
 protected:
  KeyFolderTest() {
    char name[] = "/tmp/godwit-keys-XXXXXX";
    if (::mkdtemp(name) == nullptr) throw_system("mkdtemp {}", name);
    dir_ = name;
  }
  ~KeyFolderTest() override { std::filesystem::remove_all(dir_); }

  void write(const TlsMaterial& material) const {
    write_file(dir_ + "/host.crt", material.certificate_pem());
    write_file(dir_ + "/host.key", material.private_key_pem());
    write_file(dir_ + "/ca.crt", material.authority_pem());
  }
  // The id of the refusal; empty when the folder was taken.
  std::string refusal(const std::string& role = "source") const {
    try {
      load_keys(dir_, role);
      return {};
    } catch (const Refused& error) {
      EXPECT_FALSE(error.hint().empty());
      EXPECT_THAT(error.what(), HasSubstr(dir_));
      return error.id();
    }
  }

  testing::TestAuthority authority_;
  std::string dir_;
};

TEST_F(KeyFolderTest, LoadsAWholeFolder) {
  const TlsMaterial material = authority_.issue("source", "destination");
  write(material);
  const KeyFolder keys = load_keys(dir_, "source");
  EXPECT_EQ(keys.host_name, "host-source");
  EXPECT_EQ(keys.role, "source");
  const TlsMaterial loaded = to_tls_material(keys);
  EXPECT_EQ(loaded.SerializeAsString(), material.SerializeAsString());
}

TEST_F(KeyFolderTest, NamesEachMissingFile) {
  EXPECT_EQ(refusal(), "keys-missing");
  for (const char* file : {"host.crt", "host.key", "ca.crt"}) {
    write(authority_.issue("source", "destination"));
    ASSERT_EQ(::unlink((dir_ + "/" + file).c_str()), 0);
    try {
      load_keys(dir_);
      FAIL() << file;
    } catch (const Refused& error) {
      EXPECT_EQ(error.id(), "keys-missing");
      EXPECT_THAT(error.what(), HasSubstr(file));
    }
  }
}

TEST_F(KeyFolderTest, RefusesWhatDoesNotBelongTogether) {
  TlsMaterial mixed = authority_.issue("source", "destination");
  mixed.set_private_key_pem(authority_.issue("source", "destination").private_key_pem());
  write(mixed);
  EXPECT_EQ(refusal(), "keys-mismatch");
  TlsMaterial foreign = authority_.issue("source", "destination");
  foreign.set_authority_pem(testing::TestAuthority().issue("source", "").authority_pem());
  write(foreign);
  EXPECT_EQ(refusal(), "keys-foreign");
}

TEST_F(KeyFolderTest, RefusesTheWrongRoleAndTheWrongTime) {
  write(authority_.issue("destination", "source"));
  EXPECT_EQ(refusal("source"), "keys-wrong-role");
  EXPECT_EQ(refusal("destination"), "");
  write(authority_.issue("source", "destination", -7200, -3600));
  EXPECT_EQ(refusal(), "keys-expired");
  write(authority_.issue("source", "destination", 3600, 7200));
  EXPECT_EQ(refusal(), "keys-expired");
}

TEST_F(KeyFolderTest, WhatHasExpiredIsLeftToThePeerOnRequest) {
  write(authority_.issue("destination", "source", -7200, -3600));
  EXPECT_EQ(refusal("destination"), "keys-expired");
  EXPECT_EQ(load_keys(dir_, "destination", KeyValidity::kJudgedByPeer).role, "destination");
  EXPECT_THROW(load_keys(dir_, "source", KeyValidity::kJudgedByPeer), Refused);
}

TEST_F(KeyFolderTest, WarnsOnTheLastDay) {
  write(authority_.issue("source", "destination", -60, 1800));
  KeyFolder keys = load_keys(dir_, "source");
  const std::int64_t now = ::time(nullptr);
  EXPECT_NEAR(static_cast<double>(keys.valid_until_unix_s), static_cast<double>(now + 1800), 10);
  keys.valid_until_unix_s = now + 125;
  const auto warning = expiry_warning(keys, now);
  ASSERT_TRUE(warning.has_value());
  EXPECT_TRUE(warning->warning());
  EXPECT_EQ(warning->object(), dir_);
  EXPECT_THAT(warning->problem(), HasSubstr("host-source expires in 2 minutes"));
  keys.valid_until_unix_s = now - 1;
  ASSERT_TRUE(expiry_warning(keys, now).has_value());
  EXPECT_THAT(expiry_warning(keys, now)->problem(), HasSubstr("expires in 0 minutes"));
  keys.valid_until_unix_s = now + 25 * 3600;
  EXPECT_FALSE(expiry_warning(keys, now).has_value());
}

// What an interrupted copy or a bad disk makes of a file: a clear refusal, whatever it is.
TEST_F(KeyFolderTest, EveryTruncationAndManyFlippedBitsAreTakenOrRefusedByName) {
  const TlsMaterial good = authority_.issue("source", "destination");
  const std::vector<std::pair<std::string, std::string>> files{{"host.crt", good.certificate_pem()},
                                                               {"host.key", good.private_key_pem()},
                                                               {"ca.crt", good.authority_pem()}};
  std::mt19937 random(7);
  int refused = 0;
  for (const auto& [file, text] : files) {
    write(good);
    for (std::size_t bytes = 0; bytes < text.size() - 1; bytes += 17) {
      write_file(dir_ + "/" + file, text.substr(0, bytes));
      EXPECT_THAT(refusal(), StartsWith("keys-")) << file << " cut after " << bytes;
    }
    for (int turn = 0; turn < 200; ++turn) {
      std::string damaged = text;
      damaged[random() % damaged.size()] ^= static_cast<char>(1 << (random() % 8));
      write_file(dir_ + "/" + file, damaged);
      const std::string id = refusal();
      refused += !id.empty();
      EXPECT_THAT(id, AnyOf("", StartsWith("keys-"))) << file;
    }
  }
  EXPECT_GT(refused, 500);  // a few bits are of no meaning: line ends, the authority's extensions
}

TEST_F(KeyFolderTest, RefusesWhatIsNoPem) {
  const TlsMaterial good = authority_.issue("source", "destination");
  for (const char* file : {"host.crt", "host.key", "ca.crt"}) {
    write(good);
    write_file(dir_ + "/" + file, "-----BEGIN NOTHING-----\n");
    EXPECT_EQ(refusal(), "keys-malformed") << file;
  }
}

TEST_F(KeyFolderTest, RefusesWhatCannotBeRead) {
  write(authority_.issue("source", "destination"));
  ASSERT_EQ(::unlink((dir_ + "/host.key").c_str()), 0);
  std::filesystem::create_directory(dir_ + "/host.key");
  EXPECT_EQ(refusal(), "keys-unreadable");
}

}  // namespace
}  // namespace godwit
