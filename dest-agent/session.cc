#include "dest-agent/session.h"

#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <optional>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/kernel/fd_passing.h"
#include "common/wire/channel.h"
#include "common/wire/key_folder.h"
#include "common/wire/lost_peer.h"
#include "common/wire/preface.h"
#include "common/wire/prompt_messages.h"
#include "dest-agent/incoming.h"
#include "dest-agent/recovery.h"
#include "dest-agent/resumed_session.h"

namespace godwit {
namespace {

constexpr std::int64_t kHandshakeTimeoutNs = 10'000'000'000;

// Tells the source why, as far as it still listens.
void say_abort(Channel& control, const Error& error) noexcept {
  try {
    proto::Abort abort;
    abort.set_story(error.what());
    abort.set_hint(error.hint());
    control.send_body(abort, monotonic_ns() + 1'000'000'000);
  } catch (const std::exception& lost) {
    log_debug("could not say why: {}", lost.what());
  }
}

void serve_outcome(const DestOptions& options, Channel& control,
                   const proto::OutcomeRequest& asked) {
  try {
    const proto::Outcome outcome = settle_outcome(options.state_dir, asked);
    control.send_body(outcome, monotonic_ns() + kHandshakeTimeoutNs);
  } catch (const Error& error) {
    say_abort(control, error);
    throw;
  }
}

// A page server that fails because the source's did is not the story: the source's own one is, and
// may be on its way. Throws PeerAborted then.
void hear_source_first(Channel& control) {
  constexpr int kPatienceMs = 500;
  pollfd wait{control.fd(), POLLIN, 0};
  if (!control.pending() && ::poll(&wait, 1, kPatienceMs) != 1) return;
  std::optional<proto::Envelope> message =
      control.try_receive(monotonic_ns() + kPatienceMs * 1'000'000LL);
  if (message) control.check_not_aborted(*message);
}

// Waits for whatever comes next, from the source, from the daemon or from the page server.
class Events {
 public:
  Events(Channel& control, int page_connections)
      : control_(control), page_connections_(page_connections) {}

  struct Ready {
    bool control = false;
    bool page_connection = false;
    bool pages = false;
    bool latecomers = false;
    bool quiet = false;
  };

  Ready wait(Incoming& incoming) {
    pollfd waits[4] = {{control_.fd(), POLLIN, 0},
                       {page_connections_, POLLIN, 0},
                       {incoming.page_link_fd(), POLLIN, 0},
                       {incoming.network().latecomers_fd(), POLLIN, 0}};
    const int timeout_ms = control_.pending() ? 0 : incoming.network().quiet_ms();
    const int count = ::poll(waits, 4, timeout_ms);
    if (count < 0 && errno != EINTR) throw_system("poll");
    Ready ready;
    ready.quiet = count == 0 && timeout_ms > 0;
    ready.latecomers = waits[3].revents != 0;
    ready.control = waits[0].revents != 0 || control_.pending();
    ready.page_connection = waits[1].revents != 0;
    ready.pages = waits[2].revents != 0;
    if (ready.page_connection && (waits[1].revents & POLLIN) == 0) {
      page_connections_ = -1;  // the daemon is gone; this migration goes on
      ready.page_connection = false;
    }
    return ready;
  }
  int page_connections() const { return page_connections_; }

 private:
  Channel& control_;
  int page_connections_;
};

// False: the daemon is gone, and no other will come.
bool take_page_connection(Incoming& incoming, int page_connections) {
  char kind = 0;
  UniqueFd connection = receive_fd(page_connections, &kind);
  if (!connection.valid()) return false;
  if (kind == static_cast<char>(ConnectionKind::kResume)) {
    // It has lost this connection, which only looks alive from here; it comes again.
    throw Error("the source resumes on another connection", ECONNRESET);
  }
  if (kind == static_cast<char>(ConnectionKind::kFaults)) {
    incoming.start_faults(std::move(connection));
  } else {
    incoming.start_pages(std::move(connection));
  }
  return true;
}

// The page connection was made before the description was sent, but comes by way of the daemon, and
// that for page faults may be faster.
void await_pages(Incoming& incoming, int page_connections) {
  constexpr std::int64_t kPagesTimeoutNs = 5'000'000'000;
  const std::int64_t deadline_ns = monotonic_ns() + kPagesTimeoutNs;
  while (incoming.page_link_fd() < 0) {
    pollfd wait{page_connections, POLLIN, 0};
    const std::int64_t left_ns = deadline_ns - monotonic_ns();
    if (left_ns <= 0 || ::poll(&wait, 1, static_cast<int>(left_ns / 1'000'000)) != 1) return;
    if (!take_page_connection(incoming, page_connections)) return;
  }
}

// Answers one message; false when the conversation is over.
bool handle(Incoming& incoming, Channel& control, int page_connections, proto::Envelope& message) {
  control.check_not_aborted(message);
  switch (message.body_case()) {
    case proto::Envelope::kPreflightRequest:
      incoming.preflight(message.preflight_request());
      return true;
    case proto::Envelope::kDescribe:
      await_pages(incoming, page_connections);
      incoming.describe(*message.mutable_describe()->mutable_snapshot());
      return true;
    case proto::Envelope::kBrace:
      incoming.brace(*message.mutable_brace());
      return true;
    case proto::Envelope::kStreams:
      incoming.take_streams(*message.mutable_streams());
      return true;
    case proto::Envelope::kFinal:
      incoming.cut_over(*message.mutable_final());
      return true;
    case proto::Envelope::kCommit:
      incoming.commit();
      return true;
    case proto::Envelope::kHeldPackets:
      incoming.replay(message.held_packets());
      return true;
    case proto::Envelope::kCorrections:
      incoming.correct(message.corrections());
      return true;
    case proto::Envelope::kFinish:
      incoming.finish();
      return false;
    default:
      control.refuse_unexpected(message, "the next step of a migration");
  }
}

void take_page_report(Incoming& incoming, Channel& control) {
  try {
    incoming.on_page_report();
  } catch (const Error& error) {
    // Its own end (ECONNRESET) is news to the source, that of the connection is not.
    if (error.code() != ECONNRESET) hear_source_first(control);
    throw;
  }
}

void converse(Incoming& incoming, Channel& control, int page_connections) {
  Events events(control, page_connections);
  for (;;) {
    const Events::Ready ready = events.wait(incoming);
    if (ready.pages) take_page_report(incoming, control);
    if (ready.latecomers) incoming.network().deliver_latecomers();
    if (ready.quiet) incoming.network().remove_hold();
    if (ready.page_connection) take_page_connection(incoming, events.page_connections());
    if (!ready.control) continue;
    std::optional<proto::Envelope> message = control.try_receive();
    if (!message) {
      if (incoming.ended_by_peer()) return;  // a check, or an image that is not to be built
      throw Error("the source closed the connection", ECONNRESET);
    }
    if (!handle(incoming, control, events.page_connections(), *message)) return;
  }
}

// A certificate that has expired is shown all the same: the source then says what is wrong.
Channel accept_control(UniqueFd socket, const KeyFolder& keys, const UniqueFd& link) {
  notice_lost_peer(socket.get());
  give_room_for_messages(socket.get());
  Channel control(TlsStream::accept(std::move(socket), to_tls_material(keys),
                                    monotonic_ns() + kHandshakeTimeoutNs));
  // A daemon that is gone passes no page connection either.
  if (::send(link.get(), &kPeerKnown, 1, MSG_NOSIGNAL) != 1) log_debug("the daemon is gone");
  return control;
}

int serve(const DestOptions& options, const std::string& migration_id, UniqueFd socket,
          const UniqueFd& link) {
  const KeyFolder keys = load_keys(options.keys, "destination", KeyValidity::kJudgedByPeer);
  Channel control = accept_control(std::move(socket), keys, link);
  proto::Envelope first = control.receive(monotonic_ns() + kHandshakeTimeoutNs);
  if (first.has_outcome_request()) {
    serve_outcome(options, control, first.outcome_request());
    return 0;
  }
  if (!first.has_hello()) control.refuse_unexpected(first, "Hello");
  if (first.hello().migration_id() != migration_id) {
    fail("the source names migration {} inside TLS and {} before it", first.hello().migration_id(),
         migration_id);
  }
  // Cleaned up behind the word to the source, whose process may go on by then. The connection ends
  // last: it tells that nothing is left here.
  std::optional<Incoming> incoming;
  try {
    incoming.emplace(options, keys, control, first.hello(), link.get());
    try {
      converse(*incoming, control, link.get());
      return 0;
    } catch (const std::exception& error) {
      if (incoming->committed()) {
        // The task runs here now: what is left to do needs no source.
        log_warning("migration={} after the commit: {}", migration_id, error.what());
        incoming->finish_alone();
        if (!incoming->misses_pages()) return 0;
        control.close();
        run_resumed_session(options, keys, migration_id, link.get(), incoming->post_copy());
        return 0;
      }
      throw;
    }
  } catch (const PeerAborted& error) {
    log_info("migration={} aborted by the source: {}", migration_id, error.what());
    return 1;
  } catch (const Error& error) {
    log_error("migration={} {}", migration_id, error.what());
    say_abort(control, error);
    return 1;
  } catch (const std::exception& error) {
    log_error("migration={} {}", migration_id, error.what());
    say_abort(control, Error(error.what()));
    return 1;
  }
}

}  // namespace

int run_orphan_session(const DestOptions& options, const std::string& migration_id,
                       std::vector<Passed> held, UniqueFd link) {
  try {
    const KeyFolder keys = load_keys(options.keys, "destination", KeyValidity::kJudgedByPeer);
    PostCopy post_copy(link.get(), std::move(held));
    run_resumed_session(options, keys, migration_id, link.get(), post_copy);
    return 0;
  } catch (const std::exception& error) {
    log_error("migration={} {}", migration_id, error.what());
    for (;;) ::pause();  // what is held must not be closed
  }
}

void play_session(const DestOptions& options, const std::vector<ImageLevel>& levels,
                  const proto::PlayImage& order, Channel& control, int link, LostImagePages& lost) {
  const KeyFolder none;
  const auto hello = control.receive_body<proto::Hello>();
  Incoming incoming(options, none, control, hello, link);
  incoming.play(levels, order);
  try {
    converse(incoming, control, -1);
    lost = incoming.lost_pages();
  } catch (const Error& error) {
    if (!incoming.committed()) throw;
    log_warning("restore={} after the commit: {}", hello.migration_id(), error.what());
    incoming.finish_alone();
    lost = incoming.lost_pages();
    fill_in_pages(levels, options, incoming.post_copy(), incoming.host_pid(), lost);
    forget_migration(options, hello.migration_id());
  }
}

int run_session(const DestOptions& options, const std::string& migration_id, UniqueFd control,
                UniqueFd link) {
  try {
    return serve(options, migration_id, std::move(control), link);
  } catch (const std::exception& error) {
    log_error("migration={} {}", migration_id, error.what());
    return 1;
  }
}

}  // namespace godwit
