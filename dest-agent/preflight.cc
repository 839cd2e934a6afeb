#include "dest-agent/preflight.h"

#include <signal.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstdlib>
#include <sstream>

#include "common/base/clock.h"
#include "common/base/error.h"
#include "common/base/human_text.h"
#include "common/base/unique_fd.h"
#include "common/kernel/cgroup_fs.h"
#include "common/kernel/processors.h"
#include "dest-agent/kernel_probe.h"
#include "dest-agent/restore/credentials.h"
#include "dest-agent/restore/filesystem_context.h"
#include "dest-agent/restore/mapped_files.h"
#include "dest-agent/restore/rlimits.h"
#include "dest-agent/restore/threads.h"

namespace godwit {
namespace {

// No process, thread, group or session of this host has the id.
bool id_is_free(pid_t id) {
  return ::kill(id, 0) != 0 && errno == ESRCH && ::kill(-id, 0) != 0 && errno == ESRCH &&
         ::access(fmt::format("/proc/{}", id).c_str(), F_OK) != 0;
}

std::vector<pid_t> ids_of(const proto::Process& process) {
  std::vector<pid_t> ids{process.identity().pid()};
  for (const proto::Thread& thread : process.threads()) ids.push_back(thread.tid());
  return ids;
}

std::string choose_pids(const proto::Process& process, const std::string& wanted,
                        Findings& findings) {
  if (wanted == "namespace") return wanted;
  // In a namespace ids start low: its next thread would get an id that a host has given long ago.
  const proto::TaskIdentity& identity = process.identity();
  if (wanted == "auto" && identity.pid() != identity.host_pid()) return "namespace";
  const std::vector<pid_t> ids = ids_of(process);
  const auto taken = std::find_if(ids.begin(), ids.end(), [](pid_t id) { return !id_is_free(id); });
  if (taken == ids.end()) return "same";
  if (wanted == "same") {
    refuse(findings, "pid-taken", fmt::format("pid {}", *taken), "is taken on the destination",
           "use --pids namespace or --pids auto");
  }
  return "namespace";
}

// A file that is newer here than the source saw it a moment ago is the same one, on shared storage.
std::int64_t modified_ns(const struct stat& file) {
  return file.st_mtim.tv_sec * 1'000'000'000LL + file.st_mtim.tv_nsec;
}

void check_files(const proto::Process& process, Findings& findings) {
  for (const FileDifference& difference : compare_files(process.mappings())) {
    refuse(findings, difference.id, difference.path,
           fmt::format("{} on the destination", difference.problem),
           "install the same version of the package that it belongs to on both hosts");
  }
  for (const proto::OpenFile& file : process.fd_table().files()) {
    if (!file.has_regular_file()) continue;
    const proto::RegularFile& regular = file.regular_file();
    struct stat here {};
    if (::stat(regular.path().c_str(), &here) != 0) {
      refuse(findings, "file-missing", fmt::format("fd {}, {}", file.id(), regular.path()),
             fmt::format("cannot be opened on the destination: {}", errno_text(errno)),
             "put the file on storage that both hosts share, or copy it");
    } else if ((here.st_mode & S_IFMT) != (regular.mode() & S_IFMT)) {
      refuse(findings, "file-different", fmt::format("fd {}, {}", file.id(), regular.path()),
             "is another kind of file on the destination", "put the same file there");
    } else if (S_ISREG(here.st_mode) && (file.status_flags() & O_ACCMODE) == O_RDONLY &&
               static_cast<std::uint64_t>(here.st_size) != regular.bytes() &&
               modified_ns(here) <= regular.modified_ns()) {
      refuse(findings, "file-different", fmt::format("fd {}, {}", file.id(), regular.path()),
             fmt::format("has {} bytes on the destination and {} on the source", here.st_size,
                         regular.bytes()),
             "put the same file there");
    }
  }
}

std::uint64_t available_bytes() {
  std::istringstream text(read_file("/proc/meminfo"));
  std::string key;
  std::uint64_t kib = 0;
  std::string rest;
  while (text >> key >> kib && std::getline(text, rest)) {
    if (key == "MemAvailable:") return kib * 1024;
  }
  return 0;
}

void check_memory(std::uint64_t resident_bytes, Findings& findings) {
  // A little more than the process holds: page tables, sockets, this agent.
  const std::uint64_t needed = resident_bytes + resident_bytes / 32 + (16 << 20);
  const std::uint64_t available = available_bytes();
  if (needed <= available) return;
  refuse(findings, "memory-short", fmt::format("{} MiB resident", resident_bytes >> 20),
         fmt::format("the destination has {} MiB available", available >> 20),
         "free memory there or choose another host");
}

// The request was underway for a moment.
void check_clock(const proto::PreflightRequest& request, Findings& findings) {
  constexpr std::int64_t kToldNs = 2'000'000'000;
  if (request.realtime_ns() == 0) return;
  const std::int64_t ahead_ns = clock_ns(CLOCK_REALTIME) - request.realtime_ns();
  if (std::llabs(ahead_ns) <= kToldNs) return;
  warn(findings, "clock-differs", "CLOCK_REALTIME",
       fmt::format("is {} {} on the destination", duration_text(std::llabs(ahead_ns)),
                   ahead_ns > 0 ? "ahead" : "behind"),
       "synchronize both clocks: expiry and absolute timers come early or late by as much");
}

void check_host(Findings& findings) {
  try {
    find_cgroup_mount();
  } catch (const Error& error) {
    refuse(findings, "no-cgroup2", "cgroup2", error.what(), error.hint());
  }
}

}  // namespace

std::string preflight_destination(const proto::PreflightRequest& request, const proto::Hello& hello,
                                  Findings& findings) {
  check_host(findings);
  check_clock(request, findings);
  check_memory(request.resident_bytes(), findings);
  const std::vector<std::uint32_t> processors = online_processors();
  std::string pids = hello.pids() == "auto" ? "same" : hello.pids();
  for (const proto::Process& process : request.snapshot().processes()) {
    probe_kernel(process, hello.migration_id(), hello.addresses() != "alone", findings);
    const std::string chosen = choose_pids(process, hello.pids(), findings);
    if (chosen == "namespace") pids = chosen;
    check_files(process, findings);
    // The source leaves out what can't be moved anyway, when it asks for a whole verdict.
    if (process.has_filesystem_context()) {
      check_filesystem_context(process.filesystem_context(), findings);
    }
    for (const proto::Thread& thread : process.threads()) {
      check_thread(thread, processors, findings);
    }
    check_credentials(capabilities_here(), process.credentials(), findings);
    check_rlimits(rlimits_here(), process.rlimits(), may_raise_hard_limits(), findings);
  }
  return pids;
}

}  // namespace godwit
