#include "source-agent/keys.h"

#include <fcntl.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>

#include "common/base/error.h"
#include "common/base/unique_fd.h"
#include "common/wire/key_folder.h"
#include "common/wire/openssl_handles.h"
#include "common/wire/tls_errors.h"

namespace godwit {
namespace {

constexpr long kDaySeconds = 24L * 3600;
constexpr long kAuthorityDays = 3653;
// Hosts whose clocks are a little behind accept a new certificate at once.
constexpr long kBackdateSeconds = 3600;
constexpr std::size_t kNameMaximum = 64;  // ub-common-name of X.509

std::string join(const std::string& dir, std::string_view file) {
  return fmt::format("{}/{}", dir, file);
}

void make_folder(const std::string& dir) {
  std::error_code error;
  std::filesystem::create_directories(dir, error);
  if (error) throw_errno(error.value(), fmt::format("make the folder {}", dir));
}

void refuse_existing(const std::string& path) {
  struct stat info {};
  if (::lstat(path.c_str(), &info) != 0) return;
  throw Error(fmt::format("{} is there already and is never overwritten", path), EEXIST,
              "choose another folder, or remove this one if nothing uses it any more");
}

void write_new_file(const std::string& path, const std::string& text, int mode) {
  const UniqueFd fd = open_file(path, O_WRONLY | O_CREAT | O_EXCL, mode);
  std::size_t done = 0;
  while (done < text.size()) {
    const ssize_t put = ::write(fd.get(), text.data() + done, text.size() - done);
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) throw_system("write {}", path);
    done += static_cast<std::size_t>(put);
  }
}

KeyHandle make_key() {
  KeyHandle key(EVP_EC_gen("P-256"));
  if (!key) throw_openssl("make an EC P-256 key");
  return key;
}

void set_random_serial(X509& certificate) {
  std::uint64_t number = 0;
  if (RAND_bytes(reinterpret_cast<unsigned char*>(&number), sizeof(number)) != 1) {
    throw_openssl("random bytes for a serial number");
  }
  number |= 1;              // never zero
  number &= ~(1ULL << 63);  // never negative
  if (ASN1_INTEGER_set_uint64(X509_get_serialNumber(&certificate), number) != 1) {
    throw_openssl("set the serial number");
  }
}

void add_name_entry(X509_NAME& name, const char* field, const std::string& value) {
  const auto* text = reinterpret_cast<const unsigned char*>(value.data());
  const int size = static_cast<int>(value.size());
  if (X509_NAME_add_entry_by_txt(&name, field, MBSTRING_UTF8, text, size, -1, 0) != 1) {
    throw_openssl(fmt::format("set {} to {}", field, value));
  }
}

void add_extension(X509& certificate, X509& issuer, int nid, const std::string& value) {
  X509V3_CTX context;
  X509V3_set_ctx(&context, &issuer, &certificate, nullptr, nullptr, 0);
  const std::unique_ptr<X509_EXTENSION, OpensslRelease<X509_EXTENSION_free>> extension(
      X509V3_EXT_conf_nid(nullptr, &context, nid, value.c_str()));
  if (!extension || X509_add_ext(&certificate, extension.get(), -1) != 1) {
    throw_openssl(fmt::format("add the extension {}", OBJ_nid2sn(nid)));
  }
}

// Version, serial number, validity in seconds from now, key: what both kinds have in common.
CertificateHandle begin_certificate(EVP_PKEY& key, long from_s, long to_s) {
  CertificateHandle certificate(X509_new());
  if (!certificate || X509_set_version(certificate.get(), X509_VERSION_3) != 1) {
    throw_openssl("make a certificate");
  }
  set_random_serial(*certificate);
  if (X509_gmtime_adj(X509_getm_notBefore(certificate.get()), from_s) == nullptr ||
      X509_gmtime_adj(X509_getm_notAfter(certificate.get()), to_s) == nullptr ||
      X509_set_pubkey(certificate.get(), &key) != 1) {
    throw_openssl("fill a certificate in");
  }
  return certificate;
}

void sign(X509& certificate, EVP_PKEY& key) {
  if (X509_sign(&certificate, &key, EVP_sha256()) == 0) throw_openssl("sign a certificate");
}

struct Authority {
  CertificateHandle certificate;
  KeyHandle key;
  std::string certificate_pem;
};

Authority load_authority(const std::string& dir) {
  const std::string hint = fmt::format("make an authority with `migrate keys init --dir {}`", dir);
  Authority authority;
  std::string key_pem;
  try {
    authority.certificate_pem = read_file(join(dir, kAuthorityFile));
    key_pem = read_file(join(dir, kAuthorityKeyFile));
  } catch (const Error& error) {
    throw error.in("no authority to sign with").with_hint(hint);
  }
  authority.certificate = try_parse_certificate(authority.certificate_pem);
  authority.key = try_parse_key(key_pem);
  if (!authority.certificate || !authority.key) {
    throw Error(fmt::format("{} holds no authority: {} or {} is not PEM", dir, kAuthorityFile,
                            kAuthorityKeyFile),
                0, hint);
  }
  if (X509_check_private_key(authority.certificate.get(), authority.key.get()) != 1) {
    drain_openssl_errors();
    throw Error(
        fmt::format("{} does not belong to {} in {}", kAuthorityKeyFile, kAuthorityFile, dir), 0,
        hint);
  }
  return authority;
}

// The name becomes part of a certificate and a DNS name of it.
void check_host_name(const std::string& name) {
  const auto allowed = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '.' || c == '_';
  };
  if (name.empty() || name.size() > kNameMaximum ||
      !std::all_of(name.begin(), name.end(), allowed)) {
    throw Error(fmt::format("'{}' is not a host name", name), 0,
                "use at most 64 letters, digits, '-', '.' and '_'");
  }
}

}  // namespace

void make_authority(const std::string& dir) {
  refuse_existing(join(dir, kAuthorityFile));
  refuse_existing(join(dir, kAuthorityKeyFile));
  const KeyHandle key = make_key();
  const CertificateHandle certificate =
      begin_certificate(*key, -kBackdateSeconds, kAuthorityDays * kDaySeconds);
  add_name_entry(*X509_get_subject_name(certificate.get()), "CN", "godwit authority");
  X509_set_issuer_name(certificate.get(), X509_get_subject_name(certificate.get()));
  add_extension(*certificate, *certificate, NID_basic_constraints, "critical,CA:TRUE,pathlen:0");
  add_extension(*certificate, *certificate, NID_key_usage, "critical,keyCertSign,cRLSign");
  add_extension(*certificate, *certificate, NID_subject_key_identifier, "hash");
  sign(*certificate, *key);
  make_folder(dir);
  write_new_file(join(dir, kAuthorityKeyFile), to_pem(*key), 0600);
  write_new_file(join(dir, kAuthorityFile), to_pem(*certificate), 0644);
}

void issue_keys(const KeyRequest& request) {
  check_host_name(request.host_name);
  if (request.role != "source" && request.role != "destination") {
    throw Error(fmt::format("'{}' is not a role", request.role), 0, "use source or destination");
  }
  const Authority authority = load_authority(request.authority_dir);
  for (const std::string_view file : {kHostCertificateFile, kHostKeyFile, kAuthorityFile}) {
    refuse_existing(join(request.out_dir, file));
  }
  const KeyHandle key = make_key();
  const long to_s = request.days * kDaySeconds;
  // One that has expired was valid for a day before.
  const long from_s = std::min(-kBackdateSeconds, to_s - kDaySeconds);
  const CertificateHandle certificate = begin_certificate(*key, from_s, to_s);
  X509_NAME* subject = X509_get_subject_name(certificate.get());
  add_name_entry(*subject, "OU", tls_role_unit(request.role));
  add_name_entry(*subject, "CN", request.host_name);
  X509_set_issuer_name(certificate.get(), X509_get_subject_name(authority.certificate.get()));
  X509& issuer = *authority.certificate;
  add_extension(*certificate, issuer, NID_basic_constraints, "critical,CA:FALSE");
  add_extension(*certificate, issuer, NID_key_usage, "critical,digitalSignature");
  add_extension(*certificate, issuer, NID_ext_key_usage, "serverAuth,clientAuth");
  add_extension(*certificate, issuer, NID_subject_alt_name, "DNS:" + request.host_name);
  add_extension(*certificate, issuer, NID_subject_key_identifier, "hash");
  add_extension(*certificate, issuer, NID_authority_key_identifier, "keyid");
  sign(*certificate, *authority.key);
  make_folder(request.out_dir);
  write_new_file(join(request.out_dir, kHostKeyFile), to_pem(*key), 0600);
  write_new_file(join(request.out_dir, kHostCertificateFile), to_pem(*certificate), 0644);
  write_new_file(join(request.out_dir, kAuthorityFile), authority.certificate_pem, 0644);
}

}  // namespace godwit
