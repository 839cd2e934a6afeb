#include "dest-agent/family.h"

#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <set>

#include "common/base/clock.h"
#include "common/base/error.h"
#include "common/base/unique_fd.h"
#include "common/kernel/proc_status.h"

namespace godwit {
namespace {

constexpr std::int64_t kEndTimeoutNs = 5'000'000'000;
constexpr useconds_t kTurnUs = 10'000;

std::string namespace_of(pid_t pid) {
  std::error_code gone;
  return std::filesystem::read_symlink(fmt::format("/proc/{}/ns/pid", pid), gone).string();
}

std::vector<pid_t> all_processes() {
  std::vector<pid_t> pids;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    const std::string name = entry.path().filename();
    if (std::ranges::all_of(name, [](char each) { return each >= '0' && each <= '9'; })) {
      pids.push_back(std::stoi(name));
    }
  }
  return pids;
}

bool is_running(pid_t pid) {
  const auto status = try_read_proc_status(fmt::format("/proc/{}", pid));
  return status && status->state != 'Z' && status->state != 'X';
}

std::vector<pid_t> descendants_of(pid_t root) {
  std::multimap<pid_t, pid_t> children;
  for (const pid_t pid : all_processes()) {
    if (const auto status = try_read_proc_status(fmt::format("/proc/{}", pid))) {
      children.emplace(status->parent, pid);
    }
  }
  std::vector<pid_t> found{root};
  for (std::size_t at = 0; at < found.size(); ++at) {
    const auto [first, last] = children.equal_range(found[at]);
    for (auto child = first; child != last; ++child) found.push_back(child->second);
  }
  return found;
}

// False for one that runs, or waits for something else.
bool may_wait_for_page(pid_t tid, const ProcStatus& status) {
  if (status.state == 'R') return false;
  try {
    const std::string place = read_file(fmt::format("/proc/{}/wchan", tid));
    return place.empty() || place == "0" || place.find("userfault") != std::string::npos;
  } catch (const Error&) {
    return true;  // a kernel that does not tell
  }
}

}  // namespace

Family::Family(const ProcessMark& process)
    : process_(process), namespace_(is_alive(process) ? namespace_of(process.pid) : "") {}

bool Family::is_namespace_of_its_own() const {
  return !namespace_.empty() && namespace_ != namespace_of(::getpid());
}

std::vector<pid_t> Family::members() const {
  if (!is_namespace_of_its_own()) {
    return is_alive(process_) ? descendants_of(process_.pid) : std::vector<pid_t>();
  }
  std::vector<pid_t> found = all_processes();
  std::erase_if(found, [this](pid_t pid) { return namespace_of(pid) != namespace_; });
  return found;
}

std::optional<Family::Thread> Family::find(pid_t inner_tid) const {
  const auto thread = [](pid_t tid, const ProcStatus& status) {
    return Thread{status.tgid, tid, status.name, may_wait_for_page(tid, status)};
  };
  if (!is_namespace_of_its_own()) {
    const auto status = try_read_proc_status(fmt::format("/proc/{}", inner_tid));
    if (!status) return std::nullopt;
    return thread(inner_tid, *status);
  }
  for (const pid_t pid : members()) {
    std::error_code gone;
    for (const auto& entry :
         std::filesystem::directory_iterator(fmt::format("/proc/{}/task", pid), gone)) {
      const auto status = try_read_proc_status(entry.path());
      if (status && status->inner_pid() == inner_tid) return thread(status->pid, *status);
    }
  }
  return std::nullopt;
}

std::size_t Family::end(std::vector<pid_t> others) const {
  std::set<pid_t> ended;
  const std::int64_t deadline_ns = monotonic_ns() + kEndTimeoutNs;
  // Again and again: they may fork until the last one has ended.
  for (;;) {
    std::vector<pid_t> left = members();
    left.insert(left.end(), others.begin(), others.end());
    std::erase_if(left, [](pid_t pid) { return !is_running(pid); });
    for (const pid_t pid : left) {
      ::kill(pid, SIGKILL);
      ended.insert(pid);
    }
    if (left.empty() || monotonic_ns() > deadline_ns) return ended.size();
    ::usleep(kTurnUs);
  }
}

}  // namespace godwit
