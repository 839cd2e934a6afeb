// Parts of a report as JSON, for documents that share them.
#pragma once

#include <nlohmann/json.hpp>

#include "common/model/report.h"

namespace godwit {

// Milliseconds with whole microseconds: a reader has no use for more digits.
double json_ms(std::int64_t ns);
// Null where nothing was missing.
nlohmann::ordered_json post_copy_json(const PostCopyReport& report);

}  // namespace godwit
