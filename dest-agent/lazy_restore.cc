#include "dest-agent/lazy_restore.h"

#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <iostream>

#include "common/base/error.h"
#include "common/base/human_text.h"
#include "common/base/log.h"
#include "common/wire/page_server_process.h"

namespace godwit {
namespace {

constexpr useconds_t kPauseUs = 100'000;

// One page server, until it has everything. Throws Error when it is lost.
void fill_in_once(const std::vector<ImageLevel>& levels, const DestOptions& options,
                  PostCopy& post_copy, pid_t host_pid, LostImagePages& lost) {
  PageServerProcess pages = PageServerProcess::spawn("player");
  proto::PlayImage order;
  order.set_lazy(true);
  order.set_resumed(true);
  order.set_bandwidth_bytes_per_s_max(options.bandwidth_bytes_per_s_max);
  send_image(pages.link(), levels, order);
  post_copy.resume(pages.link());
  while (post_copy.incomplete()) {
    std::vector<UniqueFd> fds;
    const proto::PageReport report = pages.link().receive(kNoDeadline, &fds);
    if (report.has_forked_space() && !fds.empty()) {
      post_copy.hold_child(report.forked_space().parent(), std::move(fds.front()));
    } else if (report.has_lost_pages()) {
      lost.take(report.lost_pages(), host_pid);
    } else if (report.has_missing_pages() && report.missing_pages().missing_pages() == 0) {
      post_copy.end();
    }
  }
}

// What the keeper holds for its session.
class Keeper {
 public:
  // Of a session that was just forked; where it stands the return value is its end of the link.
  UniqueFd fork_session();
  bool in_session() const { return pid_ == 0; }
  // Until it has ended; its exit code, or -1 when it was killed.
  int wait();
  std::vector<Passed> take_held() { return std::move(held_); }

 private:
  void hear();

  pid_t pid_ = -1;
  UniqueFd link_;
  std::vector<Passed> held_;
};

UniqueFd Keeper::fork_session() {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) throw_system("socketpair");
  link_.reset(ends[0]);
  UniqueFd there(ends[1]);
  std::cout.flush();
  pid_ = ::fork();
  if (pid_ < 0) throw_system("fork");
  if (pid_ == 0) link_.reset();
  return there;
}

void Keeper::hear() try {
  while (link_.valid()) {
    std::optional<Passed> passed = try_receive_passed(link_.get());
    if (!passed) return;
    if (passed->kind == PostCopy::kComplete) held_.clear();
    if (passed->fd.valid()) held_.push_back(std::move(*passed));
  }
} catch (const Error&) {
  link_.reset();  // it has ended, or is about to
}

int Keeper::wait() {
  while (link_.valid()) {
    pollfd heard{link_.get(), POLLIN, 0};
    if (::poll(&heard, 1, -1) < 0 && errno != EINTR) throw_system("poll");
    hear();
  }
  int status = 0;
  while (::waitpid(pid_, &status, 0) < 0) {
    if (errno != EINTR) throw_system("waitpid");
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

}  // namespace

void LostImagePages::take(const proto::LostPages& lost, pid_t host_pid) {
  const std::uint64_t pages = (lost.end() - lost.start()) / kPageSize;
  log_error("lost pages={} at={:x}: {}", pages, lost.start(), lost.story());
  if (pages_ == 0) first_ = lost.story();
  pages_ += pages;
  if (lost.poisoned() || ended_) return;
  ended_ = true;
  ::kill(host_pid, SIGKILL);
}

std::optional<ErrorReport> LostImagePages::story() const {
  if (pages_ == 0) return std::nullopt;
  ErrorReport report;
  report.story = fmt::format("{} lost: {}", count_text(pages_, "page"), first_);
  report.hint = ended_ ? "the process was ended, since this kernel can't keep it from these pages"
                       : "whoever touches them gets SIGBUS; restore another image";
  return report;
}

void send_image(PageServiceLink& link, const std::vector<ImageLevel>& levels,
                const proto::PlayImage& order) {
  for (const ImageLevel& level : levels) {
    proto::PageOrder add;
    add.mutable_add_image_level()->set_name(level.name);
    const int descriptors[] = {level.index.get(), level.pages.get()};
    link.send(add, descriptors);
  }
  proto::PageOrder play;
  *play.mutable_play_image() = order;
  link.send(play);
}

void fill_in_pages(const std::vector<ImageLevel>& levels, const DestOptions& options,
                   PostCopy& post_copy, pid_t host_pid, LostImagePages& lost) {
  while (post_copy.incomplete()) {
    try {
      fill_in_once(levels, options, post_copy, host_pid, lost);
    } catch (const Error& error) {
      log_warning("filling in pages: {}", error.what());
      ::usleep(kPauseUs);
    }
  }
}

int keep_restore(const RestoreSessions& sessions) {
  Keeper keeper;
  {
    const UniqueFd link = keeper.fork_session();
    if (keeper.in_session()) ::_exit(sessions.restore(link.get()));
  }
  outlive_signals();
  for (;;) {
    const int code = keeper.wait();
    std::vector<Passed> held = keeper.take_held();
    if (code >= 0 || held.empty() || !sessions.is_running()) return code < 0 ? 1 : code;
    log_warning("another session takes over: pages are missing");
    const UniqueFd link = keeper.fork_session();
    if (keeper.in_session()) ::_exit(sessions.resume(link.get(), std::move(held)));
  }
}

void outlive_signals() {
  for (const int number : {SIGINT, SIGTERM, SIGHUP}) ::signal(number, SIG_IGN);
}

}  // namespace godwit
