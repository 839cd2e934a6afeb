#include "source-agent/capture/thread_watch.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>

#include "common/kernel/fd_limit.h"
#include "common/kernel/processors.h"

namespace godwit {
namespace {

// Before it sleeps. Going back into a call takes 5 us, 50 where pages are looked at meanwhile.
constexpr std::int64_t kRanMaxNs = 100'000;
constexpr std::size_t kFilesPerThread = 3;
constexpr std::size_t kNameBytes = 16;
constexpr std::size_t kCpuBytes = 1024;  // 8,192 processors

}  // namespace

ThreadWatch::ThreadWatch(pid_t host_pid, pid_t host_tid, bool with_files) : host_tid_(host_tid) {
  if (!with_files) return;
  counter_.emplace(host_pid, host_tid);
  name_ = try_open_file(fmt::format("/proc/{}/task/{}/comm", host_pid, host_tid), O_RDONLY);
}

std::string ThreadWatch::from_outside() const {
  SchedulingAttributes attributes;
  std::array<char, kCpuBytes> cpus;
  std::array<char, kNameBytes> name;
  const auto id = static_cast<long>(host_tid_);
  const long priority = ::syscall(SYS_ioprio_get, kIoPriorityOfThread, id);
  const long cpu_bytes = ::syscall(SYS_sched_getaffinity, id, cpus.size(), cpus.data());
  const auto name_bytes =
      name_.valid() ? ::pread(name_.get(), name.data(), name.size(), 0) : ssize_t{-1};
  if (::syscall(SYS_sched_getattr, id, &attributes, sizeof attributes, 0) != 0 || priority < 0 ||
      cpu_bytes <= 0 || name_bytes <= 0) {
    return {};
  }
  std::string all;
  all.reserve(sizeof attributes + sizeof priority + static_cast<std::size_t>(cpu_bytes) +
              name.size());
  all.append(reinterpret_cast<const char*>(&attributes), sizeof attributes);
  all.append(reinterpret_cast<const char*>(&priority), sizeof priority);
  all.append(cpus.data(), static_cast<std::size_t>(cpu_bytes));
  all.append(name.data(), static_cast<std::size_t>(name_bytes));
  return all;
}

void ThreadWatch::begin_look() {
  ran_.reset();
  outside_ = from_outside();
}

void ThreadWatch::end_look() {
  if (!counter_) return;
  const auto slept = counter_->sleeps();
  if (slept) ran_ = counter_->read();
  slept_ = slept.value_or(0);
  owed_ = 1;
}

// Each sleep ends a slice. More slices: somebody else needed the processor, or it slept once more.
std::optional<RunCount> ThreadWatch::after(std::uint64_t sleeps) const {
  const auto now = counter_->read();
  const auto ran_max_ns = static_cast<std::int64_t>(sleeps) * kRanMaxNs;
  if (!now || now->ran_ns > ran_->ran_ns + ran_max_ns) return std::nullopt;
  const bool may_have_slept_more = now->slices != ran_->slices + sleeps;
  if (may_have_slept_more && counter_->sleeps() != slept_ + sleeps) return std::nullopt;
  return now;
}

bool ThreadWatch::follow(int stops) {
  constexpr std::uint64_t kSleepsOfAStop = 2;  // the stop, and going back
  const std::uint64_t sleeps = owed_ + static_cast<std::uint64_t>(stops) * kSleepsOfAStop;
  if (ran_) ran_ = after(sleeps);
  slept_ += sleeps;
  owed_ = 0;
  return ran_.has_value();
}

bool ThreadWatch::may_have_changed() const {
  return !ran_ || outside_.empty() || !after(owed_ + 1) || from_outside() != outside_;
}

std::size_t ThreadWatch::watched_max() { return descriptors_for_watches() / kFilesPerThread; }

}  // namespace godwit
