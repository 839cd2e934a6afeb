// Resource limits, soft and hard, unlike anybody's default.
#include <sys/resource.h>

#include <algorithm>
#include <map>

#include "integration/workloads/selfcheck.h"

namespace {

using selfcheck::expect_equal;
using selfcheck::must;

std::map<int, rlimit> wanted;

rlimit get(int resource) {
  rlimit limit{};
  must(getrlimit(static_cast<__rlimit_resource>(resource), &limit), "getrlimit");
  return limit;
}

// Never above what we were given: raising a hard limit is a privilege.
void lower(int resource, rlim_t soft, rlim_t hard) {
  const rlimit old = get(resource);
  const rlimit limit{std::min({soft, hard, old.rlim_max}), std::min(hard, old.rlim_max)};
  must(setrlimit(static_cast<__rlimit_resource>(resource), &limit), "setrlimit");
}

void set_up() {
  lower(RLIMIT_NOFILE, 123, 456);
  lower(RLIMIT_CORE, 4096, 1 << 20);
  lower(RLIMIT_STACK, 4 << 20, 16 << 20);
  lower(RLIMIT_FSIZE, 1 << 30, 1UL << 31);
  lower(RLIMIT_NPROC, 5000, 6000);
  lower(RLIMIT_MEMLOCK, 64 << 10, 128 << 10);
  lower(RLIMIT_SIGPENDING, 77, 99);
  lower(RLIMIT_MSGQUEUE, 1000, 2000);
  lower(RLIMIT_CPU, 100'000, 200'000);
  for (int resource = 0; resource < static_cast<int>(RLIM_NLIMITS); ++resource) {
    wanted[resource] = get(resource);
  }
}

void turn() {
  for (const auto& [resource, limit] : wanted) {
    const rlimit now = get(resource);
    const std::string name = "limit " + std::to_string(resource);
    expect_equal(now.rlim_cur, limit.rlim_cur, name + ", soft");
    expect_equal(now.rlim_max, limit.rlim_max, name + ", hard");
  }
}

}  // namespace

int main(int argc, char** argv) {
  return selfcheck::run_workload(argc, argv, set_up, turn, [] {});
}
