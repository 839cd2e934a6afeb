// What went wrong in TLS, in words. Used by tls_stream only.
#pragma once

#include <openssl/ssl.h>

#include <string>

#include "common/base/error.h"

namespace godwit {

// The whole OpenSSL error queue of this thread as one line; empties it.
std::string drain_openssl_errors();

// Why this side does not accept the peer's certificate (X509_V_ERR_*); `name` is its CN and
// `expected_unit` the OU that it should have.
Error certificate_error(long verify_result, const std::string& name, const std::string& found_unit,
                        const std::string& expected_unit);

// The error at the head of this thread's queue: an alert of the peer, not TLS at all, or any other.
// Empties the queue. `doing` is what was being done: "TLS handshake with 10.0.0.2:7000".
Error protocol_error(const std::string& doing);

}  // namespace godwit
