// `migrate recover` on a destination: processes that miss pages while their source is away, and
// what is to become of them. The session that holds them is asked (common/wire/recovery_socket.h).
#pragma once

#include <functional>
#include <string>

#include "source-agent/options.h"

namespace godwit {

// Says what it finds by `tell`, line by line, and does what the options choose. False: something
// waits, and nothing was chosen. Throws Error for a choice that can't be carried out.
bool settle_lost_pages(const MigrateOptions& options,
                       const std::function<void(const std::string&)>& tell);

}  // namespace godwit
