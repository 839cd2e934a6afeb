#include "dest-agent/resumed_session.h"

#include <poll.h>
#include <sys/random.h>
#include <unistd.h>

#include <functional>
#include <optional>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/model/journal.h"
#include "common/model/snapshot.h"
#include "common/wire/channel.h"
#include "common/wire/lost_peer.h"
#include "common/wire/page_frame.h"
#include "common/wire/preface.h"
#include "common/wire/prompt_messages.h"
#include "common/wire/recovery_socket.h"
#include "dest-agent/lost_pages.h"
#include "dest-agent/resumed_pages.h"
#include "dest-agent/told_status.h"

namespace godwit {
namespace {

constexpr std::int64_t kHandshakeTimeoutNs = 10'000'000'000;
constexpr std::int64_t kAnswerTimeoutNs = 30'000'000'000;

char kind_of(ConnectionKind kind) { return static_cast<char>(kind); }

std::optional<JournalRecord> find_record(const JournalFolder& folder, const std::string& id) {
  for (JournalRecord& record : folder.load_all("destination").records) {
    if (record.migration_id == id) return std::move(record);
  }
  return std::nullopt;
}

void change_record(const DestOptions& options, const std::string& migration_id,
                   const std::function<void(JournalRecord&)>& change) {
  const JournalFolder folder(options.state_dir);
  auto record = find_record(folder, migration_id);
  if (!record) return;
  change(*record);
  folder.write(*record);
}

void note_lost_pages(const DestOptions& options, const std::string& migration_id,
                     std::uint64_t pages) {
  change_record(options, migration_id, [pages](JournalRecord& each) { each.lost_pages += pages; });
}

// A connection that comes by way of the daemon.
bool is_resuming(const Passed& passed) { return passed.kind == kind_of(ConnectionKind::kResume); }

// What a session has, whether or not there is a source.
struct Place {
  const DestOptions& options;
  const KeyFolder& keys;
  const std::string& migration_id;
  int link;  // to the daemon; -1 when that is gone
  PostCopy& post_copy;
  ResumedPages& pages;
  std::optional<RecoverySocket> operators;  // none where it can't be made
  ToldStatus status;

  void open_to_operators() try {
    operators.emplace(recovery_socket_path(options.state_dir, migration_id));
  } catch (const Error& error) {
    log_warning("migration={} not open to `migrate recover`: {}", migration_id, error.what());
  }
  void start_pages() {
    if (pages.running()) return;
    pages.start();
    status.go_on();
  }
  pollfd operator_to_come() const { return {operators ? operators->fd() : -1, POLLIN, 0}; }
};

void complete(Place& place) {
  place.post_copy.end();
  note_missing_pages(place.options, place.migration_id, false);
}

// One connection of the source.
class Resumed {
 public:
  Resumed(Place& place, UniqueFd socket)
      : place_(place), control_(accept(std::move(socket))), token_(kPageTokenBytes, '\0') {
    if (::getrandom(token_.data(), token_.size(), 0) != static_cast<ssize_t>(token_.size())) {
      throw_system("random token");
    }
  }

  Resumed(const Resumed&) = delete;
  Resumed& operator=(const Resumed&) = delete;
  // A page server that has had connections does not work with others.
  ~Resumed() {
    if (connected_) place_.pages.reset();
  }

  // True: it has ended. False: the source comes again, on `next`.
  bool run(UniqueFd& next);

 private:
  Channel accept(UniqueFd socket) const {
    notice_lost_peer(socket.get());
    give_room_for_messages(socket.get());
    return Channel(TlsStream::accept(std::move(socket), to_tls_material(place_.keys),
                                     monotonic_ns() + kHandshakeTimeoutNs));
  }
  void greet();
  void take_connection(Passed passed);
  void take_report();
  // False: that was the last message.
  bool take_message();

  Place& place_;
  Channel control_;
  std::string token_;
  bool connected_ = false;
};

void Resumed::greet() {
  const auto resume = control_.receive_body<proto::Resume>(monotonic_ns() + kHandshakeTimeoutNs);
  if (resume.migration_id() != place_.migration_id || resume.version() != kProtocolVersion) {
    fail("the source resumes migration {} in version {}", resume.migration_id(), resume.version());
  }
  proto::Resumed answer;
  answer.set_page_token(token_);
  if (const auto record =
          find_record(JournalFolder(place_.options.state_dir), place_.migration_id)) {
    answer.set_host_pid(record->process.pid);
  }
  if (place_.post_copy.incomplete()) {
    place_.start_pages();
    place_.status.source_away(false);
    proto::StillMissing missing = place_.pages.name_missing();
    answer.mutable_missing()->Swap(missing.mutable_spans());
    if (answer.missing().empty()) complete(place_);
  }
  log_info("migration={} resumes: {} ranges are missing", place_.migration_id,
           answer.missing_size());
  control_.send_body(std::move(answer), monotonic_ns() + kAnswerTimeoutNs);
}

void Resumed::take_connection(Passed passed) {
  if (!place_.pages.running()) return;
  connected_ = true;
  proto::PageOrder order;
  if (passed.kind == kind_of(ConnectionKind::kFaults)) {
    *order.mutable_start_faults()->mutable_tls() = to_tls_material(place_.keys);
    order.mutable_start_faults()->set_page_token(token_);
  } else {
    *order.mutable_start_dest()->mutable_tls() = to_tls_material(place_.keys);
    order.mutable_start_dest()->set_page_token(token_);
  }
  const int descriptors[] = {passed.fd.get()};
  place_.pages.link().send(order, descriptors);
}

void Resumed::take_report() {
  auto news = place_.pages.take_report();
  if (!news) return;
  place_.status.take(*news);
  if (news->missing_pages() == 0) complete(place_);
  control_.send_body(std::move(*news), monotonic_ns() + kAnswerTimeoutNs);
}

bool Resumed::take_message() {
  const proto::Envelope message = control_.receive(monotonic_ns() + kAnswerTimeoutNs);
  control_.check_not_aborted(message);
  // Late packets and options of connections: their peers send again, and there is no one to set
  // them.
  if (message.has_held_packets() || message.has_corrections()) return true;
  if (!message.has_finish()) control_.refuse_unexpected(message, "Finish");
  if (place_.post_copy.incomplete()) fail("Finish came while pages are missing");
  control_.send_body(proto::Finished{}, monotonic_ns() + kAnswerTimeoutNs);
  return false;
}

bool Resumed::run(UniqueFd& next) {
  greet();
  for (;;) {
    pollfd waits[4] = {{control_.fd(), POLLIN, 0},
                       {place_.link, POLLIN, 0},
                       {place_.pages.fd(), POLLIN, 0},
                       place_.operator_to_come()};
    if (::poll(waits, 4, control_.pending() ? 0 : -1) < 0 && errno != EINTR) throw_system("poll");
    if (waits[2].revents != 0) take_report();
    if (waits[3].revents != 0) {
      place_.operators->serve([](const proto::RecoveryRequest&) {
        proto::RecoveryAnswer answer;
        answer.set_has_source(true);
        return answer;
      });
    }
    if (waits[1].revents != 0) {
      while (auto passed = try_receive_passed(place_.link)) {
        if (is_resuming(*passed)) {
          next = std::move(passed->fd);
          return false;
        }
        take_connection(std::move(*passed));
      }
    }
    if ((waits[0].revents != 0 || control_.pending()) && !take_message()) return true;
  }
}

// Nobody is there to send what is missing. What needs no source goes on, and operators may choose.
class Alone {
 public:
  explicit Alone(Place& place, const ProcessMark& process)
      : place_(place), lost_(process, place.pages) {}

  // True: nothing is missing any more. False: the source comes, on `next`.
  bool run(UniqueFd& next);

 private:
  // False: it can't be made just now.
  bool start_pages();
  void take_report();
  proto::RecoveryAnswer answer(const proto::RecoveryRequest& request);
  // The source's connection, if that has come.
  bool hear_daemon(UniqueFd& next);

  Place& place_;
  LostPages lost_;
};

bool Alone::start_pages() try {
  place_.start_pages();
  return true;
} catch (const Error& error) {
  log_warning("migration={} without a source: {}", place_.migration_id, error.what());
  place_.pages.reset();
  return false;
}

void Alone::take_report() try {
  const auto news = place_.pages.take_report();
  if (news) place_.status.take(*news);
  if (news && news->missing_pages() == 0) complete(place_);
} catch (const Error& error) {
  log_warning("migration={} without a source: {}", place_.migration_id, error.what());
  place_.pages.reset();
}

proto::RecoveryAnswer Alone::answer(const proto::RecoveryRequest& request) {
  if (!place_.pages.running()) fail("there is no page server just now");
  proto::RecoveryAnswer answer = lost_.answer(request);
  const bool settled = request.choice() != proto::RecoveryRequest::TELL && answer.problem().empty();
  if (!settled) return answer;
  log_warning("migration={} given up by its operator: {} pages poisoned, {} processes ended",
              place_.migration_id, answer.poisoned_pages(), answer.ended_processes());
  note_lost_pages(place_.options, place_.migration_id, answer.missing_pages());
  complete(place_);
  return answer;
}

bool Alone::hear_daemon(UniqueFd& next) {
  try {
    while (auto passed = try_receive_passed(place_.link)) {
      if (!is_resuming(*passed)) continue;  // of one that has gone again
      next = std::move(passed->fd);
      return true;
    }
  } catch (const Error&) {
    log_error(
        "migration={} the daemon is gone, and no source can come: what waits for missing "
        "pages waits on",
        place_.migration_id);
    place_.link = -1;
  }
  return false;
}

bool Alone::run(UniqueFd& next) {
  constexpr int kAgainMs = 1000;
  place_.status.source_away(true);
  while (place_.post_copy.incomplete()) {
    const bool started = start_pages();
    pollfd waits[3] = {
        {place_.link, POLLIN, 0}, {place_.pages.fd(), POLLIN, 0}, place_.operator_to_come()};
    if (::poll(waits, 3, started ? -1 : kAgainMs) < 0 && errno != EINTR) throw_system("poll");
    if (waits[0].revents != 0 && hear_daemon(next)) return false;
    if (waits[1].revents != 0) take_report();
    if (waits[2].revents != 0) {
      place_.operators->serve(
          [this](const proto::RecoveryRequest& request) { return answer(request); });
    }
  }
  return true;
}

}  // namespace

void note_missing_pages(const DestOptions& options, const std::string& migration_id, bool missing) {
  change_record(options, migration_id,
                [missing](JournalRecord& record) { record.misses_pages = missing; });
}

void forget_migration(const DestOptions& options, const std::string& migration_id) {
  JournalFolder folder(options.state_dir);
  if (const auto record = find_record(folder, migration_id)) folder.remove(*record);
}

pid_t find_migrated(const DestOptions& options, const std::string& migration_id) {
  const auto record = find_record(JournalFolder(options.state_dir), migration_id);
  return record ? record->process.pid : 0;
}

void run_resumed_session(const DestOptions& options, const KeyFolder& keys,
                         const std::string& migration_id, int link, PostCopy& post_copy) {
  ResumedPages pages(post_copy);
  Place place{options, keys, migration_id, link, post_copy, pages, {}, {}};
  place.open_to_operators();
  const auto found = find_record(JournalFolder(options.state_dir), migration_id);
  if (found) place.status.open(JournalFolder(options.state_dir), *found);
  Alone alone(place, found ? found->process : ProcessMark{});
  UniqueFd socket;
  for (;;) {
    try {
      // A source that has not heard of the last page asks the daemon.
      if (!socket.valid() && alone.run(socket)) return;
      if (!Resumed(place, std::move(socket)).run(socket)) continue;
      forget_migration(options, migration_id);
      return;
    } catch (const std::exception& error) {
      log_warning("migration={} resuming: {}", migration_id, error.what());
    }
  }
}

}  // namespace godwit
