#include "dest-agent/nursery.h"

#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <utility>

#include "common/base/error.h"
#include "common/base/log.h"

namespace godwit {
namespace {

// Where the child tells what failed; closed by a successful exec.
int report_fd(const NurseryOptions& options) { return options.agent_pidfd + 1; }

// In the child, between clone and exec. Returns what failed.
const char* become_nursery(const NurseryOptions& options, int own_pidfd) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  ::setsid();
  if (options.own_pid_namespace) {
    // Slave: what the host mounts later still appears inside.
    if (::mount("none", "/", nullptr, MS_REC | MS_SLAVE, nullptr) != 0) return "mount slave /";
    if (::mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr) != 0) {
      return "mount /proc";
    }
  }
  const int null = ::open("/dev/null", O_RDWR);
  if (null < 0) return "open /dev/null";
  for (int fd = 0; fd <= 2; ++fd) ::dup2(null, fd);
  if (::dup2(own_pidfd, options.agent_pidfd) < 0) return "place the agent's pidfd";
  ::close_range(3, static_cast<unsigned>(options.agent_pidfd) - 1, 0);
  ::close_range(static_cast<unsigned>(report_fd(options)) + 1, ~0U, 0);
  if (::chdir("/") != 0) return "chdir /";
  ::umask(022);
  for (int signal = 1; signal < NSIG; ++signal) ::signal(signal, SIG_DFL);
  char name[] = "godwit-init";
  char* arguments[] = {name, nullptr};
  char* environment[] = {nullptr};
  ::execve(options.program.c_str(), arguments, environment);
  return "run godwit-init";
}

pid_t clone_child(bool own_pid_namespace) {
  clone_args arguments{};
  arguments.flags = own_pid_namespace ? CLONE_NEWPID | CLONE_NEWNS : 0;
  arguments.exit_signal = SIGCHLD;
  return static_cast<pid_t>(::syscall(SYS_clone3, &arguments, sizeof(arguments)));
}

}  // namespace

Nursery::Nursery(const NurseryOptions& options) : options_(options) {
  enter_time_namespace_for_children(options.time_offsets);
  const UniqueFd own_pidfd(static_cast<int>(::syscall(SYS_pidfd_open, ::getpid(), 0)));
  if (!own_pidfd.valid()) throw_system("pidfd_open of the agent itself");
  UniqueFd story_read;
  UniqueFd story_write;
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) throw_system("pipe");
  story_read.reset(ends[0]);
  story_write.reset(ends[1]);
  host_pid_ = clone_child(options.own_pid_namespace);
  if (host_pid_ < 0) throw_system("clone of godwit-init");
  if (host_pid_ == 0) {
    ::dup3(story_write.get(), report_fd(options), O_CLOEXEC);
    const char* failed = become_nursery(options, own_pidfd.get());
    const std::string story = fmt::format("{}: {}", failed, errno_text(errno));
    if (::write(report_fd(options), story.data(), story.size()) < 0) ::_exit(126);
    ::_exit(127);
  }
  leave_time_namespace_for_children();
  story_write.reset();
  const std::string story = read_all(story_read.get(), "godwit-init");
  if (!story.empty()) {
    end();
    throw Error(fmt::format("starting {}: {}", options.program, story))
        .with_hint("godwit-init must stand beside dest-agent");
  }
}

Nursery::~Nursery() {
  end();
  // The init of a namespace whose last task was killed ends by itself.
  constexpr int kTurns = 200;
  for (int turn = 0; ending_pid_ > 0 && turn < kTurns; ++turn) {
    if (::waitpid(ending_pid_, nullptr, WNOHANG) != 0) return;
    ::usleep(1000);
  }
}

void Nursery::outlive() { ending_pid_ = -1; }

void Nursery::end() {
  task_.reset();
  if (host_pid_ <= 0) return;
  // Killed first: a stopped tracee dies in its stop.
  ::kill(host_pid_, SIGKILL);
  ::waitpid(host_pid_, nullptr, 0);
  host_pid_ = -1;
}

// In the nursery, whose descriptors its children inherit.
int Nursery::open_group() {
  SyscallBatch batch;
  const DataAt path = batch.put_string(options_.group);
  const RowResult row =
      batch.add(SYS_openat, {AT_FDCWD, path, O_PATH | O_DIRECTORY | O_CLOEXEC, 0}, "control group");
  return static_cast<int>(task_->run(batch)[row]);
}

RemoteTask Nursery::clone_skeleton(pid_t pid) {
  return in_context(
      [&] {
        if (!task_) task_.emplace(RemoteTask::adopt_skeleton(host_pid_));
        const int group = options_.group.empty() ? -1 : open_group();
        RemoteTask skeleton = RemoteTask::adopt_skeleton(task_->clone_process(pid, group));
        if (group < 0) return skeleton;
        for (RemoteTask* task : {&*task_, &skeleton}) {
          SyscallBatch batch;
          batch.add(SYS_close, {group}, "control group");
          task->run(batch);
        }
        return skeleton;
      },
      "making a task with id {}", pid);
}

void Nursery::let_live() {
  if (!options_.own_pid_namespace) {
    end();
    return;
  }
  if (!task_) task_.emplace(RemoteTask::adopt_skeleton(host_pid_));
  SyscallBatch batch;
  batch.add(SYS_prctl, {PR_SET_PDEATHSIG, 0, 0, 0, 0}, "godwit-init");
  batch.add(SYS_close, {options_.agent_pidfd}, "the agent's pidfd");
  task_->run(batch);
  task_->let_live();
  task_->detach();
  task_.reset();
  ending_pid_ = std::exchange(host_pid_, -1);
}

}  // namespace godwit
