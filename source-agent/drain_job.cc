#include "source-agent/drain_job.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "common/base/error.h"

namespace godwit {
namespace {

struct Pipe {
  UniqueFd read;
  UniqueFd write;
};

Pipe make_pipe() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) throw_system("pipe");
  Pipe made{UniqueFd(ends[0]), UniqueFd(ends[1])};
  if (::fcntl(ends[0], F_SETFL, O_NONBLOCK) != 0) throw_system("pipe without waiting");
  return made;
}

// In the child: system calls only.
[[noreturn]] void become_migrate(const char* program, char* const* arguments, int out, int err,
                                 pid_t parent) {
  ::setpgid(0, 0);
  ::prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (::getppid() != parent) ::_exit(126);
  for (const int number : {SIGINT, SIGTERM, SIGHUP, SIGPIPE}) {
    struct sigaction action {};
    ::sigaction(number, nullptr, &action);
    if (number == SIGHUP && action.sa_handler == SIG_IGN) continue;
    ::signal(number, SIG_DFL);
  }
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  const int null = ::open("/dev/null", O_RDONLY);
  if (null < 0 || ::dup2(null, 0) < 0 || ::dup2(out, 1) < 0 || ::dup2(err, 2) < 0) ::_exit(126);
  ::execv(program, arguments);
  ::_exit(127);
}

// False at its end.
bool take_text(UniqueFd& from, std::string& text) {
  char chunk[4096];
  while (from.valid()) {
    const ssize_t got = ::read(from.get(), chunk, sizeof(chunk));
    if (got > 0) {
      text.append(chunk, static_cast<std::size_t>(got));
    } else if (got < 0 && errno == EINTR) {
      continue;
    } else if (got < 0 && errno == EAGAIN) {
      return true;
    } else {
      from.reset();
    }
  }
  return false;
}

}  // namespace

DrainJob::DrainJob(const std::vector<std::string>& words) {
  const std::string program = read_link("/proc/self/exe");
  std::vector<std::string> texts{"migrate"};
  texts.insert(texts.end(), words.begin(), words.end());
  std::vector<char*> arguments;
  for (std::string& text : texts) arguments.push_back(text.data());
  arguments.push_back(nullptr);
  Pipe out = make_pipe();
  Pipe err = make_pipe();
  const pid_t parent = ::getpid();
  pid_ = ::fork();
  if (pid_ < 0) throw_system("fork for {}", program);
  if (pid_ == 0) {
    become_migrate(program.c_str(), arguments.data(), out.write.get(), err.write.get(), parent);
  }
  out_ = std::move(out.read);
  err_ = std::move(err.read);
}

DrainJob::~DrainJob() {
  if (pid_ < 0) return;
  ::kill(pid_, SIGTERM);
  out_.reset();
  err_.reset();
  while (::waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
  }
}

bool DrainJob::take() {
  if (pid_ < 0) return true;
  const bool more = take_text(out_, out_text_) | take_text(err_, err_text_);
  if (more) return false;
  int status = 0;
  while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
  }
  pid_ = -1;
  exit_code_ = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  return true;
}

std::string DrainJob::take_lines() {
  const std::size_t end = pid_ < 0 ? err_text_.size() : err_text_.rfind('\n') + 1;
  std::string lines = err_text_.substr(0, end);
  err_text_.erase(0, end);
  return lines;
}

void DrainJob::ask_to_stop() const {
  if (pid_ > 0) ::kill(pid_, SIGINT);
}

}  // namespace godwit
