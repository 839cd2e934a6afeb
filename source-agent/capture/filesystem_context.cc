#include "source-agent/capture/filesystem_context.h"

#include <linux/kcmp.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "common/base/unique_fd.h"
#include "common/kernel/proc_stat.h"
#include "common/kernel/proc_status.h"

namespace godwit {
namespace {

constexpr const char* kDeletedWayOut = "let the process change to a directory that exists";

// A removed directory has no links; its path ends in " (deleted)", which may also be a real name.
bool is_deleted(const std::string& link) {
  struct stat status {};
  return ::stat(link.c_str(), &status) == 0 && status.st_nlink == 0;
}

}  // namespace

proto::FilesystemContext describe_filesystem_context(pid_t host_pid) {
  const std::string process = fmt::format("/proc/{}", host_pid);
  proto::FilesystemContext context;
  context.set_working_directory(read_link(process + "/cwd"));
  context.set_root(read_link(process + "/root"));
  context.set_umask(read_proc_status(host_pid).umask);
  if (is_deleted(process + "/cwd")) {
    throw Refused("directory-deleted",
                  fmt::format("the working directory of process {}, {}, has been removed", host_pid,
                              context.working_directory()),
                  kDeletedWayOut);
  }
  return context;
}

proto::FilesystemContext capture_filesystem_context(CaptureContext& context) {
  return describe_filesystem_context(context.host_pid);
}

void preflight_filesystem_context(pid_t host_pid, Findings& findings) {
  const std::string process = fmt::format("/proc/{}", host_pid);
  for (const char* link : {"/cwd", "/root"}) {
    if (!is_deleted(process + link)) continue;
    refuse(findings, "directory-deleted", read_link(process + link),
           "the directory that the process works in has been removed", kDeletedWayOut);
  }
  for (const pid_t tid : list_threads(host_pid)) {
    if (::syscall(SYS_kcmp, host_pid, tid, KCMP_FS, 0, 0) <= 0) continue;  // same, or just gone
    if (is_ending(tid)) continue;
    refuse(findings, "filesystem-context-unshared", fmt::format("thread {}", tid),
           "it has a working directory of its own (unshare(CLONE_FS))",
           "let the threads share their working directory");
  }
}

}  // namespace godwit
