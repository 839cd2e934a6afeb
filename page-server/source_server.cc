// The source role. This thread takes orders, scans and reads. Where it pays off, a second one
// encrypts and sends (works_on_two_threads()); else it does that too, frame by frame.
//
//   scan (all areas) -> Scanned -> read -> frames (-> queue -> writer) -> TLS      then RoundSent
//
// Scanning everything before reading anything costs a bit a page and makes scanning independent of
// the network: the agent learns early how much there is, and a task that must stand still for a
// scan stands for the scan only.
#include <time.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <thread>
#include <vector>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/kernel/short_turns.h"
#include "common/tracking/blocking_tracker.h"
#include "common/tracking/soft_dirty_tracker.h"
#include "common/tracking/tracker_probe.h"
#include "common/tracking/write_protect_tracker.h"
#include "page-server/areas.h"
#include "page-server/background_turns.h"
#include "page-server/copy_on_write.h"
#include "page-server/direct_sink.h"
#include "page-server/fault_answers.h"
#include "page-server/frame_queue.h"
#include "page-server/image_sink.h"
#include "page-server/in_flight_limit.h"
#include "page-server/lazy_round.h"
#include "page-server/missing_pages.h"
#include "page-server/page_reader.h"
#include "page-server/page_server.h"
#include "page-server/rate_limit.h"
#include "page-server/round_progress.h"

namespace godwit {
namespace {

constexpr std::uint64_t kPieceBehindFaultsBytes = 64 << 10;

struct Space {
  UniqueFd memory;
  UniqueFd pagemap;
  UniqueFd clear_refs;
  std::unique_ptr<DirtyTracker> tracker;
  std::uint64_t generation = 0;
  std::vector<TrackedArea> areas;
  PageBitmap sent;        // what the destination holds
  PageBitmap named;       // what it was told to drop, since it stays here until after the switch
  PageBitmap recent;      // of those, what was written after it was named
  PageContents contents;  // of shared memory, where the tracker can't tell what was written
  std::unique_ptr<CopyOnWrite> held;  // of a copy-on-write image
};

class SourceServer {
 public:
  SourceServer(PageServiceLink& link, const KernelFacts& kernel, WriteRing* ring)
      : link_(link), kernel_(kernel), ring_(ring) {}
  SourceServer(const SourceServer&) = delete;
  SourceServer& operator=(const SourceServer&) = delete;
  ~SourceServer() {
    if (background_stream_.joinable()) background_stream_.join();
    if (queue_) queue_->close();
    if (writer_.joinable()) writer_.join();
    if (stream_) stream_->close();
  }

  // False: time to quit.
  bool carry_out(PageServiceLink::Order& order);

 private:
  void start(PageServiceLink::Order& order);
  void start_image(PageServiceLink::Order& order);
  void finish_image();
  void add_space(PageServiceLink::Order& order);
  void set_areas(const proto::SetAreas& order);
  void send_round(const proto::SendRound& order);
  ScanFindings scan(Space& space, const proto::SendRound& order);
  void read(Space& space, const ScanFindings& findings, PageReader& reader,
            RoundProgress& progress) const;
  void report_scan(const proto::SendRound& order, const ScanFindings& findings,
                   std::int64_t scan_ns);
  Space& space(std::uint32_t number);
  void start_faults(PageServiceLink::Order& order);
  void send_missing(const proto::SendMissing& order);
  void leave_missing(const proto::LeaveMissing& order);
  void report_sent(std::uint32_t round, const RoundStatistics& statistics,
                   std::uint64_t missing_pages, std::int64_t began_ns);
  FrameSink& sink();
  void write_frames();
  void send(const PageFrame& frame);

  PageServiceLink& link_;
  KernelFacts kernel_;
  WriteRing* ring_;
  std::vector<ImageLevel> base_;        // of the image
  std::optional<ImageSink> image_;      // instead of a stream
  std::optional<TlsStream> stream_;     // the writer's, while one runs
  std::optional<FrameQueue> queue_;     // to the writer, if there is one
  std::unique_ptr<DirectSink> direct_;  // if there is none
  RateLimit limit_{0};
  TrackerKind tracker_ = TrackerKind::kWriteProtect;
  std::map<std::uint32_t, Space> spaces_;
  std::atomic<bool> background_{false};     // of this round, for the writer
  std::atomic<bool> behind_faults_{false};  // missing pages: others wait on the same link
  std::thread writer_;
  MissingPages missing_;           // after a lazy round
  BackgroundTurns turns_;          // of the stream of these
  std::thread background_stream_;  // once they travel
};

bool SourceServer::carry_out(PageServiceLink::Order& order) {
  switch (order.order.order_case()) {
    case proto::PageOrder::kStartSource:
      start(order);
      return true;
    case proto::PageOrder::kAddSpace:
      add_space(order);
      return true;
    case proto::PageOrder::kSetAreas:
      set_areas(order.order.set_areas());
      return true;
    case proto::PageOrder::kSendRound:
      send_round(order.order.send_round());
      return true;
    case proto::PageOrder::kStartFaults:
      start_faults(order);
      return true;
    case proto::PageOrder::kLeaveMissing:
      leave_missing(order.order.leave_missing());
      return true;
    case proto::PageOrder::kSendMissing:
      background_stream_ =
          std::thread([this, wanted = order.order.send_missing()] { send_missing(wanted); });
      return true;
    case proto::PageOrder::kAddImageLevel:
      base_.push_back(take_image_level(order));
      return true;
    case proto::PageOrder::kStartImage:
      start_image(order);
      return true;
    case proto::PageOrder::kFinishImage:
      finish_image();
      return true;
    case proto::PageOrder::kQuit:
      return false;
    default:
      fail("an order that is not for a source");
  }
}

void SourceServer::start(PageServiceLink::Order& order) {
  const proto::StartSource& start = order.order.start_source();
  if (stream_) fail("started twice");
  if (start.page_token().size() != kPageTokenBytes) fail("the page token has the wrong length");
  const auto tracker = tracker_by_name(start.tracker());
  if (!tracker) fail("unknown tracker \"{}\"", start.tracker());
  tracker_ = *tracker;
  limit_ = RateLimit(start.bandwidth_bytes_per_s_max());
  stream_ = TlsStream::connect(take_fd(order, 0, "page connection"), start.tls(),
                               monotonic_ns() + kHandshakeNs);
  stream_->write(std::as_bytes(std::span(start.page_token())), monotonic_ns() + kHandshakeNs);
  if (works_on_two_threads(start.threads())) {
    queue_.emplace(kQueuedFrames);
    writer_ = std::thread([this] { write_frames(); });
  } else {
    direct_ = std::make_unique<DirectSink>([this](const PageFrame& frame) { send(frame); });
  }
  proto::PageReport report;
  report.mutable_ready();
  link_.send(report);
}

void SourceServer::start_image(PageServiceLink::Order& order) {
  const proto::StartImage& start = order.order.start_image();
  const auto tracker = tracker_by_name(start.tracker());
  if (image_ || stream_ || ring_ == nullptr || !tracker) fail("an image can't be begun");
  tracker_ = *tracker;
  image_.emplace(order, *ring_, std::move(base_));
  proto::PageReport report;
  report.mutable_ready();
  link_.send(report);
}

void SourceServer::finish_image() {
  if (!image_) fail("no image to finish");
  proto::PageReport report;
  proto::ImageWritten& written = *report.mutable_image_written();
  for (auto& [number, space] : spaces_) {
    if (!space.held) continue;
    PageReader reader(space.memory.get(), *image_, space.sent, number, 0, space.generation, false);
    if (!space.held->save(reader)) written.set_lost(true);
    reader.finish();
    written.set_held_pages(space.held->held_pages());
    written.set_copied_pages(space.held->copied_pages());
    // Nobody needs to wait for a disk.
    space.held->let_go_of(space.areas);
    space.tracker.reset();
    space.held.reset();
  }
  if (!written.lost()) image_->finish(written);
  link_.send(report);
}

void SourceServer::add_space(PageServiceLink::Order& order) {
  Space& space = spaces_[order.order.add_space().space()];
  space = Space{};
  space.memory = take_fd(order, 0, "memory");
  space.pagemap = take_fd(order, 1, "pagemap");
  if (tracker_ == TrackerKind::kSoftDirty) {
    space.clear_refs = take_fd(order, 2, "clear_refs");
    space.tracker = std::make_unique<SoftDirtyTracker>(space.pagemap.get(), space.clear_refs.get(),
                                                       kernel_.zeros);
  } else if (order.fds.size() > 2) {
    const int number = static_cast<int>(order.order.add_space().space());
    space.held = std::make_unique<CopyOnWrite>(
        link_, take_fd(order, 2, "userfaultfd"), space.memory.get(), space.pagemap.get(),
        [this, number](const std::string& story) {
          die(link_, fmt::format("write protection of address space {}: {}", number, story));
        });
    space.tracker = std::make_unique<BlockingTracker>(space.pagemap.get(), space.held->uffd(),
                                                      kernel_.absent_is_written);
  } else {
    space.tracker =
        std::make_unique<WriteProtectTracker>(space.pagemap.get(), kernel_.absent_is_written);
  }
}

Space& SourceServer::space(std::uint32_t number) {
  const auto found = spaces_.find(number);
  if (found == spaces_.end()) fail("no address space {}", number);
  return found->second;
}

void SourceServer::set_areas(const proto::SetAreas& order) {
  Space& space = this->space(order.space());
  space.generation = order.generation();
  if (order.same()) {
    for (TrackedArea& area : space.areas) area.fresh = false;
    return;
  }
  space.areas = areas_of(order);
  forget_lost_pages(space.areas, space.sent);
  if (image_) image_->forget_lost(order.space(), space.areas);
}

ScanFindings SourceServer::scan(Space& space, const proto::SendRound& order) {
  ScanFindings findings;
  const ScanMode mode = order.final() ? ScanMode::kFinal : ScanMode::kRunning;
  if (!space.areas.empty()) require_alive(space.memory.get(), space.areas.front().range.start);
  if (space.held) space.held->settle();
  space.tracker->scan(space.areas, mode, space.sent, findings);
  for (const proto::PageSpan& span : order.extra()) findings.data.set(range_of(span));
  for (const proto::PageSpan& span : order.existing()) {
    PageBitmap absent;
    space.tracker->find_absent(range_of(span), absent);
    space.sent.for_each_run([&](const PageRange& run) { absent.clear(run); });
    absent.for_each_run([&](const PageRange& run) { findings.data.set(run); });
  }
  find_removed(order, space.sent, findings);
  // A dead address space has no written pages, which must not look like a converged round.
  if (!space.areas.empty()) require_alive(space.memory.get(), space.areas.front().range.start);
  for (TrackedArea& area : space.areas) area.fresh = false;
  return findings;
}

void SourceServer::read(Space& space, const ScanFindings& findings, PageReader& reader,
                        RoundProgress& progress) const {
  const std::span<const TrackedArea> areas = space.areas;
  // Runs of pages do not end where an area does; what is sent must.
  const auto split = [&](const PageBitmap& pages, auto take) {
    auto area = areas.begin();
    pages.for_each_run([&](const PageRange& run) {
      while (area != areas.end() && area->range.end <= run.start) ++area;
      for (auto each = area; each != areas.end() && each->range.start < run.end; ++each) {
        take(PageRange{std::max(run.start, each->range.start), std::min(run.end, each->range.end)},
             each->kind);
      }
    });
  };
  split(findings.zero, [&](const PageRange& run, AreaKind) { reader.add_zero(run); });
  split(findings.data, [&](PageRange run, AreaKind kind) {
    while (run.start < run.end) {
      const PageRange step{run.start,
                           run.start + std::min(run.pages(), progress.step_pages()) * kPageSize};
      reader.add_data(step, kind);
      progress.took(step.pages(), reader.statistics().bytes);
      run.start = step.end;
    }
  });
}

void SourceServer::report_scan(const proto::SendRound& order, const ScanFindings& findings,
                               std::int64_t scan_ns) {
  proto::PageReport report;
  proto::Scanned& scanned = *report.mutable_scanned();
  scanned.set_round(order.round());
  scanned.set_pages(findings.data.count());
  scanned.set_scan_ns(scan_ns);
  for (const PageRange& range : findings.untracked) {
    proto::PageSpan& span = *scanned.add_untracked();
    span.set_start(range.start);
    span.set_end(range.end);
  }
  link_.send(report);
}

FrameSink& SourceServer::sink() {
  if (image_) return *image_;
  return queue_ ? static_cast<FrameSink&>(*queue_) : *direct_;
}

void SourceServer::send_round(const proto::SendRound& order) {
  if (!stream_ && !image_) fail("a round before the start");
  Space& space = this->space(order.space());
  if (order.generation() != space.generation) {
    fail("round {} is of generation {}, the areas of {}", order.round(), order.generation(),
         space.generation);
  }
  // Pre-copy rounds must not push the service off a processor when it wakes up; the final round,
  // with the service standing still, may.
  background_ = !order.final();
  take_short_turns(background_);
  const std::int64_t start_ns = monotonic_ns();
  ScanFindings findings = scan(space, order);
  const std::int64_t scan_ns = monotonic_ns() - start_ns;
  if (!order.final()) report_scan(order, findings, scan_ns);
  std::uint64_t missing_pages = 0;
  std::uint64_t named_bytes = 0;
  if (order.lazy()) {
    LeftPages left = leave_for_later(order, space.areas, findings.data);
    named_bytes = name_missing(order, left.missing, sink());
    if (order.final()) {
      const auto readable = [&](Address page) { return is_readable(space.memory.get(), page); };
      leave_named(order, space.areas, space.named, readable, findings.data, left);
      missing_pages = left.missing.count();
      missing_.set(order.space(), left.missing);
      space.recent.for_each_run([&](const PageRange& run) { left.written.set(run); });
      missing_.put_first(order.space(), left.written);
    } else {
      const bool first = space.named.empty();
      take_index_pages(order, space.areas, space.named, space.memory.get(), left, findings.data);
      findings.data.for_each_run([&](const PageRange& run) { space.named.clear(run); });
      left.missing.for_each_run([&](const PageRange& run) {
        if (!first) space.recent.set(run);
        space.named.set(run);
        space.sent.clear(run);
      });
    }
  }
  if (order.copy_on_write() && space.held) space.held->hold(space.areas, findings.data);
  if (image_ && order.final()) image_->keep();
  PageReader reader(space.memory.get(), sink(), space.sent, order.space(), order.round(),
                    order.generation(), order.final());
  // What was named ahead and travels after all is heard of, whatever it holds.
  if (order.lazy()) reader.tell_zeros();
  if (tracker_ == TrackerKind::kSoftDirty) reader.compare_shared(space.contents);
  RoundProgress progress(link_, order.round(), order.final());
  read(space, findings, reader, progress);
  reader.finish();
  if (queue_) queue_->wait_drained();
  RoundStatistics statistics = reader.statistics();
  statistics.bytes += named_bytes;
  report_sent(order.round(), statistics, missing_pages, start_ns);
  if (order.final()) report_scan(order, findings, scan_ns);
}

void SourceServer::report_sent(std::uint32_t round, const RoundStatistics& statistics,
                               std::uint64_t missing_pages, std::int64_t began_ns) {
  proto::PageReport report;
  proto::RoundSent& sent = *report.mutable_round_sent();
  sent.set_round(round);
  sent.set_pages(statistics.pages);
  sent.set_zero_pages(statistics.zero_pages);
  sent.set_bytes(statistics.bytes);
  sent.set_missing_pages(missing_pages);
  sent.set_ns(monotonic_ns() - began_ns);
  link_.send(report);
}

// The thread serves until the destination hangs up, or this program ends.
void SourceServer::start_faults(PageServiceLink::Order& order) {
  const proto::StartFaults& start = order.order.start_faults();
  TlsStream stream = TlsStream::connect(take_fd(order, 0, "fault connection"), start.tls(),
                                        monotonic_ns() + kHandshakeNs);
  stream.write(std::as_bytes(std::span(start.page_token())), monotonic_ns() + kHandshakeNs);
  auto answers = std::make_shared<FaultAnswers>(
      link_, std::move(stream), missing_, turns_,
      [this](std::uint32_t number) { return space(number).memory.get(); });
  std::thread([this, answers] {
    try {
      answers->run();
    } catch (const Error& error) {
      die(link_, error.in("answering page faults").what());
    } catch (const std::exception& error) {
      die(link_, error.what());
    }
  }).detach();
  proto::PageReport report;
  report.mutable_ready();
  link_.send(report);
}

void SourceServer::leave_missing(const proto::LeaveMissing& order) {
  PageBitmap missing;
  for (const proto::PageSpan& span : order.spans()) missing.set(range_of(span));
  missing_.set(order.space(), missing);
}

// The task stands still for good, so that nothing is scanned again and nothing goes wrong with it.
void SourceServer::send_missing(const proto::SendMissing& order) try {
  constexpr std::uint64_t kStepPages = PageFrame::kDataPagesMax;
  background_ = true;
  behind_faults_ = true;
  take_short_turns(true);
  const std::int64_t start_ns = monotonic_ns();
  turns_.answered(start_ns);  // the task has only just begun, and will need this and that
  RoundStatistics sum;
  for (auto& [number, space] : spaces_) {
    PageReader reader(space.memory.get(), sink(), space.sent, number, order.round(),
                      space.generation, true);
    reader.tell_zeros();
    reader.follow();
    while (const auto range = missing_.take_next(number, kStepPages)) {
      reader.add_data(*range, AreaKind::kAnonymous);
    }
    reader.finish();
    sum.pages += reader.statistics().pages;
    sum.zero_pages += reader.statistics().zero_pages;
    sum.bytes += reader.statistics().bytes;
  }
  if (queue_) queue_->wait_drained();
  report_sent(order.round(), sum, 0, start_ns);
} catch (const Error& error) {
  die(link_, error.in("sending missing pages").what());
} catch (const std::exception& error) {
  die(link_, error.what());
}

void SourceServer::send(const PageFrame& frame) try {
  std::span<const std::byte> data = frame.data();
  if (data.empty()) {
    stream_->write(frame.head());
    return;
  }
  // The head is small and goes with the first piece of data.
  stream_->write_more(frame.head());
  while (!data.empty()) {
    std::uint64_t piece_bytes = std::min<std::uint64_t>(data.size(), limit_.piece_bytes());
    if (behind_faults_) {
      piece_bytes = std::min(piece_bytes, kPieceBehindFaultsBytes);
      await_little_in_flight(stream_->fd());
      turns_.take();
    }
    const auto piece = data.first(piece_bytes);
    const std::int64_t wait_ns = limit_.delay_ns(piece.size(), monotonic_ns());
    if (wait_ns > 0) {
      const timespec time{wait_ns / 1'000'000'000, wait_ns % 1'000'000'000};
      clock_nanosleep(CLOCK_MONOTONIC, 0, &time, nullptr);
    }
    stream_->write(piece);
    data = data.subspan(piece.size());
  }
} catch (const Error& error) {
  throw error.in("sending pages");
}

void SourceServer::write_frames() try {
  bool background = false;
  while (std::unique_ptr<PageFrame> frame = queue_->pop()) {
    if (background != background_) {
      background = background_;
      take_short_turns(background);
    }
    send(*frame);
    queue_->recycle(std::move(frame));
  }
} catch (const std::exception& error) {
  die(link_, error.what());
}

}  // namespace

int serve_source(PageServiceLink& link, const KernelFacts& kernel, WriteRing* ring) {
  SourceServer server(link, kernel, ring);
  while (auto order = link.receive_order()) {
    if (!server.carry_out(*order)) return link.has_failed() ? 1 : 0;
  }
  return 1;  // the agent is gone
}

}  // namespace godwit
