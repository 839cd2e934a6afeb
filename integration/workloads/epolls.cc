// epoll: level and edge triggered and one-shot targets, data, a set within a set, a thread that
// blocks in epoll_wait, targets that come and go.
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <map>
#include <thread>

#include "integration/workloads/selfcheck.h"

using selfcheck::expect;
using selfcheck::expect_equal;
using selfcheck::must;

namespace {

struct Sets {
  int outer = -1;
  int inner = -1;  // a target of outer
  int level = -1;  // always ready
  int edge = -1;
  int once = -1;     // EPOLLONESHOT, ready while it is not armed
  int quiet = -1;    // never ready
  int passing = -1;  // added and removed
  int blocked = -1;  // set that a thread waits in
  int wake = -1;
  int woken = -1;
  std::uint64_t turns = 0;
  std::thread waiter;
};

constexpr std::uint64_t kLevel = 0x1111222233334444;
constexpr std::uint64_t kEdge = 0xfedcba9876543210;
constexpr std::uint64_t kOnce = 3;
constexpr std::uint64_t kQuiet = 4;
constexpr std::uint64_t kPassing = 5;

void control(int set, int operation, int fd, std::uint32_t events, std::uint64_t data) {
  epoll_event event{};
  event.events = events;
  event.data.u64 = data;
  must(epoll_ctl(set, operation, fd, &event), "epoll_ctl of " + std::to_string(data));
}

std::map<std::uint64_t, std::uint32_t> ready(int set) {
  epoll_event events[16];
  const int count = must(epoll_wait(set, events, 16, 0), "epoll_wait");
  std::map<std::uint64_t, std::uint32_t> out;
  for (int i = 0; i < count; ++i) {
    // Copies: the members are packed.
    const std::uint64_t data = events[i].data.u64;
    const std::uint32_t mask = events[i].events;
    expect(out.emplace(data, mask).second, "a target was reported twice");
  }
  return out;
}

void wait_for_ever(const Sets& sets) {
  for (;;) {
    epoll_event event{};
    const int count = epoll_wait(sets.blocked, &event, 1, -1);
    if (count == -1 && errno == EINTR) continue;
    expect_equal(count, 1, "epoll_wait in the thread");
    expect_equal(std::uint64_t{event.data.u64}, 99U, "data in the thread");
    std::uint64_t value = 0;
    must(eventfd_read(sets.wake, &value), "read");
    if (value > 1000) return;
    must(eventfd_write(sets.woken, value), "write");
  }
}

void set_up(Sets& sets) {
  sets.outer = must(epoll_create1(EPOLL_CLOEXEC), "epoll_create");
  sets.inner = must(epoll_create1(0), "epoll_create");
  for (int* fd :
       {&sets.level, &sets.edge, &sets.once, &sets.quiet, &sets.passing, &sets.wake, &sets.woken}) {
    *fd = must(eventfd(0, 0), "eventfd");
  }
  must(eventfd_write(sets.level, 1), "write");
  control(sets.inner, EPOLL_CTL_ADD, sets.level, EPOLLIN, kLevel);
  control(sets.inner, EPOLL_CTL_ADD, sets.edge, EPOLLIN | EPOLLET, kEdge);
  control(sets.inner, EPOLL_CTL_ADD, sets.once, EPOLLIN | EPOLLONESHOT, kOnce);
  control(sets.inner, EPOLL_CTL_ADD, sets.quiet, EPOLLIN | EPOLLPRI | EPOLLRDHUP, kQuiet);
  control(sets.outer, EPOLL_CTL_ADD, sets.inner, EPOLLIN, 1);
  must(eventfd_write(sets.once, 1), "write");
  expect(ready(sets.inner).count(kOnce) == 1, "the one-shot target does not report");
  sets.blocked = must(epoll_create1(0), "epoll_create");
  control(sets.blocked, EPOLL_CTL_ADD, sets.wake, EPOLLIN, 99);
  sets.waiter = std::thread([&] { wait_for_ever(sets); });
}

void turn(Sets& sets) {
  expect(ready(sets.outer) == (std::map<std::uint64_t, std::uint32_t>{{1, EPOLLIN}}),
         "the outer set");
  auto found = ready(sets.inner);
  expect(found.count(kLevel) == 1 && found[kLevel] == EPOLLIN,
         "the level-triggered target is silent");
  expect(found.count(kOnce) == 0, "the one-shot target reports without being armed");
  expect(found.count(kQuiet) == 0, "the quiet target reports");
  // After a move an edge that was reported may be reported once more, no more than that.
  must(eventfd_write(sets.edge, 1), "write");
  found = ready(sets.inner);
  expect(found.count(kEdge) == 1, "an edge is lost");
  std::uint64_t value = 0;
  must(eventfd_read(sets.edge, &value), "read");
  if (sets.turns % 8 == 7) {
    control(sets.inner, EPOLL_CTL_MOD, sets.once, EPOLLIN | EPOLLONESHOT, kOnce);
    expect(ready(sets.inner).count(kOnce) == 1,
           "the one-shot target does not report when armed again");
  }
  if (sets.turns % 2 == 0) {
    control(sets.inner, EPOLL_CTL_ADD, sets.passing, EPOLLOUT, kPassing);
  } else {
    expect(ready(sets.inner).count(kPassing) == 1, "the target that was added is silent");
    control(sets.inner, EPOLL_CTL_DEL, sets.passing, 0, 0);
    expect(epoll_ctl(sets.inner, EPOLL_CTL_DEL, sets.passing, nullptr) == -1 && errno == ENOENT,
           "the target that was removed is still there");
  }
  must(eventfd_write(sets.wake, sets.turns % 100 + 1), "write");
  must(eventfd_read(sets.woken, &value), "read");
  expect_equal(value, sets.turns % 100 + 1, "what the thread was woken for");
  ++sets.turns;
}

void final_check(Sets& sets) {
  turn(sets);
  must(eventfd_write(sets.quiet, 1), "write");
  expect(ready(sets.inner)[kQuiet] == EPOLLIN, "the quiet target stays silent");
  must(eventfd_write(sets.wake, 5000), "write");
  sets.waiter.join();
}

}  // namespace

int main(int argc, char** argv) {
  Sets sets;
  return selfcheck::run_workload(
      argc, argv, [&] { set_up(sets); }, [&] { turn(sets); }, [&] { final_check(sets); });
}
