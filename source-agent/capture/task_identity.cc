#include "source-agent/capture/task_identity.h"

#include <elf.h>

#include <array>

#include "common/base/unique_fd.h"
#include "common/kernel/proc_stat.h"
#include "common/kernel/proc_status.h"

namespace godwit {
namespace {

// The class that a program of this build has.
constexpr unsigned char kElfClass = sizeof(void*) == 8 ? ELFCLASS64 : ELFCLASS32;

pid_t innermost(const std::vector<pid_t>& ids, pid_t otherwise) {
  return ids.empty() ? otherwise : ids.back();
}

void check_state(pid_t pid, const ProcStatus& status, Findings& findings) {
  const std::string object = fmt::format("pid {}", pid);
  if (status.tracer != 0) {
    refuse(findings, "already-traced", object,
           fmt::format("process {} traces it (a debugger or strace)", status.tracer),
           "end the tracer; a process can have one only");
  }
  if (status.state == 'T') {
    refuse(findings, "pid-is-stopped", object, "it is stopped by a job control signal",
           fmt::format("let it go on first: kill -CONT {}", pid));
  }
}

// A program of another word size has other registers and another system call table.
void check_architecture(pid_t pid, Findings& findings) {
  const std::string path = fmt::format("/proc/{}/exe", pid);
  const UniqueFd image = try_open_file(path, O_RDONLY);
  if (!image.valid()) return;  // the mappings' preflight names what is wrong with the file
  std::array<unsigned char, EI_NIDENT> head{};
  if (::pread(image.get(), head.data(), head.size(), 0) != EI_NIDENT) return;
  if (head[EI_CLASS] == kElfClass) return;
  refuse(findings, "foreign-architecture", read_link(path),
         "it is a program of another word size than this host's own",
         "run the 64-bit build of the program");
}

}  // namespace

proto::TaskIdentity describe_task_identity(pid_t host_pid) {
  const ProcStatus status = read_proc_status(host_pid);
  const ProcStat stat = read_proc_stat(host_pid);
  proto::TaskIdentity identity;
  identity.set_pid(status.inner_pid());
  identity.set_host_pid(host_pid);
  identity.set_session(innermost(status.namespace_sessions, stat.session));
  identity.set_group(innermost(status.namespace_groups, stat.group));
  identity.set_start_time_ticks(stat.start_time_ticks);
  identity.set_executable(read_link(fmt::format("/proc/{}/exe", host_pid)));
  identity.set_comm(stat.comm);
  return identity;
}

proto::TaskIdentity capture_task_identity(CaptureContext& context) {
  return describe_task_identity(context.host_pid);
}

bool refuse_kernel_thread(pid_t host_pid, const ProcStat& stat, Findings& findings) {
  if (!stat.kernel_thread()) return false;
  refuse(findings, "pid-is-kernel-thread", fmt::format("pid {}", host_pid),
         "it is a thread of the kernel", "only ordinary processes can move");
  return true;
}

void preflight_task_identity(pid_t host_pid, Findings& findings) {
  const std::string object = fmt::format("pid {}", host_pid);
  const auto status = try_read_proc_status(fmt::format("/proc/{}", host_pid));
  if (!status) {
    refuse(findings, "no-such-pid", object, "there is no such process", "look the id up again");
    return;
  }
  if (status->tgid != host_pid) {
    refuse(findings, "not-a-process", object,
           fmt::format("it is a thread of process {}", status->tgid),
           fmt::format("name the process: --pid {}", status->tgid));
    return;
  }
  if (host_pid == 1) {
    refuse(findings, "pid-is-init", object, "it is the init process of this host",
           "move the service itself, not the init that watches it");
    return;
  }
  if (refuse_kernel_thread(host_pid, read_proc_stat(host_pid), findings)) return;
  if (status->state == 'Z' || status->state == 'X') {
    const bool threads_live = list_threads(host_pid).size() > 1;
    if (threads_live) {
      refuse(findings, "leader-exited", object, "its first thread has exited while others go on",
             "restart the program");
    } else {
      refuse(findings, "pid-is-zombie", object, "it has exited and waits for its parent",
             "there is nothing left to move");
    }
    return;
  }
  check_state(host_pid, *status, findings);
  check_architecture(host_pid, findings);
}

}  // namespace godwit
