// The same writes under both trackers: which pages each finds, and what it costs. For a kernel that
// has both.
//
//   compare_trackers FILE
//
// FILE gets a JSON object: for each tracker the pages that it found, what its scans took, and what
// a first write to a page cost the writer. Exit code 0: in every round both found what was written,
// and nothing else; 1: they did not, said on standard error.
#include <fmt/format.h>

#include <cstdio>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "common/base/clock.h"
#include "common/base/error.h"
#include "common/tracking/soft_dirty_tracker.h"
#include "common/tracking/test_child.h"
#include "common/tracking/tracker_probe.h"
#include "common/tracking/write_protect_arm.h"
#include "common/tracking/write_protect_tracker.h"

namespace godwit {
namespace {

constexpr Address kBase = 0x2000'0000'0000;
constexpr std::uint64_t kPages = 16'384;
constexpr std::uint64_t kRewritten = 2'048;  // in one go, to see what a write costs
constexpr std::uint64_t kNewPages = 64;      // of a mapping that is made in each round
constexpr int kRounds = 8;

using Pages = std::set<Address>;

PageRange pages(std::uint64_t first, std::uint64_t count) {
  return {kBase + first * kPageSize, kBase + (first + count) * kPageSize};
}

void add(const PageRange& range, Pages& to) {
  for (Address page = range.start; page < range.end; page += kPageSize) to.insert(page);
}

struct Costs {
  std::uint64_t pages = 0;
  std::int64_t first_scan_ns = 0;
  std::int64_t scans_ns = 0;
  std::int64_t writes_ns = 0;
};

// A child whose memory is written to in a way that the seed decides, and a tracker that watches it.
class Run {
 public:
  explicit Run(TrackerKind kind);

  // Writes, scans and compares. Throws Error when what was found is not what was written.
  void first_round();
  void round();
  const Costs& costs() const { return costs_; }

 private:
  void watch(const PageRange& range);
  void write_some();
  void make_mapping();
  void scan(const char* what);

  testing::TestChild child_;
  UniqueFd uffd_;
  UniqueFd clear_refs_;
  std::unique_ptr<DirtyTracker> tracker_;
  std::vector<TrackedArea> areas_;
  std::uint64_t mapped_pages_ = kPages;
  PageBitmap sent_;
  Pages data_;  // written since the last scan
  Pages zero_;  // given back since, and there before
  std::mt19937_64 random_{1};
  Costs costs_;
};

Run::Run(TrackerKind kind) {
  if (kind == TrackerKind::kWriteProtect) {
    uffd_ = child_.uffd(kUffdWriteProtectAsync | kUffdWriteProtectUnpopulated);
    tracker_ =
        std::make_unique<WriteProtectTracker>(child_.pagemap_fd(), probe_absent_is_written());
  } else {
    clear_refs_ = open_file(fmt::format("/proc/{}/clear_refs", child_.pid()), O_WRONLY);
    tracker_ = std::make_unique<SoftDirtyTracker>(child_.pagemap_fd(), clear_refs_.get(),
                                                  probe_zero_frames());
  }
}

void Run::watch(const PageRange& range) {
  areas_.push_back({range, AreaKind::kAnonymous, true});
  if (!uffd_.valid()) return;
  const std::vector<PageRange> ranges{range};
  if (!arm_write_protect(uffd_.get(), ranges).empty()) fail("a new mapping could not be armed");
}

void Run::scan(const char* what) {
  ScanFindings found;
  const std::int64_t began = monotonic_ns();
  tracker_->scan(areas_, ScanMode::kRunning, sent_, found);
  const std::int64_t took = monotonic_ns() - began;
  (costs_.pages == 0 ? costs_.first_scan_ns : costs_.scans_ns) += took;
  Pages data, zero;
  found.zero.for_each_run([&](const PageRange& run) { add(run, zero), sent_.clear(run); });
  found.data.for_each_run([&](const PageRange& run) { add(run, data), sent_.set(run); });
  if (data != data_ || zero != zero_) {
    fail("{}: {} pages of data and {} given back were found, {} and {} were made", what,
         data.size(), zero.size(), data_.size(), zero_.size());
  }
  costs_.pages += data.size() + zero.size();
  for (TrackedArea& area : areas_) area.fresh = false;
  data_.clear();
  zero_.clear();
}

void Run::first_round() {
  child_.map(pages(0, kPages));
  child_.fill(pages(0, kPages / 2), 1);  // the rest comes later
  add(pages(0, kPages / 2), data_);
  watch(pages(0, kPages));
  scan("first round");
}

// Each page has one fate in a round.
void Run::write_some() {
  for (int i = 0; i < 300; ++i) {
    const PageRange page = pages(kRewritten + random_() % (kPages - kRewritten), 1);
    if (data_.contains(page.start) || zero_.contains(page.start)) continue;
    const std::uint64_t fate = random_() % 10;
    if (fate == 0) {
      child_.zap(page);
      if (sent_.contains(page.start)) zero_.insert(page.start);
    } else {
      if (fate == 1) child_.clear(page);
      if (fate > 1) child_.fill(page, random_());
      data_.insert(page.start);
    }
  }
}

void Run::make_mapping() {
  const PageRange made = pages(mapped_pages_ + 16, kNewPages);
  mapped_pages_ += 16 + kNewPages;
  child_.map(made);
  child_.fill(pages((made.start - kBase) / kPageSize, kNewPages / 2), random_());
  add({made.start, made.start + made.bytes() / 2}, data_);
  watch(made);
}

void Run::round() {
  const std::int64_t began = monotonic_ns();
  child_.fill(pages(0, kRewritten), random_());
  costs_.writes_ns += monotonic_ns() - began;
  add(pages(0, kRewritten), data_);
  write_some();
  make_mapping();
  scan("later round");
  scan("round in which nothing was written");
}

// The same write where nobody watches.
std::int64_t untracked_writes_ns() {
  testing::TestChild child;
  child.map(pages(0, kRewritten));
  child.fill(pages(0, kRewritten), 1);
  const std::int64_t began = monotonic_ns();
  for (int round = 0; round < kRounds; ++round) child.fill(pages(0, kRewritten), 2);
  return monotonic_ns() - began;
}

nlohmann::json told(const Costs& costs, std::int64_t untracked_ns) {
  const double written = static_cast<double>(kRounds) * kRewritten;
  return {{"pages", costs.pages},
          {"first_scan_ms", static_cast<double>(costs.first_scan_ns) / 1e6},
          {"scan_ms", static_cast<double>(costs.scans_ns) / 1e6 / (2 * kRounds)},
          {"write_us", static_cast<double>(costs.writes_ns - untracked_ns) / 1e3 / written}};
}

void compare(const char* path) {
  nlohmann::json all;
  const std::int64_t untracked_ns = untracked_writes_ns();
  for (const TrackerKind kind : {TrackerKind::kWriteProtect, TrackerKind::kSoftDirty}) {
    if (!probe_tracker(kind)) fail("this kernel has no {}", tracker_name(kind));
    in_context(
        [&] {
          Run run(kind);
          run.first_round();
          for (int round = 0; round < kRounds; ++round) run.round();
          all[std::string(tracker_name(kind))] = told(run.costs(), untracked_ns);
        },
        "{}", tracker_name(kind));
  }
  std::ofstream(path) << all.dump() << '\n';
}

}  // namespace
}  // namespace godwit

int main(int argc, char** argv) {
  if (argc != 2) {
    fmt::print(stderr, "usage: {} FILE\n", argv[0]);
    return 2;
  }
  try {
    godwit::compare(argv[1]);
    return 0;
  } catch (const godwit::Error& error) {
    fmt::print(stderr, "{}\n", error.what());
    return 1;
  }
}
