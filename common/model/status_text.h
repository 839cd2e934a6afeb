// `migrate status`: what the agents of a host tell of their migrations, for people and for programs
// (docs/operations.md, field by field).
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "common/model/journal.h"
#include "common/model/status_page.h"

namespace godwit {

struct ListedMigration {
  JournalRecord record;
  bool agent_alive = false;
  std::optional<MigrationStatus> status;  // as last told
};

// What is in course, or left by an agent that died, by journals and what was told. Throws Error for
// a folder that can't be read.
std::vector<ListedMigration> list_migrations(const JournalFolder& folder);

// `now_ns`: CLOCK_MONOTONIC.
std::string status_text(const std::vector<ListedMigration>& migrations);
std::string status_json(const std::vector<ListedMigration>& migrations, std::int64_t now_ns);

}  // namespace godwit
