#include "dest-agent/listener.h"

#include <netdb.h>
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <memory>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/kernel/fd_passing.h"
#include "common/wire/prompt_messages.h"
#include "dest-agent/post_copy.h"
#include "dest-agent/recovery.h"
#include "dest-agent/session.h"

namespace godwit {
namespace {

// What strangers may hold: so many connections, so long without a preface; so many sessions, whose
// handshake has a deadline of its own.
constexpr std::size_t kPendingMax = 128;
constexpr std::int64_t kPrefaceTimeoutNs = 5'000'000'000;
constexpr std::size_t kStrangersMax = 32;
// Migrations at the same time.
constexpr std::size_t kSessionsMax = 32;

UniqueFd listen_on(const HostPort& endpoint) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  addrinfo* found = nullptr;
  const int failed =
      ::getaddrinfo(endpoint.host.c_str(), std::to_string(endpoint.port).c_str(), &hints, &found);
  if (failed != 0) fail("listen on {}: {}", endpoint.text(), ::gai_strerror(failed));
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> owner(found, &::freeaddrinfo);
  UniqueFd socket(::socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket.valid()) throw_system("listen on {}", endpoint.text());
  const int on = 1;
  ::setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  do_not_pace(socket.get());
  if (::bind(socket.get(), found->ai_addr, found->ai_addrlen) != 0 ||
      ::listen(socket.get(), SOMAXCONN) != 0) {
    throw_system("listen on {}", endpoint.text());
  }
  return socket;
}

UniqueFd open_signals() {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : {SIGTERM, SIGINT, SIGCHLD}) sigaddset(&set, signal);
  ::sigprocmask(SIG_BLOCK, &set, nullptr);
  UniqueFd fd(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!fd.valid()) throw_system("signalfd");
  return fd;
}

void unblock_signals() {
  sigset_t none;
  sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
}

}  // namespace

Listener::Listener(const DestOptions& options)
    : options_(options), listening_(listen_on(options.listen)), signals_(open_signals()) {
  ::signal(SIGPIPE, SIG_IGN);
}

void Listener::run() {
  log_info("listening address={}", options_.listen.text());
  for (;;) {
    std::vector<pollfd> waits{{signals_.get(), POLLIN, 0}, {listening_.get(), POLLIN, 0}};
    for (const Pending& pending : pending_) {
      waits.push_back({pending.socket.get(), POLLIN | POLLRDHUP, 0});
    }
    for (const auto& [pid, session] : sessions_) {
      waits.push_back({session.link.get(), POLLIN, 0});
    }
    if (::poll(waits.data(), waits.size(), poll_timeout_ms()) < 0 && errno != EINTR) {
      throw_system("poll");
    }
    signalfd_siginfo signal{};
    while (::read(signals_.get(), &signal, sizeof(signal)) == sizeof(signal)) {
      if (signal.ssi_signo == SIGCHLD) continue;
      log_info("stopping signal={} sessions={}", signal.ssi_signo, sessions_.size());
      return;
    }
    hear_sessions();
    reap_sessions();
    serve_pending(std::span(waits).subspan(2));
    if ((waits[1].revents & POLLIN) != 0) accept_connection();
  }
}

int Listener::poll_timeout_ms() const { return pending_.empty() ? -1 : 200; }

void Listener::complain(const std::string& what) {
  constexpr std::int64_t kPauseNs = 1'000'000'000;
  const std::int64_t now = monotonic_ns();
  if (now - complained_ns_ < kPauseNs) {
    ++untold_;
    return;
  }
  log_warning("{}{}", what, untold_ == 0 ? "" : fmt::format(" ({} others untold)", untold_));
  complained_ns_ = now;
  untold_ = 0;
}

void Listener::accept_connection() {
  UniqueFd socket(::accept4(listening_.get(), nullptr, nullptr, SOCK_CLOEXEC));
  if (!socket.valid()) {
    const int code = errno;
    if (code != EMFILE && code != ENFILE && code != ENOBUFS && code != ENOMEM) return;
    // It stays ready: without a rest this would turn round and round.
    constexpr int kRestMs = 50;
    complain(fmt::format("no connection can be taken: {}", errno_text(code)));
    ::poll(nullptr, 0, kRestMs);
    return;
  }
  if (pending_.size() >= kPendingMax) {
    complain(fmt::format("connection dropped: {} have not said what they are", pending_.size()));
    pending_.erase(pending_.begin());
  }
  // poll(2) then wakes for a whole preface only.
  const int preface_bytes = kPrefaceBytes;
  ::setsockopt(socket.get(), SOL_SOCKET, SO_RCVLOWAT, &preface_bytes, sizeof(preface_bytes));
  pending_.push_back({std::move(socket), monotonic_ns() + kPrefaceTimeoutNs});
}

void Listener::serve_pending(std::span<const pollfd> ready) {
  const std::int64_t now = monotonic_ns();
  std::size_t at = 0;
  std::erase_if(pending_, [&](Pending& pending) {
    const short events = ready[at++].revents;
    return (events != 0 && route(pending, events)) || now > pending.deadline_ns;
  });
}

bool Listener::route(Pending& pending, short events) {
  std::array<std::byte, kPrefaceBytes> bytes;
  const ssize_t got =
      ::recv(pending.socket.get(), bytes.data(), bytes.size(), MSG_PEEK | MSG_DONTWAIT);
  if (got == 0 || (got < 0 && errno != EAGAIN)) return true;
  // One that ends before its preface stays readable: waiting for more would turn round and round.
  if (got < static_cast<ssize_t>(kPrefaceBytes)) return (events & ~POLLIN) != 0;
  const auto preface = parse_preface(bytes);
  if (!preface) {
    complain("connection refused: it does not begin as one of ours");
    return true;
  }
  if (::recv(pending.socket.get(), bytes.data(), bytes.size(), 0) !=
      static_cast<ssize_t>(kPrefaceBytes)) {
    return true;
  }
  const int any = 1;
  ::setsockopt(pending.socket.get(), SOL_SOCKET, SO_RCVLOWAT, &any, sizeof(any));
  if (preface->kind == ConnectionKind::kControl) {
    start_session(*preface, std::move(pending.socket));
  } else {
    pass_pages(*preface, std::move(pending.socket));
  }
  return true;
}

// One that is still to be known takes none, nor does anyone a second: the link must not fill up.
void Listener::pass_pages(const Preface& preface, UniqueFd socket) {
  for (auto& [pid, session] : sessions_) {
    if (session.migration_id != preface.migration_id) continue;
    const char kind = static_cast<char>(preface.kind);
    if (preface.kind == ConnectionKind::kResume) session.passed.clear();
    if (session.passed.find(kind) != std::string::npos) continue;
    if (!session.peer_known || !session.link.valid()) continue;
    session.passed.push_back(kind);
    try {
      send_fd(session.link.get(), socket.get(), kind);
    } catch (const Error& error) {
      log_warning("migration={} page connection lost: {}", preface.migration_id, error.what());
    }
    return;
  }
  complain(
      fmt::format("page connection refused: no migration {} waits for one", preface.migration_id));
}

// Takes notice of what sessions have said meanwhile. A link that has ended is heard no longer.
void Listener::hear_sessions() {
  for (auto& [pid, session] : sessions_) {
    try {
      while (session.link.valid()) {
        std::optional<Passed> passed = try_receive_passed(session.link.get());
        if (!passed) break;
        if (passed->kind == kPeerKnown) session.peer_known = true;
        if (passed->kind == PostCopy::kComplete) session.held.clear();
        if (passed->fd.valid()) session.held.push_back(std::move(*passed));
      }
    } catch (const Error&) {
      session.link.reset();
    }
  }
}

bool Listener::make_room() {
  std::size_t known = 0;
  std::size_t strangers = 0;
  auto oldest = sessions_.end();
  for (auto at = sessions_.begin(); at != sessions_.end(); ++at) {
    Session& session = at->second;
    if (session.ending) continue;
    if (session.peer_known) {
      ++known;
      continue;
    }
    ++strangers;
    if (oldest == sessions_.end() || session.began_ns < oldest->second.began_ns) oldest = at;
  }
  if (known >= kSessionsMax) return false;
  if (strangers < kStrangersMax) return true;
  // It has shown no certificate, so there is nothing but its handshake.
  complain(fmt::format("session dropped: {} have not shown who they are", strangers));
  oldest->second.ending = true;
  ::kill(oldest->first, SIGKILL);
  return true;
}

void Listener::start_session(const Preface& preface, UniqueFd socket) {
  if (!make_room()) {
    complain(fmt::format("migration={} refused: {} are in course", preface.migration_id,
                         sessions_.size()));
    return;
  }
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
    log_error("migration={} socketpair: {}", preface.migration_id, errno_text(errno));
    return;
  }
  UniqueFd here(ends[0]);
  UniqueFd there(ends[1]);
  const pid_t pid = ::fork();
  if (pid < 0) {
    log_error("migration={} fork: {}", preface.migration_id, errno_text(errno));
    return;
  }
  if (pid == 0) {
    here.reset();
    close_all();
    ::_exit(run_session(options_, preface.migration_id, std::move(socket), std::move(there)));
  }
  log_info("migration={} session={}", preface.migration_id, pid);
  sessions_.emplace(pid, Session{preface.migration_id, std::move(here), monotonic_ns()});
}

// In a session that was just forked.
void Listener::close_all() {
  listening_.reset();
  signals_.reset();
  pending_.clear();
  sessions_.clear();
  unblock_signals();
}

void Listener::replace_session(Session session) {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
    log_error("migration={} socketpair: {}", session.migration_id, errno_text(errno));
    return;
  }
  UniqueFd here(ends[0]);
  UniqueFd there(ends[1]);
  const pid_t pid = ::fork();
  if (pid == 0) {
    here.reset();
    close_all();
    ::_exit(run_orphan_session(options_, session.migration_id, std::move(session.held),
                               std::move(there)));
  }
  if (pid < 0) {
    log_error("migration={} fork: {}", session.migration_id, errno_text(errno));
    return;
  }
  log_warning("migration={} session={} takes over: pages are missing", session.migration_id, pid);
  session.link = std::move(here);
  session.passed.clear();
  sessions_.emplace(pid, std::move(session));
}

void Listener::reap_sessions() {
  int status = 0;
  for (;;) {
    const pid_t pid = ::waitpid(-1, &status, WNOHANG);
    if (pid <= 0) return;
    const auto session = sessions_.find(pid);
    if (session == sessions_.end()) continue;
    const std::string id = session->second.migration_id;
    const bool known = session->second.peer_known;
    Session ended = std::move(session->second);
    sessions_.erase(session);
    log_info("migration={} session={} ended status={}", id, pid, status);
    // A stranger can name any migration, and has begun none.
    if (known) recover_destination(options_.state_dir, id);
    if (!ended.held.empty() && is_running(options_.state_dir, id))
      replace_session(std::move(ended));
  }
}

}  // namespace godwit
