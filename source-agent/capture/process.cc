#include "source-agent/capture/process.h"

#include "common/base/error.h"
#include "common/kernel/proc_status.h"
#include "source-agent/capture/credentials.h"
#include "source-agent/capture/filesystem_context.h"
#include "source-agent/capture/process_attributes.h"
#include "source-agent/capture/rlimits.h"
#include "source-agent/capture/signals.h"
#include "source-agent/capture/task_identity.h"
#include "source-agent/capture/threads.h"
#include "source-agent/capture/timers.h"

namespace godwit {

ProcessCapture::ProcessCapture(pid_t host_pid)
    : host_pid_(host_pid), mappings_(host_pid), fd_table_(host_pid) {}

proto::Process ProcessCapture::describe_outside() {
  proto::Process process;
  *process.mutable_identity() = describe_task_identity(host_pid_);
  *process.mutable_mappings() = mappings_.describe(nullptr);
  *process.mutable_fd_table() = fd_table_.describe();
  *process.mutable_credentials() = describe_credentials(fmt::format("/proc/{}", host_pid_));
  *process.mutable_rlimits() = describe_rlimits(host_pid_);
  *process.mutable_filesystem_context() = describe_filesystem_context(host_pid_);
  // Of the threads only the ids, which must be free at the destination.
  for (const pid_t tid : list_threads(host_pid_)) {
    const auto status = try_read_proc_status(fmt::format("/proc/{}/task/{}", host_pid_, tid));
    if (status) process.add_threads()->set_tid(status->inner_pid());
  }
  return process;
}

// What is not memory and not descriptors. The process-wide questions go in one batch.
void ProcessCapture::describe_state(RemoteTask& task, proto::Process& process) {
  CaptureContext context{task, host_pid_};
  *process.mutable_identity() = describe_task_identity(host_pid_);
  SyscallBatch batch;
  const SignalsQuery signals(batch);
  const TimersQuery timers(batch, host_pid_);
  const CredentialsQuery credentials(batch);
  const ProcessAttributesQuery attributes(batch);
  const BatchOutcome outcome = task.run(batch);
  signals.read(outcome, *process.mutable_signals());
  capture_shared_pending(context, *process.mutable_signals());
  timers.read(outcome, *process.mutable_timers());
  credentials.read(outcome, host_pid_, *process.mutable_credentials());
  attributes.read(outcome, host_pid_, *process.mutable_attributes());
  *process.mutable_rlimits() = describe_rlimits(host_pid_);
  *process.mutable_filesystem_context() = describe_filesystem_context(host_pid_);
  for (proto::Thread& thread : capture_threads(context, blocked_calls_)) {
    *process.add_threads() = std::move(thread);
  }
}

proto::Process ProcessCapture::describe(RemoteTask& task) {
  proto::Process process;
  describe_state(task, process);
  *process.mutable_mappings() = mappings_.describe(&task);
  *process.mutable_fd_table() = fd_table_.describe();
  last_ = process;
  return process;
}

proto::Process ProcessCapture::describe_running(RemoteTask& task) {
  *last_.mutable_mappings() = mappings_.describe(&task);
  *last_.mutable_fd_table() = fd_table_.describe();
  return last_;
}

void ProcessCapture::refresh() {
  mappings_.refresh_flags();
  fd_table_.refresh();
  blocked_calls_.observe(host_pid_);
}

void ProcessCapture::note_stopped() { blocked_calls_.confirm(host_pid_); }

proto::Process ProcessCapture::describe_final(RemoteTask& task, proto::Mappings mappings) {
  proto::Process process;
  describe_state(task, process);
  process.mutable_mappings()->Swap(&mappings);
  *process.mutable_fd_table() = fd_table_.describe_final(&task);
  return process;
}

proto::Process describe_process(CaptureContext& context) {
  ProcessCapture capture(context.host_pid);
  proto::Process process = capture.describe(context.task);
  *process.mutable_fd_table() = capture.fd_table().describe_stopped(&context.task);
  return process;
}

void preflight_process_kinds(pid_t host_pid, Findings& findings) {
  preflight_threads(host_pid, findings);
  preflight_mappings(host_pid, findings);
  preflight_fd_table(host_pid, findings);
  preflight_timers(host_pid, findings);
  preflight_credentials(host_pid, findings);
  preflight_filesystem_context(host_pid, findings);
  preflight_process_attributes(host_pid, findings);
}

}  // namespace godwit
