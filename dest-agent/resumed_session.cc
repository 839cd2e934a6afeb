#include "dest-agent/resumed_session.h"

#include <poll.h>
#include <sys/random.h>
#include <unistd.h>

#include <optional>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/model/journal.h"
#include "common/model/snapshot.h"
#include "common/wire/channel.h"
#include "common/wire/lost_peer.h"
#include "common/wire/page_frame.h"
#include "common/wire/page_server_process.h"
#include "common/wire/preface.h"
#include "common/wire/prompt_messages.h"

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

// One connection of the source, with a page server of its own.
class Resumed {
 public:
  Resumed(const DestOptions& options, const KeyFolder& keys, const std::string& migration_id,
          int link, PostCopy& post_copy, UniqueFd socket)
      : options_(options),
        keys_(keys),
        migration_id_(migration_id),
        link_(link),
        post_copy_(post_copy),
        control_(accept(std::move(socket))),
        token_(kPageTokenBytes, '\0') {
    if (::getrandom(token_.data(), token_.size(), 0) != static_cast<ssize_t>(token_.size())) {
      throw_system("random token");
    }
  }

  // True: it has ended. False: the source comes again, on `next`.
  bool run(UniqueFd& next);

 private:
  Channel accept(UniqueFd socket) const {
    notice_lost_peer(socket.get());
    give_room_for_messages(socket.get());
    return Channel(TlsStream::accept(std::move(socket), to_tls_material(keys_),
                                     monotonic_ns() + kHandshakeTimeoutNs));
  }
  void greet();
  void start_page_server();
  void complete();
  void take_connection(Passed passed);
  void take_report();
  // False: that was the last message.
  bool take_message();

  const DestOptions& options_;
  const KeyFolder& keys_;
  const std::string& migration_id_;
  int link_;
  PostCopy& post_copy_;
  Channel control_;
  std::string token_;
  std::optional<PageServerProcess> pages_;
};

void Resumed::greet() {
  const auto resume = control_.receive_body<proto::Resume>(monotonic_ns() + kHandshakeTimeoutNs);
  if (resume.migration_id() != migration_id_ || resume.version() != kProtocolVersion) {
    fail("the source resumes migration {} in version {}", resume.migration_id(), resume.version());
  }
  proto::Resumed answer;
  answer.set_page_token(token_);
  if (const auto record = find_record(JournalFolder(options_.state_dir), migration_id_)) {
    answer.set_host_pid(record->process.pid);
  }
  if (post_copy_.incomplete()) {
    start_page_server();
    for (;;) {
      std::vector<UniqueFd> fds;
      proto::PageReport report = pages_->link().receive(monotonic_ns() + kAnswerTimeoutNs, &fds);
      if (!report.has_still_missing()) continue;
      answer.mutable_missing()->Swap(report.mutable_still_missing()->mutable_spans());
      break;
    }
    if (answer.missing().empty()) complete();
  }
  log_info("migration={} resumes: {} ranges are missing", migration_id_, answer.missing_size());
  control_.send_body(std::move(answer), monotonic_ns() + kAnswerTimeoutNs);
}

void Resumed::complete() {
  post_copy_.end();
  note_missing_pages(options_, migration_id_, false);
}

void Resumed::start_page_server() {
  pages_.emplace(PageServerProcess::spawn("destination"));
  post_copy_.resume(pages_->link());
}

void Resumed::take_connection(Passed passed) {
  if (!pages_) return;
  proto::PageOrder order;
  if (passed.kind == kind_of(ConnectionKind::kFaults)) {
    *order.mutable_start_faults()->mutable_tls() = to_tls_material(keys_);
    order.mutable_start_faults()->set_page_token(token_);
  } else {
    *order.mutable_start_dest()->mutable_tls() = to_tls_material(keys_);
    order.mutable_start_dest()->set_page_token(token_);
  }
  const int descriptors[] = {passed.fd.get()};
  pages_->link().send(order, descriptors);
}

void Resumed::take_report() {
  std::vector<UniqueFd> fds;
  proto::PageReport report = pages_->link().receive(kNoDeadline, &fds);
  if (report.has_forked_space() && !fds.empty()) {
    post_copy_.hold_child(report.forked_space().parent(), std::move(fds.front()));
  }
  if (!report.has_missing_pages()) return;
  if (report.missing_pages().missing_pages() == 0) complete();
  control_.send_body(std::move(*report.mutable_missing_pages()), monotonic_ns() + kAnswerTimeoutNs);
}

bool Resumed::take_message() {
  const proto::Envelope message = control_.receive(monotonic_ns() + kAnswerTimeoutNs);
  control_.check_not_aborted(message);
  // Late packets and options of connections: their peers send again, and there is no one to set
  // them.
  if (message.has_held_packets() || message.has_corrections()) return true;
  if (!message.has_finish()) control_.refuse_unexpected(message, "Finish");
  if (post_copy_.incomplete()) fail("Finish came while pages are missing");
  control_.send_body(proto::Finished{}, monotonic_ns() + kAnswerTimeoutNs);
  return false;
}

bool Resumed::run(UniqueFd& next) {
  greet();
  for (;;) {
    pollfd waits[3] = {{control_.fd(), POLLIN, 0},
                       {link_, POLLIN, 0},
                       {pages_ ? pages_->link().fd() : -1, POLLIN, 0}};
    if (::poll(waits, 3, control_.pending() ? 0 : -1) < 0 && errno != EINTR) throw_system("poll");
    if (waits[2].revents != 0) take_report();
    if (waits[1].revents != 0) {
      while (auto passed = try_receive_passed(link_)) {
        if (passed->kind == kind_of(ConnectionKind::kResume)) {
          next = std::move(passed->fd);
          return false;
        }
        take_connection(std::move(*passed));
      }
    }
    if ((waits[0].revents != 0 || control_.pending()) && !take_message()) return true;
  }
}

// Invalid when there is no daemon any more that could pass one.
UniqueFd await_source(int link) {
  for (;;) {
    char kind = 0;
    UniqueFd connection = receive_fd(link, &kind);
    if (kind == 0) return UniqueFd();
    if (kind == kind_of(ConnectionKind::kResume)) return connection;
  }
}

}  // namespace

void note_missing_pages(const DestOptions& options, const std::string& migration_id, bool missing) {
  const JournalFolder folder(options.state_dir);
  auto record = find_record(folder, migration_id);
  if (!record) return;
  record->misses_pages = missing;
  folder.write(*record);
}

void run_resumed_session(const DestOptions& options, const KeyFolder& keys,
                         const std::string& migration_id, int link, PostCopy& post_copy) {
  UniqueFd socket;
  for (;;) {
    if (!socket.valid()) socket = await_source(link);
    if (!socket.valid()) {
      log_error("migration={} the daemon is gone: what waits for missing pages waits on",
                migration_id);
      for (;;) ::pause();
    }
    try {
      Resumed resumed(options, keys, migration_id, link, post_copy, std::move(socket));
      if (!resumed.run(socket)) continue;
      JournalFolder folder(options.state_dir);
      if (const auto record = find_record(folder, migration_id)) folder.remove(*record);
      return;
    } catch (const std::exception& error) {
      log_warning("migration={} resuming: {}", migration_id, error.what());
    }
  }
}

}  // namespace godwit
