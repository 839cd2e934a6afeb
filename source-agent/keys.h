// Makes the certificates of a cluster: one authority, and a key folder for each host and role.
//
// EC P-256, X.509 v3. A host's certificate says its name in CN and SAN, and its role in OU
// (godwit-source, godwit-destination), which is what peers check (common/wire/tls_stream.h).
// Nothing is ever overwritten; private keys are made with mode 0600. All throw Error with a hint.
#pragma once

#include <string>
#include <string_view>

namespace godwit {

inline constexpr std::string_view kAuthorityKeyFile = "ca.key";

// Makes `dir` (if it isn't there) with ca.crt, valid for ten years, and ca.key.
void make_authority(const std::string& dir);

struct KeyRequest {
  std::string authority_dir;
  std::string host_name;
  std::string role;  // source, destination
  std::string out_dir;
  // From now until the certificate expires. Negative: it expired that long ago, which is good for
  // trying out what happens then.
  int days = 825;
};

// Makes `out_dir` with host.crt, host.key, ca.crt.
void issue_keys(const KeyRequest& request);

}  // namespace godwit
