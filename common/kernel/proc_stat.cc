#include "common/kernel/proc_stat.h"

#include "common/base/error.h"
#include "common/base/unique_fd.h"
#include "common/kernel/proc_text.h"

namespace godwit {

ProcStat parse_proc_stat(std::string_view text) {
  const auto open = text.find('(');
  const auto close = text.rfind(')');
  if (open == std::string_view::npos || close == std::string_view::npos || close < open) {
    fail("stat without a name in brackets");
  }
  ProcStat stat;
  stat.comm = text.substr(open + 1, close - open - 1);
  std::string_view rest = text.substr(close + 1);
  // Numbered as in the manual page; the state is field 3.
  for (int field = 3;; ++field) {
    const std::string_view word = next_word(rest);
    if (word.empty()) {
      if (field <= 22) fail("stat has {} fields only", field - 1);
      break;
    }
    if (field == 3) stat.state = word[0];
    if (field == 4) stat.parent = parse_number<pid_t>(word, "stat");
    if (field == 5) stat.group = parse_number<pid_t>(word, "stat");
    if (field == 6) stat.session = parse_number<pid_t>(word, "stat");
    if (field == 7) stat.terminal = parse_number<int>(word, "stat");
    if (field == 9) stat.flags = parse_number<std::uint32_t>(word, "stat");
    if (field == 22) stat.start_time_ticks = parse_number<std::uint64_t>(word, "stat");
    if (field == 39) stat.processor = parse_number<int>(word, "stat");
  }
  return stat;
}

ProcStat read_proc_stat(const std::string& directory) {
  const std::string path = directory + "/stat";
  return in_context([&] { return parse_proc_stat(read_file(path)); }, "{}", path);
}

ProcStat read_proc_stat(pid_t pid) { return read_proc_stat(fmt::format("/proc/{}", pid)); }

bool is_ending(pid_t tid) {
  try {
    return read_proc_stat(tid).ending();
  } catch (const Error& error) {
    if (error.code() == ENOENT || error.code() == ESRCH) return true;
    throw;
  }
}

}  // namespace godwit
