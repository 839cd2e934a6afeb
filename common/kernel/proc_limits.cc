#include "common/kernel/proc_limits.h"

#include <sys/resource.h>

#include <array>
#include <utility>

#include "common/base/error.h"
#include "common/base/unique_fd.h"
#include "common/kernel/proc_text.h"

namespace godwit {
namespace {

constexpr std::array<std::pair<std::string_view, int>, 16> kNames = {{
    {"cpu time", RLIMIT_CPU},
    {"file size", RLIMIT_FSIZE},
    {"data size", RLIMIT_DATA},
    {"stack size", RLIMIT_STACK},
    {"core file size", RLIMIT_CORE},
    {"resident set", RLIMIT_RSS},
    {"processes", RLIMIT_NPROC},
    {"open files", RLIMIT_NOFILE},
    {"locked memory", RLIMIT_MEMLOCK},
    {"address space", RLIMIT_AS},
    {"file locks", RLIMIT_LOCKS},
    {"pending signals", RLIMIT_SIGPENDING},
    {"msgqueue size", RLIMIT_MSGQUEUE},
    {"nice priority", RLIMIT_NICE},
    {"realtime priority", RLIMIT_RTPRIO},
    {"realtime timeout", RLIMIT_RTTIME},
}};

std::uint64_t parse_limit(std::string_view word) {
  if (word == "unlimited") return RLIM_INFINITY;
  return parse_number<std::uint64_t>(word, "limits");
}

}  // namespace

std::vector<ProcLimit> parse_proc_limits(std::string_view text) {
  constexpr std::string_view kPrefix = "Max ";
  std::vector<ProcLimit> limits;
  next_line(text);  // the heading
  while (!text.empty()) {
    std::string_view line = next_line(text);
    if (line.empty()) continue;
    if (!line.starts_with(kPrefix)) fail("limits: '{}' is not a limit", line);
    line.remove_prefix(kPrefix.size());
    for (const auto& [name, resource] : kNames) {
      if (!line.starts_with(name) || line.substr(name.size(), 2) != "  ") continue;
      std::string_view rest = line.substr(name.size());
      const std::uint64_t soft = parse_limit(next_word(rest));
      const std::uint64_t hard = parse_limit(next_word(rest));
      limits.push_back({resource, soft, hard});
    }
  }
  return limits;
}

std::vector<ProcLimit> read_proc_limits(pid_t pid) {
  const std::string path = fmt::format("/proc/{}/limits", pid);
  return in_context([&] { return parse_proc_limits(read_file(path)); }, "{}", path);
}

std::string_view limit_name(int resource) {
  for (const auto& [name, number] : kNames) {
    if (number == resource) return name;
  }
  return "unknown limit";
}

}  // namespace godwit
