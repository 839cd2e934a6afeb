// The destination role. This thread takes orders. Another receives and decrypts frames, checks and
// places them; where it pays off (works_on_two_threads()), the latter half is a third one's.
//
//   TLS -> receiver (-> queue) -> placer -> userfaultfd / memory file            then RoundReceived
//
// A frame of a newer generation than the areas waits in the placer; behind it nothing is read from
// the connection any more, and in the end the source waits too.
#include <openssl/crypto.h>

#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/kernel/short_turns.h"
#include "page-server/areas.h"
#include "page-server/fault_service.h"
#include "page-server/frame_queue.h"
#include "page-server/image_play.h"
#include "page-server/page_placer.h"
#include "page-server/page_server.h"

namespace godwit {
namespace {

struct NamedPages {
  std::uint32_t round = 0;
  PageBitmap pages;
  PageBitmap leaving;  // by the round that runs, which is not that of the switch
  PageBitmap ahead;    // by those before it, except what was placed since
};

// The switch may take two rounds, when the layout has changed: the second one looks at everything
// again, so that what only the first one named is not missing.
PageBitmap& named_in(std::uint32_t round, NamedPages& named) {
  if (named.round != round) named.pages.clear();
  named.round = round;
  return named.pages;
}

struct Received {
  std::uint64_t pages = 0;
  std::uint64_t zero_pages = 0;
  std::uint64_t bytes = 0;
};

class DestServer {
 public:
  explicit DestServer(PageServiceLink& link) : link_(link), faults_(link) {}

  // False: time to quit.
  bool carry_out(PageServiceLink::Order& order);

 private:
  void start(PageServiceLink::Order& order);
  void play_image(const proto::PlayImage& order);
  void add_space(PageServiceLink::Order& order);
  void set_areas(const proto::SetAreas& order);
  void start_faults(PageServiceLink::Order& order);
  void serve_space(PageServiceLink::Order& order);
  void resume_spaces(PageServiceLink::Order& order);
  void tell_missing();
  void poison_missing();
  void receive_frames();
  void place_frames();
  void play(const proto::PlayImage& order);
  void play_round(std::uint32_t space, const proto::PlayImage& order);
  void receive_and_place();
  bool receive(PageFrame& frame);
  void place(PageFrame& frame);
  void await_served(std::uint32_t space);
  void report_round(std::uint32_t space, std::uint32_t round);
  void note_missing(const PageFrame& frame);
  void note_placed(const PageFrame& frame);

  PageServiceLink& link_;
  std::optional<TlsStream> stream_;  // the receiver's, once it runs
  std::vector<ImageLevel> levels_;   // of an image that is played instead
  std::optional<ImagePlay> image_;
  std::optional<FrameQueue> queue_;  // between receiver and placer, if they are two
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::uint32_t, PagePlacer> spaces_;   // guarded by mutex_
  std::map<std::uint32_t, Received> received_;   // of the round that runs; the placer's
  std::map<std::uint32_t, NamedPages> missing_;  // of a lazy round; guarded by mutex_
  std::vector<LazyMemory::Held> held_;           // until they are resumed
  FaultService faults_;
  bool started_ = false;
};

// What the process must not find, since it was written after it had been sent.
void add_stale(const std::vector<PageRange>& placed, proto::RoundReceived& round) {
  for (const PageRange& range : placed) {
    proto::PageSpan& span = *round.add_stale();
    span.set_start(range.start);
    span.set_end(range.end);
  }
}

void add_missing(NamedPages& named, PagePlacer& placer, proto::RoundReceived& round) {
  if (!named.leaving.empty()) {
    add_stale(placer.take_out(named.leaving), round);
    named.leaving.for_each_run([&](const PageRange& run) { named.ahead.set(run); });
    named.leaving.clear();
    return;
  }
  PageBitmap& missing = named_in(round.round(), named);
  add_stale(placer.placed_of(missing), round);
  in_anonymous_areas(named.ahead, placer.areas()).for_each_run([&](const PageRange& run) {
    missing.set(run);
  });
  round.set_missing_pages(missing.count());
}

// Of somebody who has the token: the page connections of a migration come by way of a daemon that
// does not open them.
TlsStream accept_stream(PageServiceLink::Order& order, const TlsMaterial& tls,
                        const std::string& token) {
  if (token.size() != kPageTokenBytes) fail("the page token has the wrong length");
  const std::int64_t deadline_ns = monotonic_ns() + kHandshakeNs;
  TlsStream stream = TlsStream::accept(take_fd(order, 0, "page connection"), tls, deadline_ns);
  std::array<std::byte, kPageTokenBytes> shown{};
  stream.read(shown, deadline_ns);
  if (CRYPTO_memcmp(shown.data(), token.data(), shown.size()) != 0) {
    fail("the page connection belongs to another migration: its token is a different one");
  }
  return stream;
}

bool DestServer::carry_out(PageServiceLink::Order& order) {
  switch (order.order.order_case()) {
    case proto::PageOrder::kStartDest:
      start(order);
      return true;
    case proto::PageOrder::kAddSpace:
      add_space(order);
      return true;
    case proto::PageOrder::kSetAreas:
      set_areas(order.order.set_areas());
      return true;
    case proto::PageOrder::kStartFaults:
      start_faults(order);
      return true;
    case proto::PageOrder::kHoldSpace:
      held_.push_back({order.order.hold_space().parent(), take_fd(order, 0, "userfaultfd")});
      return true;
    case proto::PageOrder::kResumeSpaces:
      resume_spaces(order);
      return true;
    case proto::PageOrder::kNameMissing:
      tell_missing();
      return true;
    case proto::PageOrder::kPoisonMissing:
      poison_missing();
      return true;
    case proto::PageOrder::kServeSpace:
      serve_space(order);
      return true;
    case proto::PageOrder::kAddImageLevel:
      levels_.push_back(take_image_level(order));
      return true;
    case proto::PageOrder::kPlayImage:
      play_image(order.order.play_image());
      return true;
    case proto::PageOrder::kQuit:
      return false;
    default:
      fail("an order that is not for a destination");
  }
}

void DestServer::start(PageServiceLink::Order& order) {
  const proto::StartDest& start = order.order.start_dest();
  if (started_) fail("started twice");
  started_ = true;
  stream_ = accept_stream(order, start.tls(), start.page_token());
  // They run until the process ends: see serve_destination().
  if (works_on_two_threads(start.threads())) {
    queue_.emplace(kQueuedFrames);
    std::thread([this] { receive_frames(); }).detach();
    std::thread([this] { place_frames(); }).detach();
  } else {
    std::thread([this] { receive_and_place(); }).detach();
  }
  proto::PageReport report;
  report.mutable_ready();
  link_.send(report);
}

void DestServer::play_image(const proto::PlayImage& order) {
  if (std::exchange(started_, true)) fail("started twice");
  image_.emplace(std::move(levels_), order);
  if (order.lazy()) faults_.answer_from(image_->pages());
  std::thread([this, order] { play(order); }).detach();
  proto::PageReport report;
  report.mutable_ready();
  link_.send(report);
}

void DestServer::play(const proto::PlayImage& order) try {
  for (const std::uint32_t space : image_->spaces()) {
    if (!order.resumed()) play_round(space, order);
  }
  if (!order.lazy()) return;
  take_short_turns(true);
  for (const std::uint32_t space : image_->spaces()) {
    await_served(space);
    image_->place_rest(space, faults_);
  }
} catch (const Error& error) {
  die(link_, error.in("reading the image").what());
} catch (const std::exception& error) {
  die(link_, error.what());
}

void DestServer::play_round(std::uint32_t space, const proto::PlayImage& order) {
  PageBitmap missing;
  image_->prepare(space, missing);
  auto found = spaces_.end();
  {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] {
      found = spaces_.find(space);
      return found != spaces_.end() && found->second.generation() >= order.generation();
    });
  }
  // No areas are set before this round is told.
  const ImagePlay::Placed placed = image_->place(found->second);
  received_[space] = {placed.pages, placed.zero_pages, placed.bytes};
  if (order.lazy()) {
    const std::lock_guard lock(mutex_);
    named_in(order.round(), missing_[space]) = std::move(missing);
  }
  report_round(space, order.round());
}

void DestServer::add_space(PageServiceLink::Order& order) {
  PagePlacer placer(take_fd(order, 0, "memory"), take_fd(order, 1, "userfaultfd"));
  {
    const std::lock_guard lock(mutex_);
    spaces_.insert_or_assign(order.order.add_space().space(), std::move(placer));
  }
  changed_.notify_all();
}

void DestServer::set_areas(const proto::SetAreas& order) {
  {
    const std::lock_guard lock(mutex_);
    const auto found = spaces_.find(order.space());
    if (found == spaces_.end()) fail("no address space {}", order.space());
    found->second.set_areas(order);
  }
  changed_.notify_all();
}

void DestServer::start_faults(PageServiceLink::Order& order) {
  const proto::StartFaults& start = order.order.start_faults();
  faults_.connect(accept_stream(order, start.tls(), start.page_token()));
}

void DestServer::serve_space(PageServiceLink::Order& order) {
  const std::uint32_t space = order.order.serve_space().space();
  {
    const std::lock_guard lock(mutex_);
    faults_.serve(space, take_fd(order, 0, "userfaultfd"), std::move(missing_[space].pages),
                  MissingLedger(take_fd(order, 1, "ledger")));
  }
  changed_.notify_all();
}

void DestServer::resume_spaces(PageServiceLink::Order& order) {
  {
    const std::lock_guard lock(mutex_);
    faults_.resume(std::move(held_), MissingLedger(take_fd(order, 0, "ledger")));
  }
  changed_.notify_all();
  tell_missing();
}

void DestServer::tell_missing() {
  proto::PageReport report;
  *report.mutable_still_missing() = faults_.name_missing();
  link_.send(report);
}

void DestServer::poison_missing() {
  proto::PageReport report;
  *report.mutable_missing_poisoned() = faults_.poison();
  link_.send(report);
}

void DestServer::receive_frames() try {
  while (true) {
    std::unique_ptr<PageFrame> frame = queue_->take_free();
    if (!receive(*frame)) return;  // an orderly end
    queue_->push(std::move(frame));
  }
} catch (const std::exception& error) {
  die(link_, error.what());
}

void DestServer::receive_and_place() try {
  PageFrame frame;
  while (receive(frame)) place(frame);
} catch (const std::exception& error) {
  die(link_, error.what());
}

bool DestServer::receive(PageFrame& frame) try {
  return receive_frame(*stream_, frame);
} catch (const Error& error) {
  throw error.in("receiving pages");
}

void DestServer::place(PageFrame& frame) try {
  frame.verify();
  const bool pages = frame.type() == PageFrame::Type::kPages;
  const bool missing =
      frame.type() == PageFrame::Type::kMissing || frame.type() == PageFrame::Type::kMissingAhead;
  if (frame.type() == PageFrame::Type::kFollowing) {
    await_served(frame.space());
    faults_.place(frame);
  } else if (!missing && faults_.serves(frame.space())) {
    if (pages) faults_.place(frame);
  } else {
    std::unique_lock lock(mutex_);
    auto found = spaces_.end();
    changed_.wait(lock, [&] {
      found = spaces_.find(frame.space());
      return found != spaces_.end() && found->second.generation() >= frame.generation();
    });
    if (missing) note_missing(frame);
    if (pages) {
      found->second.place(frame);
      note_placed(frame);
    }
  }
  Received& received = received_[frame.space()];
  received.bytes += frame.wire_bytes();
  received.pages += frame.data_pages();
  frame.for_each_run([&](const PageFrame::Run& run) {
    if (run.zero) received.zero_pages += run.range.pages();
  });
  if (frame.type() == PageFrame::Type::kEndOfRound) report_round(frame.space(), frame.round());
} catch (const Error& error) {
  throw error.in("placing pages");
}

// What follows may overtake the order to serve the space; placed before it, it would be missing for
// good.
void DestServer::await_served(std::uint32_t space) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return faults_.serves(space); });
}

void DestServer::report_round(std::uint32_t space, std::uint32_t number) {
  const Received received = std::exchange(received_[space], Received{});
  proto::PageReport report;
  proto::RoundReceived& round = *report.mutable_round_received();
  round.set_round(number);
  round.set_pages(received.pages);
  round.set_zero_pages(received.zero_pages);
  round.set_bytes(received.bytes);
  {
    const std::lock_guard lock(mutex_);
    if (const auto missing = missing_.find(space); missing != missing_.end()) {
      add_missing(missing->second, spaces_.at(space), round);
    }
  }
  link_.send(report);
}

void DestServer::note_missing(const PageFrame& frame) {
  NamedPages& named = missing_[frame.space()];
  const bool ahead = frame.type() == PageFrame::Type::kMissingAhead;
  PageBitmap& missing = ahead ? named.leaving : named_in(frame.round(), named);
  frame.for_each_run([&](const PageFrame::Run& run) { missing.set(run.range); });
}

// Since it was named it has become one of those that travel in the blackout.
void DestServer::note_placed(const PageFrame& frame) {
  const auto found = missing_.find(frame.space());
  if (found == missing_.end()) return;
  frame.for_each_run([&](const PageFrame::Run& run) { found->second.ahead.clear(run.range); });
}

void DestServer::place_frames() try {
  while (std::unique_ptr<PageFrame> frame = queue_->pop()) {
    place(*frame);
    queue_->recycle(std::move(frame));
  }
} catch (const std::exception& error) {
  die(link_, error.what());
}

}  // namespace

int serve_destination(PageServiceLink& link) {
  // Never destroyed: its threads wait in the kernel for good and end with the process.
  static DestServer& server = *new DestServer(link);
  while (auto order = link.receive_order()) {
    if (!server.carry_out(*order)) return link.has_failed() ? 1 : 0;
  }
  return 1;  // the agent is gone
}

}  // namespace godwit
