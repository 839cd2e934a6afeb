// What preflight finds: everything that would stop a migration, at once, each with its way out.
#pragma once

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "common/base/error.h"
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

// One that is only told.
inline void warn(Findings& findings, std::string id, std::string object, std::string problem,
                 std::string way_out) {
  refuse(findings, std::move(id), std::move(object), std::move(problem), std::move(way_out));
  findings.back().set_warning(true);
}

// The first one that is more than a warning, of those from `from` on; null when there is none.
inline const proto::Finding* first_refusal(const Findings& findings, std::size_t from = 0) {
  for (std::size_t i = from; i < findings.size(); ++i) {
    if (!findings[i].warning()) return &findings[i];
  }
  return nullptr;
}

// True when something stops the migration.
inline bool refuses(const Findings& findings) { return first_refusal(findings) != nullptr; }

// It stands for all of them in the one-line error; a report has the list. Throws Refused if there
// is one.
inline void throw_first_refusal(const Findings& findings) {
  if (const proto::Finding* first = first_refusal(findings)) {
    throw Refused(first->id(), first->object() + ": " + first->problem(), first->way_out());
  }
}

}  // namespace godwit
