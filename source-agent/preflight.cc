#include "source-agent/preflight.h"

#include <dirent.h>
#include <linux/kcmp.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/base/error.h"
#include "common/base/unique_fd.h"
#include "common/kernel/agent_privileges.h"
#include "common/kernel/proc_stat.h"
#include "common/kernel/proc_status.h"
#include "source-agent/capture/task_identity.h"

namespace godwit {
namespace {

// The init that a destination starts for a process whose id was taken (comm, at most 15 bytes).
constexpr std::string_view kOwnInit = "godwit-init";

std::string pid_object(pid_t pid) { return fmt::format("pid {}", pid); }

// What is found about a task that ends meanwhile is that it ended: no error.
template <typename Body>
auto unless_gone(Body body) -> std::optional<decltype(body())> {
  try {
    return body();
  } catch (const Error& error) {
    if (error.code() == ENOENT || error.code() == ESRCH) return std::nullopt;
    throw;
  }
}

std::vector<pid_t> list_processes() {
  std::vector<pid_t> pids;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    const std::string name = entry.path().filename();
    pid_t pid = 0;
    const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), pid);
    if (error == std::errc() && end == name.data() + name.size()) pids.push_back(pid);
  }
  return pids;
}

std::optional<pid_t> try_parent_of(pid_t pid) {
  return unless_gone([pid] { return read_proc_stat(pid).parent; });
}

bool is_ancestor_of_this(pid_t pid) {
  std::optional<pid_t> at = ::getppid();
  while (at && *at > 0) {
    if (*at == pid) return true;
    at = try_parent_of(*at);
  }
  return false;
}

std::vector<pid_t> children_of(pid_t pid) {
  std::vector<pid_t> children;
  for (const pid_t candidate : list_processes()) {
    if (try_parent_of(candidate) == pid) children.push_back(candidate);
  }
  std::sort(children.begin(), children.end());
  return children;
}

bool shares_memory(pid_t a, pid_t b) { return ::syscall(SYS_kcmp, a, b, KCMP_VM, 0, 0) == 0; }

void check_children(pid_t pid, Findings& findings) {
  std::string others;
  for (const pid_t child : children_of(pid)) {
    if (shares_memory(pid, child)) {
      refuse(findings, "vfork-in-progress", pid_object(child),
             fmt::format("it runs in the memory of {} (vfork or posix_spawn in progress)",
                         pid_object(pid)),
             "try again in a moment, when it has started its program");
      continue;
    }
    const auto comm = unless_gone([child] { return read_proc_stat(child).comm; });
    if (comm) others += fmt::format("{}{} ({})", others.empty() ? "" : ", ", child, *comm);
  }
  if (others.empty()) return;
  refuse(findings, "process-has-children", pid_object(pid),
         "it has child processes, which would stay behind: " + others,
         "move a process without children, or let them end first");
}

// The leader's tracer is told by preflight_task_identity.
void check_tracers(pid_t pid, const std::vector<pid_t>& threads, Findings& findings) {
  for (const pid_t thread : threads) {
    if (thread == pid) continue;
    const auto status = try_read_proc_status(fmt::format("/proc/{}/task/{}", pid, thread));
    if (!status || status->tracer == 0) continue;
    refuse(findings, "thread-is-traced", fmt::format("thread {}", thread),
           fmt::format("process {} traces it (a debugger or strace)", status->tracer),
           "end the tracer; a thread can have one only");
  }
}

// Empty when the task is gone. Throws Error when it may not be looked at.
std::string namespace_of(const std::string& directory, std::string_view kind) {
  const auto link =
      unless_gone([&] { return read_link(fmt::format("{}/ns/{}", directory, kind)); });
  return link.value_or("");
}

// The init of the process's pid namespace is one that a destination here started.
bool was_moved_here(pid_t pid) {
  const std::string space = namespace_of(fmt::format("/proc/{}", pid), "pid");
  for (const pid_t candidate : list_processes()) {
    const std::string directory = fmt::format("/proc/{}", candidate);
    const auto status = try_read_proc_status(directory);
    if (!status || status->inner_pid() != 1 || status->name != kOwnInit) continue;
    if (!space.empty() && namespace_of(directory, "pid") == space) return true;
  }
  return false;
}

void check_namespaces(pid_t pid, Findings& findings) {
  struct Kind {
    std::string_view name;
    const char* id;
  };
  static constexpr std::array<Kind, 6> kKinds{{{"mnt", "foreign-mount-namespace"},
                                               {"net", "foreign-network-namespace"},
                                               {"user", "foreign-user-namespace"},
                                               {"ipc", "foreign-ipc-namespace"},
                                               {"uts", "foreign-uts-namespace"},
                                               {"cgroup", "foreign-cgroup-namespace"}}};
  const std::string directory = fmt::format("/proc/{}", pid);
  for (const auto& [name, id] : kKinds) {
    const std::string theirs = namespace_of(directory, name);
    if (theirs.empty() || theirs == namespace_of("/proc/self", name)) continue;
    // Moved here before: its mount namespace differs from the host's by /proc only.
    if (name == "mnt" && was_moved_here(pid)) continue;
    refuse(findings, id, pid_object(pid),
           fmt::format("it is in a namespace of its own ({})", theirs),
           fmt::format("run migrate inside it: nsenter --{}=/proc/{}/ns/{} migrate ...",
                       name == "mnt" ? "mount" : name, pid, name));
  }
}

// A process that is better protected than this one (more capabilities, a security module).
bool try_access(pid_t pid, Findings& findings) {
  try {
    namespace_of(fmt::format("/proc/{}", pid), "pid");
    return true;
  } catch (const Error& error) {
    refuse(findings, "process-not-accessible", pid_object(pid), error.what(),
           "run migrate with the capability CAP_SYS_PTRACE and at least the process's own ones");
    return false;
  }
}

void check_rest(pid_t pid, Findings& findings) {
  if (!try_access(pid, findings)) return;
  check_tracers(pid, list_threads(pid), findings);
  check_children(pid, findings);
  check_namespaces(pid, findings);
}

}  // namespace

Findings preflight_process(pid_t pid) {
  Findings findings;
  if (const std::string missing = missing_privileges(); !missing.empty()) {
    refuse(findings, "agent-lacks-privilege", "migrate", missing,
           "run it as root with its capabilities: it stops the process and reads its memory");
    return findings;
  }
  if (pid == ::getpid()) {
    refuse(findings, "pid-is-self", pid_object(pid), "that is migrate itself",
           "name the process to move");
    return findings;
  }
  // pid 1 is an ancestor too, but there is more to say about it.
  if (pid != 1 && is_ancestor_of_this(pid)) {
    refuse(findings, "pid-is-ancestor", pid_object(pid),
           "migrate was started by it and would stop with it",
           "start migrate from elsewhere, such as another terminal");
    return findings;
  }
  const auto done = unless_gone([&] {
    preflight_task_identity(pid, findings);
    if (!stands_alone(findings)) check_rest(pid, findings);
    return true;
  });
  if (!done) {
    findings.clear();
    refuse(findings, "no-such-pid", pid_object(pid), "it ended while it was looked at",
           "look the id up again");
  }
  return findings;
}

bool stands_alone(const Findings& findings) {
  static constexpr std::array<std::string_view, 10> kAlone{
      "no-such-pid",           "not-a-process",         "pid-is-init",     "pid-is-kernel-thread",
      "leader-exited",         "pid-is-zombie",         "pid-is-ancestor", "pid-is-self",
      "agent-lacks-privilege", "process-not-accessible"};
  return std::any_of(findings.begin(), findings.end(), [](const proto::Finding& finding) {
    return std::find(kAlone.begin(), kAlone.end(), finding.id()) != kAlone.end();
  });
}

void preflight_thread_ids(pid_t pid, const proto::HostFeatures& destination, Findings& findings) {
  if (destination.pid_max() == 0) return;  // not told
  const auto threads = unless_gone([pid] { return list_threads(pid); });
  if (!threads) return;
  for (const pid_t thread : *threads) {
    const auto status = try_read_proc_status(fmt::format("/proc/{}/task/{}", pid, thread));
    if (!status || static_cast<std::uint32_t>(status->inner_pid()) < destination.pid_max())
      continue;
    refuse(findings, "thread-id-too-large", fmt::format("thread {}", status->inner_pid()),
           fmt::format("the ids of {} end at {}", destination.host_name(), destination.pid_max()),
           fmt::format("raise it there: sysctl kernel.pid_max={}", 4 << 20));
  }
}

}  // namespace godwit
