#include "common/kernel/proc_status.h"

#include <dirent.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <unordered_map>

#include "common/base/error.h"
#include "common/base/unique_fd.h"
#include "common/kernel/proc_text.h"

namespace godwit {
namespace {

using Reader = void (*)(ProcStatus&, std::string_view);

template <auto Field, int kBase = 10>
void read_field(ProcStatus& status, std::string_view text) {
  using T = std::remove_reference_t<decltype(status.*Field)>;
  if constexpr (std::is_same_v<T, bool>) {
    status.*Field = parse_number<int>(text, "status") != 0;
  } else {
    status.*Field = parse_number<T>(text, "status", kBase);
  }
}

template <auto Field>
void read_list(ProcStatus& status, std::string_view text) {
  auto& list = status.*Field;
  using T = typename std::remove_reference_t<decltype(list)>::value_type;
  std::size_t count = 0;
  while (!(text = trim(text)).empty()) {
    const T value = parse_number<T>(next_word(text), "status");
    if constexpr (requires { list.push_back(value); }) {
      list.push_back(value);
    } else if (count < list.size()) {
      list[count] = value;
    }
    ++count;
  }
}

const std::unordered_map<std::string_view, Reader>& readers() {
  using S = ProcStatus;
  static const std::unordered_map<std::string_view, Reader> table = {
      {"Name", [](S& s, std::string_view text) { s.name = text; }},
      {"State", [](S& s, std::string_view text) { s.state = text.empty() ? '?' : text[0]; }},
      {"Umask", read_field<&S::umask, 8>},
      {"Tgid", read_field<&S::tgid>},
      {"Pid", read_field<&S::pid>},
      {"PPid", read_field<&S::parent>},
      {"TracerPid", read_field<&S::tracer>},
      {"Uid", read_list<&S::uids>},
      {"Gid", read_list<&S::gids>},
      {"Groups", read_list<&S::groups>},
      {"NSpid", read_list<&S::namespace_pids>},
      {"NSpgid", read_list<&S::namespace_groups>},
      {"NSsid", read_list<&S::namespace_sessions>},
      {"Kthread", read_field<&S::kernel_thread>},
      {"SigPnd", read_field<&S::pending_private, 16>},
      {"ShdPnd", read_field<&S::pending_shared, 16>},
      {"SigBlk", read_field<&S::signals_blocked, 16>},
      {"SigIgn", read_field<&S::signals_ignored, 16>},
      {"SigCgt", read_field<&S::signals_caught, 16>},
      {"CapInh", read_field<&S::capabilities_inheritable, 16>},
      {"CapPrm", read_field<&S::capabilities_permitted, 16>},
      {"CapEff", read_field<&S::capabilities_effective, 16>},
      {"CapBnd", read_field<&S::capabilities_bounding, 16>},
      {"CapAmb", read_field<&S::capabilities_ambient, 16>},
      {"NoNewPrivs", read_field<&S::no_new_privileges>},
      {"Seccomp", read_field<&S::seccomp_mode>},
      {"voluntary_ctxt_switches", read_field<&S::voluntary_switches>},
      {"nonvoluntary_ctxt_switches", read_field<&S::involuntary_switches>},
  };
  return table;
}

// A task that ends while its status is read has lost its ids already: the kernel writes zeros.
bool has_ended(const ProcStatus& status) {
  const auto& ids = status.namespace_pids;
  return status.tgid == 0 || status.pid == 0 || std::find(ids.begin(), ids.end(), 0) != ids.end();
}

}  // namespace

ProcStatus parse_proc_status(std::string_view text) {
  ProcStatus status;
  while (!text.empty()) {
    const std::string_view line = next_line(text);
    const auto colon = line.find(':');
    if (colon == std::string_view::npos) continue;
    const auto reader = readers().find(line.substr(0, colon));
    if (reader != readers().end()) reader->second(status, trim(line.substr(colon + 1)));
  }
  if (status.tgid == 0 && status.pid == 0) fail("status without Tgid and Pid");
  if (has_ended(status)) throw_errno(ESRCH, "a task that has ended");
  return status;
}

ProcStatus read_proc_status(const std::string& directory) {
  const std::string path = directory + "/status";
  return in_context([&] { return parse_proc_status(read_file(path)); }, "{}", path);
}

ProcStatus read_proc_status(pid_t pid) { return read_proc_status(fmt::format("/proc/{}", pid)); }

std::optional<ProcStatus> try_read_proc_status(const std::string& directory) {
  try {
    return read_proc_status(directory);
  } catch (const Error& error) {
    if (error.code() == ENOENT || error.code() == ESRCH) return std::nullopt;
    throw;
  }
}

std::vector<pid_t> list_threads(pid_t pid) {
  const std::string path = fmt::format("/proc/{}/task", pid);
  const std::unique_ptr<DIR, int (*)(DIR*)> directory(::opendir(path.c_str()), ::closedir);
  if (!directory) throw_system("open {}", path);
  std::vector<pid_t> threads;
  while (const dirent* entry = ::readdir(directory.get())) {
    if (entry->d_name[0] == '.') continue;
    threads.push_back(parse_number<pid_t>(entry->d_name, path));
  }
  std::sort(threads.begin(), threads.end());
  const auto leader = std::find(threads.begin(), threads.end(), pid);
  if (leader != threads.end()) std::rotate(threads.begin(), leader, leader + 1);
  return threads;
}

}  // namespace godwit
