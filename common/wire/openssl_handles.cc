#include "common/wire/openssl_handles.h"

#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include <ctime>

#include "common/base/error.h"
#include "common/base/printable.h"
#include "common/wire/tls_errors.h"

namespace godwit {
namespace {

BioHandle bio_of(const std::string& text) {
  BioHandle bio(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
  if (!bio) throw_openssl("make a memory buffer");
  return bio;
}

std::string text_of(BIO& bio) {
  char* data = nullptr;
  const long size = BIO_get_mem_data(&bio, &data);
  return std::string(data, static_cast<std::size_t>(size));
}

// A key that is encrypted would make OpenSSL ask on the terminal.
int no_password(char*, int, int, void*) { return -1; }

}  // namespace

void throw_openssl(const std::string& what) {
  throw Error(what + ": " + drain_openssl_errors(), EPROTO);
}

CertificateHandle try_parse_certificate(const std::string& pem) {
  CertificateHandle certificate(
      PEM_read_bio_X509(bio_of(pem).get(), nullptr, no_password, nullptr));
  if (!certificate) drain_openssl_errors();
  return certificate;
}

KeyHandle try_parse_key(const std::string& pem) {
  KeyHandle key(PEM_read_bio_PrivateKey(bio_of(pem).get(), nullptr, no_password, nullptr));
  if (!key) drain_openssl_errors();
  return key;
}

std::string to_pem(X509& certificate) {
  const BioHandle bio(BIO_new(BIO_s_mem()));
  if (!bio || PEM_write_bio_X509(bio.get(), &certificate) != 1)
    throw_openssl("write a certificate");
  return text_of(*bio);
}

std::string to_pem(EVP_PKEY& key) {
  const BioHandle bio(BIO_new(BIO_s_mem()));
  if (!bio ||
      PEM_write_bio_PrivateKey(bio.get(), &key, nullptr, nullptr, 0, nullptr, nullptr) != 1) {
    throw_openssl("write a private key");
  }
  return text_of(*bio);
}

std::string subject_entry(const X509& certificate, int nid) {
  const X509_NAME* name = X509_get_subject_name(&certificate);
  const int at = X509_NAME_get_index_by_NID(name, nid, -1);
  if (at < 0) return {};
  const ASN1_STRING* value = X509_NAME_ENTRY_get_data(X509_NAME_get_entry(name, at));
  return printable(std::string(reinterpret_cast<const char*>(ASN1_STRING_get0_data(value)),
                               static_cast<std::size_t>(ASN1_STRING_length(value))));
}

std::string time_text(const ASN1_TIME& time) {
  std::tm parts{};
  if (ASN1_TIME_to_tm(&time, &parts) != 1) return "an unknown time";
  char text[32];
  return std::string(text, std::strftime(text, sizeof(text), "%Y-%m-%d %H:%M:%S UTC", &parts));
}

}  // namespace godwit
