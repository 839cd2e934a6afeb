#include "common/wire/key_folder.h"

#include <openssl/objects.h>
#include <openssl/x509.h>

#include <algorithm>
#include <cerrno>
#include <ctime>

#include "common/base/error.h"
#include "common/base/unique_fd.h"
#include "common/wire/openssl_handles.h"
#include "common/wire/tls_errors.h"

namespace godwit {
namespace {

constexpr std::string_view kIssueHint =
    "make a key folder with `migrate keys issue --dir CA --name HOST --role source|destination "
    "--out DIR` and name it with --keys";

std::string read_key_file(const std::string& dir, std::string_view file) {
  const std::string path = fmt::format("{}/{}", dir, file);
  try {
    return read_file(path);
  } catch (const Error& error) {
    if (error.code() == ENOENT || error.code() == ENOTDIR) {
      throw Refused("keys-missing", fmt::format("the key folder {} has no {}", dir, file),
                    std::string(kIssueHint));
    }
    throw Refused("keys-unreadable", error.what(), "run as the user who owns the key folder");
  }
}

[[noreturn]] void malformed(const std::string& dir, std::string_view file, std::string_view kind) {
  throw Refused("keys-malformed", fmt::format("{}/{} holds no {} in PEM", dir, file, kind),
                std::string(kIssueHint));
}

void check_validity(const std::string& dir, const X509& certificate, std::string_view file) {
  const ASN1_TIME* from = X509_get0_notBefore(&certificate);
  const ASN1_TIME* to = X509_get0_notAfter(&certificate);
  if (X509_cmp_current_time(to) < 0) {
    throw Refused("keys-expired",
                  fmt::format("the certificate {}/{} expired at {}", dir, file, time_text(*to)),
                  "issue a new one with `migrate keys issue`");
  }
  if (X509_cmp_current_time(from) > 0) {
    throw Refused(
        "keys-expired",
        fmt::format("the certificate {}/{} is not valid before {}", dir, file, time_text(*from)),
        "check this host's clock, or issue a new one with `migrate keys issue`");
  }
}

std::int64_t end_of(const X509& certificate) {
  std::tm parts{};
  if (ASN1_TIME_to_tm(X509_get0_notAfter(&certificate), &parts) != 1) return 0;
  return ::timegm(&parts);
}

std::string role_of(const X509& certificate) {
  const std::string unit = subject_entry(certificate, NID_organizationalUnitName);
  for (const char* role : {"source", "destination"}) {
    if (unit == tls_role_unit(role)) return role;
  }
  return {};
}

}  // namespace

KeyFolder load_keys(const std::string& dir, KeyValidity validity) {
  KeyFolder keys;
  keys.dir = dir;
  keys.certificate_pem = read_key_file(dir, kHostCertificateFile);
  keys.private_key_pem = read_key_file(dir, kHostKeyFile);
  keys.authority_pem = read_key_file(dir, kAuthorityFile);
  const CertificateHandle certificate = try_parse_certificate(keys.certificate_pem);
  const KeyHandle key = try_parse_key(keys.private_key_pem);
  const CertificateHandle authority = try_parse_certificate(keys.authority_pem);
  if (!certificate) malformed(dir, kHostCertificateFile, "certificate");
  if (!key) malformed(dir, kHostKeyFile, "private key without a password");
  if (!authority) malformed(dir, kAuthorityFile, "certificate");

  if (X509_check_private_key(certificate.get(), key.get()) != 1) {
    drain_openssl_errors();
    throw Refused(
        "keys-mismatch",
        fmt::format("{0}/{1} is not the key of {0}/{2}", dir, kHostKeyFile, kHostCertificateFile),
        "the folder was mixed from two: issue it anew with `migrate keys issue`");
  }
  if (X509_verify(certificate.get(), X509_get0_pubkey(authority.get())) != 1) {
    drain_openssl_errors();
    throw Refused("keys-foreign",
                  fmt::format("{0}/{1} was not signed by the authority in {0}/{2}", dir,
                              kHostCertificateFile, kAuthorityFile),
                  "every host's folder must come from the same `migrate keys init`");
  }
  if (validity == KeyValidity::kRequired) {
    check_validity(dir, *certificate, kHostCertificateFile);
    check_validity(dir, *authority, kAuthorityFile);
  }
  keys.host_name = subject_entry(*certificate, NID_commonName);
  keys.role = role_of(*certificate);
  keys.valid_until_unix_s = std::min(end_of(*certificate), end_of(*authority));
  return keys;
}

KeyFolder load_keys(const std::string& dir, std::string_view role, KeyValidity validity) {
  KeyFolder keys = load_keys(dir, validity);
  if (keys.role != role) {
    throw Refused("keys-wrong-role",
                  fmt::format("the certificate in {} is for the role {}, here {} is needed", dir,
                              keys.role.empty() ? "of another program" : keys.role, role),
                  fmt::format("issue one with `migrate keys issue --role {}`; a host that plays "
                              "both roles has two key folders",
                              role));
  }
  return keys;
}

std::optional<proto::Finding> expiry_warning(const KeyFolder& keys, std::int64_t now_unix_s) {
  constexpr std::int64_t kSoonS = 24LL * 3600;
  const std::int64_t left_s = keys.valid_until_unix_s - now_unix_s;
  if (left_s > kSoonS) return std::nullopt;
  proto::Finding finding;
  finding.set_warning(true);
  finding.set_id("keys-expire-soon");
  finding.set_object(keys.dir);
  finding.set_problem(
      fmt::format("the certificate of {} expires in {} minutes; a connection that "
                  "has to be made again after that is refused",
                  keys.host_name, std::max<std::int64_t>(left_s, 0) / 60));
  finding.set_way_out("issue a new one with `migrate keys issue`");
  return finding;
}

TlsMaterial to_tls_material(const KeyFolder& keys) {
  TlsMaterial material;
  material.set_certificate_pem(keys.certificate_pem);
  material.set_private_key_pem(keys.private_key_pem);
  material.set_authority_pem(keys.authority_pem);
  material.set_peer_role(keys.role == "source" ? "destination" : "source");
  return material;
}

}  // namespace godwit
