#include "common/wire/page_server_process.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "common/base/clock.h"
#include "common/base/log.h"

namespace godwit {
namespace {

constexpr int kLinkFd = 3;

// Between fork and exec: async-signal-safe calls only. Does not return.
[[noreturn]] void become_page_server(const char* program, char* const* arguments, int link,
                                     pid_t parent) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(126);  // it died before the line above
  setsid();
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  const int null = open("/dev/null", O_RDWR);
  if (null < 0) _exit(126);
  // The link may sit at 0..2 and must not be overwritten on the way.
  const int safe = fcntl(link, F_DUPFD, kLinkFd + 1);
  if (safe < 0 || dup2(null, 0) < 0 || dup2(null, 1) < 0 || dup2(safe, kLinkFd) < 0) _exit(126);
  close_range(kLinkFd + 1, ~0U, 0);
  char* const environment[] = {nullptr};
  execve(program, arguments, environment);
  _exit(127);
}

std::string default_program() {
  const std::string self = read_link("/proc/self/exe");
  return self.substr(0, self.rfind('/') + 1) + "page-server";
}

}  // namespace

PageServerProcess PageServerProcess::spawn(std::string_view role, const std::string& program) {
  const std::string path = program.empty() ? default_program() : program;
  if (access(path.c_str(), X_OK) != 0) {
    const int code = errno;
    throw Error(fmt::format("page server {}: {}", path, errno_text(code)), code,
                "install page-server beside the agents");
  }
  std::string role_text(role);
  std::string link_text = std::to_string(kLinkFd);
  std::string name = "page-server";
  std::string role_option = "--role";
  std::string link_option = "--link-fd";
  const std::array<char*, 6> arguments{name.data(),        role_option.data(), role_text.data(),
                                       link_option.data(), link_text.data(),   nullptr};
  auto [ours, theirs] = PageServiceLink::make_sockets();
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid < 0) throw_system("fork for {}", path);
  if (pid == 0) become_page_server(path.c_str(), arguments.data(), theirs.get(), parent);
  return {pid, std::move(ours)};
}

PageServerProcess::PageServerProcess(pid_t pid, UniqueFd link)
    : pid_(pid), link_(std::make_unique<PageServiceLink>(std::move(link))) {
  link_->lend_precedence_to(pid_);
}

PageServerProcess::PageServerProcess(PageServerProcess&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)), link_(std::move(other.link_)) {}

PageServerProcess::~PageServerProcess() {
  if (pid_ < 0) return;
  kill(pid_, SIGKILL);
  while (waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
  }
}

int PageServerProcess::quit(std::int64_t deadline_ns) {
  if (pid_ < 0) return -1;
  try {
    proto::PageOrder order;
    order.mutable_quit();
    link_->send(order, {}, deadline_ns);
  } catch (const Error& error) {
    log_debug("page server pid={} quit: {}", pid_, error.what());
  }
  int status = 0;
  while (true) {
    const pid_t ended = waitpid(pid_, &status, WNOHANG);
    if (ended == pid_ || (ended < 0 && errno != EINTR)) break;
    if (monotonic_ns() >= deadline_ns) kill(pid_, SIGKILL);
    usleep(500);
  }
  pid_ = -1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

}  // namespace godwit
