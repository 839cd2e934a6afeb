#include "page-server/fault_service.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <thread>
#include <vector>

#include "common/base/clock.h"
#include "common/base/error.h"
#include "page-server/answering_precedence.h"
#include "page-server/page_server.h"

namespace godwit {
namespace {

constexpr std::int64_t kReportEveryNs = 100'000'000;
constexpr std::int64_t kReportAloneEveryNs = 1'000'000'000;
// As long as a fault may wait for the lock.
constexpr std::uint64_t kPiecePages = 16;

}  // namespace

FaultService::FaultService(PageServiceLink& link) : link_(link) {
  memory_.tell_children([this](std::uint32_t parent, int uffd) { tell_child(parent, uffd); });
}

void FaultService::connect(TlsStream stream) {
  if (std::exchange(connected_, true)) fail("a second connection for page faults");
  {
    const std::lock_guard lock(mutex_);
    arrived_.emplace(std::move(stream));
    if (running_) wake_thread();
  }
  start();
}

void FaultService::take_connection() {
  const std::lock_guard lock(mutex_);
  if (arrived_) stream_ = std::exchange(arrived_, std::nullopt);
}

void FaultService::answer_from(const ImagePages& image) {
  if (connected_ || running_) fail("page faults are answered already");
  image_.emplace(image);
}

void FaultService::serve(std::uint32_t space, UniqueFd uffd, PageBitmap missing,
                         MissingLedger ledger) {
  if (!connected_ && !image_) fail("faults are to be served before their connection is there");
  {
    const std::lock_guard lock(mutex_);
    open_signal();
    memory_.keep_ledger(std::move(ledger));
    memory_.add(space, std::move(uffd), std::move(missing));
  }
  start();
}

void FaultService::resume(std::vector<LazyMemory::Held> held, MissingLedger ledger) {
  {
    const std::lock_guard lock(mutex_);
    open_signal();
    memory_.resume(std::move(held), std::move(ledger));
  }
  start();
}

proto::StillMissing FaultService::name_missing() const {
  proto::StillMissing answer;
  const auto put = [](const PageRange& range, proto::PageSpan& span) {
    span.set_start(range.start);
    span.set_end(range.end);
  };
  const std::lock_guard lock(mutex_);
  memory_.missing_at_source(0).for_each_run(
      [&](const PageRange& run) { put(run, *answer.add_spans()); });
  for (const LazyMemory::Missing& missing : memory_.name_missing()) {
    proto::MissingSpace& space = *answer.add_spaces();
    space.set_index(static_cast<std::uint32_t>(missing.space));
    for (const PageRange& range : missing.ranges) put(range, *space.add_spans());
    for (const auto& [thread, page] : missing.waiting) {
      proto::WaitingThread& waiting = *space.add_waiting();
      waiting.set_thread(thread);
      waiting.set_page(page);
    }
  }
  return answer;
}

proto::MissingPoisoned FaultService::poison() {
  const std::lock_guard lock(mutex_);
  const LazyMemory::Poisoned poisoned = memory_.poison();
  if (placed_.valid()) wake_thread();
  proto::MissingPoisoned answer;
  answer.set_pages(poisoned.pages);
  answer.set_error(poisoned.code);
  return answer;
}

void FaultService::open_signal() {
  placed_.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!placed_.valid()) throw_system("eventfd");
}

void FaultService::start() {
  {
    const std::lock_guard lock(mutex_);
    if (memory_.spaces() == 0 || std::exchange(running_, true)) return;
  }
  std::thread([this] { run(); }).detach();
}

void FaultService::tell_child(std::uint32_t parent, int uffd) {
  proto::PageReport report;
  report.mutable_forked_space()->set_parent(parent);
  link_.send(report, std::span(&uffd, 1));
}

bool FaultService::serves(std::uint32_t space) const {
  const std::lock_guard lock(mutex_);
  return memory_.has(space) || complete_;
}

void FaultService::run() try {
  AnsweringPrecedence precedence(link_);
  report();
  for (;;) {
    precedence.look();
    take_connection();
    const bool answered = wait_for_answer();
    {
      const auto turn = take_turn();
      memory_.serve();
    }
    ask();
    if (answered) {
      if (!receive_frame(*stream_, answer_))
        fail("the source closed the connection for page faults");
      answer_.verify();
      {
        const std::lock_guard lock(mutex_);
        fault_bytes_ += answer_.wire_bytes();
      }
      place_pieces(answer_);
      ask();
    }
    if (is_done()) return;
    const std::int64_t every_ns = stream_ || image_ ? kReportEveryNs : kReportAloneEveryNs;
    if (monotonic_ns() - reported_ns_ >= every_ns) report();
  }
} catch (const Error& error) {
  die(link_, error.in("serving page faults").what());
} catch (const std::exception& error) {
  die(link_, error.what());
}

bool FaultService::wait_for_answer() {
  int timeout_ms = kReportEveryNs / 1'000'000;
  std::vector<pollfd> waits{{stream_ ? stream_->fd() : -1, POLLIN, 0}, {placed_.get(), POLLIN, 0}};
  {
    const std::lock_guard lock(mutex_);
    for (const int fd : memory_.descriptors()) waits.push_back({fd, POLLIN, 0});
    polled_ = memory_.spaces();
    if (memory_.awaits_layout()) timeout_ms = 1;
  }
  const bool pending = stream_ && stream_->has_pending();
  if (pending) timeout_ms = 0;
  if (::poll(waits.data(), waits.size(), timeout_ms) < 0 && errno != EINTR) throw_system("poll");
  std::uint64_t count = 0;
  if ((waits[1].revents & POLLIN) != 0 && ::read(placed_.get(), &count, sizeof(count)) < 0)
    count = 0;
  return stream_ && (pending || waits[0].revents != 0);
}

void FaultService::ask() {
  if (!stream_ && !image_) return;
  for (;;) {
    std::optional<FaultRequest> request;
    {
      const std::lock_guard lock(mutex_);
      request = memory_.take_request();
      if (request) ++faults_;
    }
    if (!request) return;
    if (image_) {
      answer_from_image(*request);
    } else {
      stream_->write(encode_fault_request(*request));
    }
  }
}

void FaultService::answer_from_image(const FaultRequest& request) {
  turns_.answered(monotonic_ns());
  const auto place = [&](const PageRange& range, const std::byte* data) {
    place_piecewise(request.space, range, data);
    const auto turn = take_turn();
    fault_bytes_ += range.bytes();
    memory_.serve();
    return !memory_.has_requests();
  };
  const auto give_up = [&](const PageRange& range, const Error& why) {
    lose(request.space, range, why);
  };
  image_->answer(request, {place, give_up});
}

bool FaultService::misses(std::uint32_t space, const PageRange& range) const {
  const std::lock_guard lock(mutex_);
  return memory_.misses(space, range);
}

void FaultService::place(std::uint32_t space, const PageRange& range, const std::byte* data) {
  {
    const std::lock_guard lock(mutex_);
    background_bytes_ += range.bytes();
  }
  place_piecewise(space, range, data);
  tell_placed();
}

void FaultService::lose(std::uint32_t space, const PageRange& range, const Error& why) {
  proto::PageReport report;
  proto::LostPages& lost = *report.mutable_lost_pages();
  {
    const auto turn = take_turn();
    if (!memory_.misses(space, range)) return;
    lost.set_poisoned(memory_.lose(space, range));
  }
  lost.set_space(space);
  lost.set_start(range.start);
  lost.set_end(range.end);
  lost.set_story(why.what());
  link_.send(report);
  tell_placed();
}

void FaultService::place(const PageFrame& frame) {
  {
    const std::lock_guard lock(mutex_);
    background_bytes_ += frame.wire_bytes();
  }
  place_pieces(frame);
  tell_placed();
}

void FaultService::tell_placed() {
  {
    const std::lock_guard lock(mutex_);
    const bool same = memory_.spaces() == polled_ && !memory_.awaits_layout();
    if (same && !memory_.has_requests() && !memory_.done()) return;
  }
  wake_thread();  // what was met on the way is the other thread's
}

void FaultService::wake_thread() {
  const std::uint64_t one = 1;
  if (::write(placed_.get(), &one, sizeof(one)) < 0 && errno != EAGAIN) throw_system("eventfd");
}

// In turns: who places one piece after the other does not keep a fault waiting for more than one.
std::unique_lock<std::mutex> FaultService::take_turn() {
  const std::lock_guard next(next_);
  return std::unique_lock(mutex_);
}

void FaultService::place_pieces(const PageFrame& frame) {
  frame.for_each_run([&](const PageFrame::Run& run) {
    place_piecewise(frame.space(), run.range, run.zero ? nullptr : run.data);
  });
}

void FaultService::place_piecewise(std::uint32_t space, const PageRange& range,
                                   const std::byte* data) {
  for (Address at = range.start; at < range.end;) {
    const Address end = std::min(range.end, at + kPiecePages * kPageSize);
    const auto turn = take_turn();
    memory_.place(space, {at, end}, data == nullptr ? nullptr : data + (at - range.start));
    at = end;
  }
}

void FaultService::report() {
  proto::PageReport message;
  proto::MissingPages& news = *message.mutable_missing_pages();
  {
    const std::lock_guard lock(mutex_);
    if (!stream_) memory_.notice_ended();
    news.set_missing_pages(memory_.done() ? 0 : memory_.missing_pages());
    news.set_faults(faults_);
    news.set_zero_faults(memory_.zero_faults());
    news.set_fault_bytes(fault_bytes_);
    news.set_background_bytes(background_bytes_);
    const LatencyHistogram& latencies = memory_.latencies();
    news.set_latency_p50_ns(latencies.quantile_ns(0.5));
    news.set_latency_p99_ns(latencies.quantile_ns(0.99));
    news.set_latency_max_ns(latencies.max_ns());
    latencies.for_each_count([&](std::int64_t below_ns, std::uint64_t count) {
      proto::LatencyCount& latency = *news.add_latencies();
      latency.set_below_ns(below_ns);
      latency.set_count(count);
    });
  }
  reported_ns_ = monotonic_ns();
  link_.send(message);
}

// Without descriptors what is touched for the first time is the kernel's to answer again.
bool FaultService::is_done() {
  {
    const std::lock_guard lock(mutex_);
    if (!memory_.done()) return false;
    complete_ = true;
  }
  report();
  const std::lock_guard lock(mutex_);
  memory_.close();
  return true;
}

}  // namespace godwit
