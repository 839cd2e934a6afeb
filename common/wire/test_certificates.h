// Certificates for tests, made on the spot with OpenSSL; never used outside *_test.cc.
#pragma once

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#include <memory>
#include <string>

#include "common/base/error.h"
#include "common/wire/tls_stream.h"

namespace godwit::testing {

class TestAuthority {
 public:
  TestAuthority() : key_(EVP_EC_gen("P-256"), EVP_PKEY_free), certificate_(X509_new(), X509_free) {
    sign("authority", "", key_.get(), certificate_.get(), -60, 3600, true);
  }

  // A leaf valid from `from_s` to `to_s` seconds from now. `peer_role` is whom it expects.
  TlsMaterial issue(const std::string& role, const std::string& peer_role, long from_s = -60,
                    long to_s = 3600) const {
    const Key key(EVP_EC_gen("P-256"), EVP_PKEY_free);
    const Leaf leaf(X509_new(), X509_free);
    sign("host-" + role, "godwit-" + role, key.get(), leaf.get(), from_s, to_s, false);
    TlsMaterial material;
    material.set_certificate_pem(pem_of(leaf.get()));
    material.set_private_key_pem(pem_of(key.get()));
    material.set_authority_pem(pem_of(certificate_.get()));
    material.set_peer_role(peer_role);
    return material;
  }

 private:
  using Key = std::unique_ptr<EVP_PKEY, void (*)(EVP_PKEY*)>;
  using Leaf = std::unique_ptr<X509, void (*)(X509*)>;

  static void add_extension(X509* certificate, int nid, const char* value) {
    X509_EXTENSION* extension = X509V3_EXT_conf_nid(nullptr, nullptr, nid, value);
    X509_add_ext(certificate, extension, -1);
    X509_EXTENSION_free(extension);
  }
  static void add_name(X509_NAME* name, const char* field, const std::string& value) {
    if (value.empty()) return;
    X509_NAME_add_entry_by_txt(name, field, MBSTRING_ASC,
                               reinterpret_cast<const unsigned char*>(value.c_str()), -1, -1, 0);
  }
  void sign(const std::string& name, const std::string& unit, EVP_PKEY* key, X509* certificate,
            long from_s, long to_s, bool authority) const {
    X509_set_version(certificate, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(certificate), authority ? 1 : 2);
    X509_gmtime_adj(X509_getm_notBefore(certificate), from_s);
    X509_gmtime_adj(X509_getm_notAfter(certificate), to_s);
    X509_set_pubkey(certificate, key);
    add_name(X509_get_subject_name(certificate), "CN", name);
    add_name(X509_get_subject_name(certificate), "OU", unit);
    X509_set_issuer_name(certificate, X509_get_subject_name(certificate_.get()));
    add_extension(certificate, NID_basic_constraints, authority ? "critical,CA:TRUE" : "CA:FALSE");
    if (!authority) add_extension(certificate, NID_ext_key_usage, "clientAuth,serverAuth");
    X509_sign(certificate, key_.get(), EVP_sha256());
  }
  template <typename Write>
  static std::string pem(Write write) {
    BIO* bio = BIO_new(BIO_s_mem());
    write(bio);
    char* text = nullptr;
    const long bytes = BIO_get_mem_data(bio, &text);
    std::string result(text, static_cast<std::size_t>(bytes));
    BIO_free(bio);
    return result;
  }
  static std::string pem_of(X509* certificate) {
    return pem([&](BIO* bio) { PEM_write_bio_X509(bio, certificate); });
  }
  static std::string pem_of(EVP_PKEY* key) {
    return pem([&](BIO* bio) {
      PEM_write_bio_PrivateKey(bio, key, nullptr, nullptr, 0, nullptr, nullptr);
    });
  }

  Key key_;
  Leaf certificate_;
};

}  // namespace godwit::testing
