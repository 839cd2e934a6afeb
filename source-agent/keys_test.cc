#include "source-agent/keys.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <openssl/obj_mac.h>
#include <openssl/x509v3.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <exception>
#include <filesystem>
#include <optional>
#include <thread>

#include "common/base/clock.h"
#include "common/base/error.h"
#include "common/base/unique_fd.h"
#include "common/wire/key_folder.h"
#include "common/wire/openssl_handles.h"
#include "common/wire/tls_stream.h"

namespace godwit {
namespace {

using ::testing::HasSubstr;

class KeysTest : public ::testing::Test {
 protected:
  KeysTest() {
    char name[] = "/tmp/godwit-keys-XXXXXX";
    if (::mkdtemp(name) == nullptr) throw_system("mkdtemp {}", name);
    base_ = name;
  }
  ~KeysTest() override { std::filesystem::remove_all(base_); }

  std::string at(const std::string& name) const { return base_ + "/" + name; }
  KeyRequest request(const std::string& role, const std::string& out, int days = 825) const {
    return {at("ca"), "alpha", role, at(out), days};
  }
  static mode_t mode_of(const std::string& path) {
    struct stat info {};
    return ::stat(path.c_str(), &info) == 0 ? info.st_mode & 0777 : 0;
  }

  std::string base_;
};

TEST_F(KeysTest, MakesAnAuthorityOnce) {
  make_authority(at("ca"));
  EXPECT_EQ(mode_of(at("ca/ca.key")), 0600U);
  const std::string before = read_file(at("ca/ca.key"));
  try {
    make_authority(at("ca"));
    FAIL() << "the authority was overwritten";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), EEXIST);
    EXPECT_FALSE(error.hint().empty());
  }
  EXPECT_EQ(read_file(at("ca/ca.key")), before);
}

TEST_F(KeysTest, IssuesAFolderForARole) {
  make_authority(at("ca"));
  issue_keys(request("source", "ca/alpha"));
  EXPECT_EQ(mode_of(at("ca/alpha/host.key")), 0600U);
  const KeyFolder keys = load_keys(at("ca/alpha"), "source");
  EXPECT_EQ(keys.host_name, "alpha");
  EXPECT_EQ(keys.authority_pem, read_file(at("ca/ca.crt")));

  const CertificateHandle leaf = try_parse_certificate(keys.certificate_pem);
  ASSERT_TRUE(leaf);
  EXPECT_EQ(subject_entry(*leaf, NID_organizationalUnitName), "godwit-source");
  EXPECT_EQ(X509_check_host(leaf.get(), "alpha", 0, 0, nullptr), 1);
  EXPECT_EQ(X509_check_host(leaf.get(), "beta", 0, 0, nullptr), 0);
  EXPECT_EQ(X509_check_ca(leaf.get()), 0);
  EXPECT_EQ(X509_get_extended_key_usage(leaf.get()),
            static_cast<std::uint32_t>(XKU_SSL_SERVER | XKU_SSL_CLIENT));
  int days = 0;
  int seconds = 0;
  ASSERT_EQ(ASN1_TIME_diff(&days, &seconds, nullptr, X509_get0_notAfter(leaf.get())), 1);
  EXPECT_TRUE(days == 824 || days == 825) << days;
}

TEST_F(KeysTest, NeverOverwritesAFolder) {
  make_authority(at("ca"));
  issue_keys(request("source", "ca/alpha"));
  const std::string before = read_file(at("ca/alpha/host.key"));
  EXPECT_THROW(issue_keys(request("destination", "ca/alpha")), Error);
  EXPECT_EQ(read_file(at("ca/alpha/host.key")), before);
}

TEST_F(KeysTest, CanMakeAnExpiredCertificate) {
  make_authority(at("ca"));
  for (const int days : {-1, 0}) {
    const std::string out = fmt::format("old{}", days);
    issue_keys(request("source", out, days));
    if (days == 0) ::usleep(1'100'000);  // it expires within the second
    try {
      load_keys(at(out));
      FAIL() << days;
    } catch (const Refused& error) {
      EXPECT_EQ(error.id(), "keys-expired");
    }
  }
}

TEST_F(KeysTest, SaysWhatIsMissing) {
  try {
    issue_keys(request("source", "alpha"));
    FAIL() << "signed without an authority";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("ca.crt"));
    EXPECT_THAT(error.hint(), HasSubstr("keys init"));
  }
  make_authority(at("ca"));
  KeyRequest bad = request("source", "alpha");
  bad.role = "king";
  EXPECT_THROW(issue_keys(bad), Error);
  for (const std::string name : {"", "a b", "a,DNS:evil", "a/b"}) {
    bad = request("source", "alpha");
    bad.host_name = name;
    EXPECT_THROW(issue_keys(bad), Error) << name;
  }
  EXPECT_FALSE(std::filesystem::exists(at("alpha")));
}

// The errors of both ends of a handshake, empty where it went well.
struct Handshake {
  std::string source;
  std::string destination;
};

Handshake shake_hands(const TlsMaterial& source, const TlsMaterial& destination) {
  int fds[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0) throw_system("socketpair");
  UniqueFd near(fds[0]);
  UniqueFd far(fds[1]);
  const std::int64_t deadline_ns = monotonic_ns() + 10'000'000'000;
  Handshake result;
  std::thread server([&] {
    try {
      TlsStream::accept(std::move(far), destination, deadline_ns);
    } catch (const Error& error) {
      result.destination = error.what();
    }
  });
  try {
    TlsStream::connect(std::move(near), source, deadline_ns);
  } catch (const Error& error) {
    result.source = error.what();
  }
  server.join();
  return result;
}

TEST_F(KeysTest, WhatIsIssuedIsAcceptedByTlsInItsRoleOnly) {
  make_authority(at("ca"));
  issue_keys(request("source", "a"));
  issue_keys(request("destination", "b"));
  const TlsMaterial source = to_tls_material(load_keys(at("a")));
  const TlsMaterial destination = to_tls_material(load_keys(at("b")));
  const Handshake good = shake_hands(source, destination);
  EXPECT_EQ(good.source, "");
  EXPECT_EQ(good.destination, "");
  TlsMaterial impostor = destination;  // a destination that plays source
  impostor.set_peer_role("destination");
  const Handshake bad = shake_hands(impostor, destination);
  EXPECT_NE(bad.source, "");
  EXPECT_NE(bad.destination, "");
}

}  // namespace
}  // namespace godwit
