#include "source-agent/capture/fd_holders.h"

#include <dirent.h>
#include <linux/kcmp.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cstdlib>

#include "common/kernel/kcmp.h"
#include "common/kernel/proc_stat.h"
#include "common/kernel/proc_status.h"

namespace godwit {
namespace {

// The link names the object itself: one inode for each.
bool link_is_identity(const std::string& link) {
  return link.starts_with("pipe:[") || link.starts_with("socket:[");
}

std::vector<pid_t> all_processes() {
  std::vector<pid_t> out;
  DIR* directory = opendir("/proc");
  if (directory == nullptr) throw_system("list /proc");
  while (const dirent* entry = readdir(directory)) {
    if (entry->d_name[0] >= '1' && entry->d_name[0] <= '9') out.push_back(std::atoi(entry->d_name));
  }
  closedir(directory);
  return out;
}

}  // namespace

std::string FdHolder::describe() const {
  const auto status = try_read_proc_status(fmt::format("/proc/{}", pid));
  return fmt::format("process {} ({}), fd {}", pid, status ? status->name : "gone", fd);
}

void FdHolders::look_for(const std::vector<FdFacts*>& facts, Sockets sockets) {
  Wanted wanted;
  bool news = false;
  for (const FdFacts* each : facts) {
    const FdFacts& entry = *each;
    // Devices without a state are everybody's; nothing is lost by opening them again.
    if (S_ISCHR(entry.stamp.mode)) continue;
    wanted[entry.link].fds.push_back(entry.fd);
    if (sockets == Sockets::kKnown && entry.link.starts_with("socket:[")) continue;
    news = looked_for_.insert(entry.link).second || news;
  }
  if (!news) return;
  by_link_.clear();
  by_fd_.clear();
  for (const pid_t pid : all_processes()) {
    if (pid != host_pid_ && pid != getpid()) scan_process(pid, wanted);
  }
}

// Thousands of descriptors may share one link, so they are searched, not compared one by one.
void FdHolders::compare_with(Candidates& candidates, pid_t pid, int fd) {
  auto& fds = candidates.fds;
  if (!candidates.sorted) {
    std::stable_sort(fds.begin(), fds.end(), [&](int a, int b) {
      return try_compare_open_files(host_pid_, a, host_pid_, b) == -1;
    });
    candidates.sorted = true;
  }
  const auto found = std::lower_bound(fds.begin(), fds.end(), fd, [&](int own, int foreign) {
    return try_compare_open_files(host_pid_, own, pid, foreign) == -1;
  });
  if (found != fds.end() && try_compare_open_files(host_pid_, *found, pid, fd) == 0) {
    by_fd_[*found] = {pid, fd};
  }
}

void FdHolders::scan_process(pid_t pid, Wanted& wanted) {
  try {
    const ProcFdDirectory directory(pid);
    for (const int fd : directory.list()) {
      const auto link = directory.link(fd);
      if (!link) continue;
      const auto found = wanted.find(*link);
      if (found == wanted.end()) continue;
      if (link_is_identity(*link)) {
        by_link_.emplace(*link, FdHolder{pid, fd});
        continue;
      }
      compare_with(found->second, pid, fd);
    }
  } catch (const Error& error) {
    // Processes come and go, and a zombie has no descriptors.
    if (error.code() != ENOENT && error.code() != ESRCH && error.code() != EACCES) throw;
  }
}

std::optional<FdHolder> FdHolders::outside(const FdFacts& facts) const {
  if (const auto found = by_link_.find(facts.link); found != by_link_.end()) return found->second;
  if (const auto found = by_fd_.find(facts.fd); found != by_fd_.end()) return found->second;
  return std::nullopt;
}

std::vector<pid_t> threads_with_own_table(pid_t host_pid) {
  std::vector<pid_t> out;
  for (const pid_t tid : list_threads(host_pid)) {
    if (tid == host_pid || syscall(SYS_kcmp, host_pid, tid, KCMP_FILES, 0, 0) <= 0) continue;
    if (!is_ending(tid)) out.push_back(tid);
  }
  return out;
}

}  // namespace godwit
