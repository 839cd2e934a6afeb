// What is warned of before anything is restored, and times that are set.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <cstring>

#include "common/kernel/processors.h"
#include "dest-agent/restore/credentials.h"
#include "dest-agent/restore/filesystem_context.h"
#include "dest-agent/restore/process_attributes.h"
#include "dest-agent/restore/rlimits.h"
#include "dest-agent/restore/threads.h"
#include "dest-agent/restore/timers.h"
#include "proto/snapshot.pb.h"

namespace godwit {
namespace {

TEST(RestoreChecks, NamesWhatTheDestinationLacks) {
  Findings findings;
  proto::Credentials credentials;
  credentials.set_capabilities_permitted(0b111);
  credentials.set_capabilities_bounding(0b111111);
  check_credentials({0b011, 0b001111}, credentials, findings);
  ASSERT_EQ(findings.size(), 2u);
  EXPECT_EQ(findings[0].id(), "capability-missing");
  EXPECT_EQ(findings[0].object(), "capabilities 2");
  EXPECT_EQ(findings[1].object(), "capabilities 4, 5");

  findings.clear();
  proto::Rlimits here;
  auto& limit = *here.add_limits();
  limit.set_resource(RLIMIT_NOFILE);
  limit.set_hard(10);
  proto::Rlimits want = here;
  want.mutable_limits(0)->set_hard(11);
  check_rlimits(here, want, false, findings);
  EXPECT_EQ(findings.size(), 1u);
  check_rlimits(here, here, false, findings);
  check_rlimits(here, want, true, findings);
  EXPECT_EQ(findings.size(), 1u);

  findings.clear();
  proto::FilesystemContext context;
  context.set_root("/");
  context.set_working_directory("/no/such/place");
  check_filesystem_context(context, findings);
  ASSERT_EQ(findings.size(), 1u);
  EXPECT_EQ(findings[0].id(), "directory-missing");

  findings.clear();
  proto::Thread thread;
  thread.mutable_scheduling()->add_cpus(0);
  thread.mutable_scheduling()->add_cpus(7);
  check_thread(thread, {0, 1}, findings);
  ASSERT_EQ(findings.size(), 1u);
  EXPECT_TRUE(findings[0].warning());
}

TEST(RestoreTimers, TimeThatPassedIsTakenOff) {
  proto::Timers timers;
  auto& timer = *timers.add_posix_timers();
  timer.set_remaining_ns(1000);
  timer.set_interval_ns(500);
  SyscallBatch batch;
  plan_timers_armed(timers, {}, 400, batch);
  plan_timers_armed(timers, {}, 5000, batch);
  itimerspec times[2];
  std::memcpy(&times[0], batch.data().data(), sizeof(itimerspec));
  std::memcpy(&times[1], batch.data().data() + sizeof(itimerspec), sizeof(itimerspec));
  EXPECT_EQ(times[0].it_value.tv_nsec, 600);
  EXPECT_EQ(times[1].it_value.tv_nsec, 1) << "a timer that ran out goes off at once";
  EXPECT_EQ(times[1].it_interval.tv_nsec, 500);
}

}  // namespace
}  // namespace godwit
