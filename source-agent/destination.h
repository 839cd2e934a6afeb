// The source's view of a destination: the control connection and what is said over it.
#pragma once

#include <cstdint>
#include <string>

#include "common/base/unique_fd.h"
#include "common/model/command_line_values.h"
#include "common/wire/channel.h"
#include "common/wire/key_folder.h"
#include "common/wire/preface.h"

namespace godwit {

// A connected TCP socket; throws Error naming the address, with what to check.
UniqueFd connect_to(const HostPort& endpoint, std::int64_t deadline_ns);

// Connects, says what the connection is for, and does the TLS handshake as source.
Channel connect_control(const HostPort& endpoint, const KeyFolder& keys,
                        const std::string& migration_id,
                        ConnectionKind kind = ConnectionKind::kControl);
// The page connection, or the one for page faults, before TLS: the page server does the handshake.
UniqueFd connect_pages(const HostPort& endpoint, const std::string& migration_id,
                       ConnectionKind kind = ConnectionKind::kPages);

}  // namespace godwit
