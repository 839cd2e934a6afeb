// The folder that --keys names, as `migrate keys issue` makes it: host.crt, host.key, ca.crt (PEM).
#pragma once

#include <string>
#include <string_view>

#include "common/wire/tls_stream.h"

namespace godwit {

struct KeyFolder {
  std::string certificate_pem;
  std::string private_key_pem;
  std::string authority_pem;
  std::string host_name;  // CN of the certificate
  std::string role;       // source, destination
};

inline constexpr std::string_view kHostCertificateFile = "host.crt";
inline constexpr std::string_view kHostKeyFile = "host.key";
inline constexpr std::string_view kAuthorityFile = "ca.crt";

// Reads and checks a folder: every file is there and readable, the key belongs to the certificate,
// the authority signed it, it is valid now. Throws Refused with a hint: keys-missing,
// keys-unreadable, keys-malformed, keys-mismatch, keys-foreign, keys-expired.
KeyFolder load_keys(const std::string& dir);
// The same, and the certificate is for this role: "source" or "destination"; else keys-wrong-role.
KeyFolder load_keys(const std::string& dir, std::string_view role);

// What a TlsStream needs to talk to a peer of the other role.
TlsMaterial to_tls_material(const KeyFolder& keys);

}  // namespace godwit
