// Regular files, directories and stateless character devices (proto/regular_files.proto).
//
// The destination opens them again by path, so what has no path there is refused: deleted and
// unnamed files, files of /proc and /sys, memfds, FIFOs, devices with a state, locked files.
#pragma once

#include <map>
#include <set>
#include <string>

#include "common/model/findings.h"
#include "proto/regular_files.pb.h"
#include "source-agent/capture/fd_facts.h"

namespace godwit {

// True for what RegularFilesCapture describes or refuses: whatever has a path.
bool is_path_file(const FdFacts& facts);

// Describes the files of one process again and again. That a path leads to the file is looked up
// once for each; afterwards its link count and its link in /proc tell when that ends.
class RegularFilesCapture {
 public:
  explicit RegularFilesCapture(pid_t host_pid);

  proto::RegularFile describe(const FdFacts& facts, Findings& findings);

 private:
  void examine(const FdFacts& facts, Findings& findings);
  bool examine_place(const FdFacts& facts, Findings& findings);

  std::string path_prefix_;  // empty, or /proc/PID/root
  std::map<std::uint64_t, const char*>
      systems_;                  // by device: name of a kernel file system, or null
  std::set<std::string> found_;  // links that lead to the file they name
};

}  // namespace godwit
