// The command line of `dest-agent`, as values.
#pragma once

#include <cstdint>
#include <iosfwd>
#include <optional>
#include <string>

#include "common/base/log.h"
#include "common/model/command_line_values.h"

namespace godwit {

struct DestOptions {
  HostPort listen;  // port 0: the kernel chooses
  std::string keys;
  std::string state_dir = "/run/godwit";
  std::string registry = "/var/lib/godwit/workloads";
  // `restore`.
  std::string image;  // the directory; empty: it is a daemon
  std::string pids = "auto";
  std::string tcp = "close";
  std::string cpu = "require";
  bool lazy = false;
  std::uint64_t bandwidth_bytes_per_s_max = 0;  // with `lazy`; 0: unlimited
  std::optional<std::string> json_path;

  LogLevel log_level = LogLevel::kWarning;  // --quiet: kError, -v: kInfo, -vv: kDebug
};

// Without options the program ends with `exit_code`: 0 after help was printed to `out`, 2 after
// wrong usage was explained on `err`.
struct DestCommandLine {
  std::optional<DestOptions> options;
  int exit_code = 0;
};

DestCommandLine parse_dest_command_line(int argc, const char* const* argv, std::ostream& out,
                                        std::ostream& err);

}  // namespace godwit
