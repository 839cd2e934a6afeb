// A session whose process runs here with pages missing, after its connection or a page server was
// lost, or in place of a session that was killed: waits for the source to come back, and goes on.
#pragma once

#include <string>

#include "common/wire/key_folder.h"
#include "dest-agent/options.h"
#include "dest-agent/post_copy.h"

namespace godwit {

// Returns when every page is there and the source has said Finish; without a source it waits as
// long as it takes, and so do those who touch what is missing. `link`: to the daemon.
void run_resumed_session(const DestOptions& options, const KeyFolder& keys,
                         const std::string& migration_id, int link, PostCopy& post_copy);

// The journal says whether pages are missing here, for a source that asks.
void note_missing_pages(const DestOptions& options, const std::string& migration_id, bool missing);

// Nothing is left to do for it.
void forget_migration(const DestOptions& options, const std::string& migration_id);
// The process as this host sees it; 0: there is no journal of it.
pid_t find_migrated(const DestOptions& options, const std::string& migration_id);

}  // namespace godwit
