// What preflight finds: everything that would stop a migration, at once, each with its way out.
#pragma once

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "proto/control.pb.h"

namespace godwit {

using Findings = std::vector<proto::Finding>;

// A finding that refuses the migration. `id` is stable and listed in docs/operations.md; `object`
// is the thing itself ("pid 12", "fd 7", a path, an address).
inline void refuse(Findings& findings, std::string id, std::string object, std::string problem,
                   std::string way_out) {
  proto::Finding finding;
  finding.set_id(std::move(id));
  finding.set_object(std::move(object));
  finding.set_problem(std::move(problem));
  finding.set_way_out(std::move(way_out));
  findings.push_back(std::move(finding));
}

// True when something stops the migration.
inline bool refuses(const Findings& findings) {
  return std::any_of(findings.begin(), findings.end(),
                     [](const proto::Finding& finding) { return !finding.warning(); });
}

// One that is only told.
inline void warn(Findings& findings, std::string id, std::string object, std::string problem,
                 std::string way_out) {
  refuse(findings, std::move(id), std::move(object), std::move(problem), std::move(way_out));
  findings.back().set_warning(true);
}

}  // namespace godwit
