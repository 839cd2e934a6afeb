// What scheduling calls take: sets of processors (sched_setaffinity(2), /sys/devices/system/cpu),
// sched_setattr(2)'s structure, which this system's libc lacks, and a number of ioprio_get(2).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace godwit {

// Of ioprio_get(2) and ioprio_set(2): of one thread. <linux/ioprio.h> is C only in some versions.
inline constexpr int kIoPriorityOfThread = 1;  // IOPRIO_WHO_PROCESS

// struct sched_attr of sched_setattr(2). Of an ordinary task, runtime_ns is its slice.
struct SchedulingAttributes {
  std::uint32_t size = sizeof(SchedulingAttributes);
  std::uint32_t policy = 0;
  std::uint64_t flags = 0;
  std::int32_t nice = 0;
  std::uint32_t priority = 0;
  std::uint64_t runtime_ns = 0;
  std::uint64_t deadline_ns = 0;
  std::uint64_t period_ns = 0;
  std::uint32_t utilization_min = 0;
  std::uint32_t utilization_max = 0;
};

// Numbers in ascending order, from a mask of the kernel's (bit n of the whole is processor n).
std::vector<std::uint32_t> processors_of_mask(std::span<const std::byte> mask);
// The opposite; a whole number of 8-byte words, at least one.
std::vector<std::byte> mask_of_processors(std::span<const std::uint32_t> processors);
// "0-3,8": throws Error on anything else.
std::vector<std::uint32_t> parse_processor_list(std::string_view text);
// The processors of this host that are switched on.
std::vector<std::uint32_t> online_processors();

}  // namespace godwit
