// Owned OpenSSL objects and PEM texts. For the files that make or read certificates.
#pragma once

#include <openssl/bio.h>
#include <openssl/evp.h>
#include <openssl/x509.h>

#include <memory>
#include <string>

namespace godwit {

template <auto release>
struct OpensslRelease {
  template <typename T>
  void operator()(T* object) const {
    release(object);
  }
};

using BioHandle = std::unique_ptr<BIO, OpensslRelease<BIO_free>>;
using KeyHandle = std::unique_ptr<EVP_PKEY, OpensslRelease<EVP_PKEY_free>>;
using CertificateHandle = std::unique_ptr<X509, OpensslRelease<X509_free>>;

// nullptr when the text is not what it should be; the OpenSSL error queue is left empty.
CertificateHandle try_parse_certificate(const std::string& pem);
KeyHandle try_parse_key(const std::string& pem);

// Throw Error.
std::string to_pem(X509& certificate);
std::string to_pem(EVP_PKEY& key);

// The first entry of this kind (NID_commonName, ...) in the subject, empty if there is none. It may
// be a stranger's and goes to logs and terminals: it is printable.
std::string subject_entry(const X509& certificate, int nid);
// "2026-03-01 12:00:00 UTC".
std::string time_text(const ASN1_TIME& time);

// Throws Error{"<what>: <OpenSSL's reason>"} and empties the error queue.
[[noreturn]] void throw_openssl(const std::string& what);

}  // namespace godwit
