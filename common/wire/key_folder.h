// The folder that --keys names, as `migrate keys issue` makes it: host.crt, host.key, ca.crt (PEM).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "common/wire/tls_stream.h"
#include "proto/control.pb.h"

namespace godwit {

struct KeyFolder {
  std::string dir;
  std::string certificate_pem;
  std::string private_key_pem;
  std::string authority_pem;
  std::string host_name;                // CN of the certificate
  std::string role;                     // source, destination
  std::int64_t valid_until_unix_s = 0;  // of the certificate or its authority's, what ends first
};

inline constexpr std::string_view kHostCertificateFile = "host.crt";
inline constexpr std::string_view kHostKeyFile = "host.key";
inline constexpr std::string_view kAuthorityFile = "ca.crt";

// Reads and checks a folder: every file is there and readable, the key belongs to the certificate,
// the authority signed it, it is valid now. Throws Refused with a hint: keys-missing,
// keys-unreadable, keys-malformed, keys-mismatch, keys-foreign, keys-expired.
//
// kJudgedByPeer takes one that is not valid now too: a peer refuses it in the handshake, and can
// say why, which a side that does not even begin one can't.
enum class KeyValidity { kRequired, kJudgedByPeer };
KeyFolder load_keys(const std::string& dir, KeyValidity validity = KeyValidity::kRequired);
// The same, and the certificate is for this role: "source" or "destination"; else keys-wrong-role.
KeyFolder load_keys(const std::string& dir, std::string_view role,
                    KeyValidity validity = KeyValidity::kRequired);

// What to warn of when the keys expire within a day: a connection that breaks at the switch is made
// again, and its certificates are judged again.
std::optional<proto::Finding> expiry_warning(const KeyFolder& keys, std::int64_t now_unix_s);

// What a TlsStream needs to talk to a peer of the other role.
TlsMaterial to_tls_material(const KeyFolder& keys);

}  // namespace godwit
