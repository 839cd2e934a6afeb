// Executables, libraries and other files that are mapped: the same here as at the source?
#pragma once

#include <string>
#include <vector>

#include "proto/mappings.pb.h"

namespace godwit {

// Compares the files of a description with the ones here: for preflight, before anything is built.
// Adds a finding for each that is missing or different.
struct FileDifference {
  std::string id;
  std::string path;
  std::string problem;
};
std::vector<FileDifference> compare_files(const proto::Mappings& mappings);

}  // namespace godwit
