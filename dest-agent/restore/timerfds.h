// timerfd_create(2), made and armed inside the skeleton, whose time namespace counts.
//
// Change class: replace; armed in the blackout. Deadlines are on the clock as the process sees it,
// which goes on at the destination: what the blackout took is not added to a timer, and periodic
// timers keep their phase.
#pragma once

#include <cstdint>
#include <vector>

#include "common/kernel/time_namespace.h"
#include "common/remote/remote_task.h"
#include "common/remote/syscall_batch.h"
#include "proto/fd_table.pb.h"

namespace godwit {

RowResult append_timerfd(SyscallBatch& batch, const proto::OpenFile& file);

// What is passed to timerfd_settime and TFD_IOC_SET_TICKS. Times in nanoseconds.
struct TimerSetting {
  int flags = 0;
  std::int64_t value_ns = 0;
  std::int64_t interval_ns = 0;
  std::uint64_t ticks = 0;
};
// `now_ns`: the timer's clock as the process sees it.
TimerSetting timer_setting(const proto::TimerFd& want, std::int64_t now_ns);

// Arms those at the descriptors that are their ids, and sets their counts of expirations. Throws
// Error.
void arm_timerfds(RemoteTask& task, std::vector<const proto::OpenFile*> files,
                  const TimeOffsets& offsets);

}  // namespace godwit
