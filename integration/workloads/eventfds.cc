// eventfd: counts, semaphores, a thread that blocks in read.
#include <poll.h>
#include <sys/eventfd.h>

#include <thread>

#include "integration/workloads/selfcheck.h"

using selfcheck::expect;
using selfcheck::expect_equal;
using selfcheck::must;

namespace {

constexpr std::uint64_t kBig = 0xfffffffffffffff0;  // close to the most an eventfd takes

struct Events {
  int counter = -1;  // always holds something
  int semaphore = -1;
  int big = -1;      // almost full
  int request = -1;  // a thread blocks in read
  int reply = -1;
  std::uint64_t count = 0;
  std::uint64_t tokens = 1000;
  std::thread worker;
};

void add(int fd, std::uint64_t value) { must(eventfd_write(fd, value), "eventfd_write"); }

std::uint64_t take(int fd) {
  std::uint64_t value = 0;
  must(eventfd_read(fd, &value), "eventfd_read");
  return value;
}

bool readable(int fd) {
  pollfd entry{fd, POLLIN, 0};
  return must(poll(&entry, 1, 0), "poll") == 1;
}

void work(const Events& events) {
  for (;;) {
    const std::uint64_t value = take(events.request);
    if (value > 1'000'000) return;
    add(events.reply, value * 2);
  }
}

void set_up(Events& events) {
  events.counter = must(eventfd(3, EFD_NONBLOCK | EFD_CLOEXEC), "eventfd");
  events.count = 3;
  events.semaphore = must(eventfd(1000, EFD_SEMAPHORE), "eventfd");
  events.big = must(eventfd(0, EFD_NONBLOCK), "eventfd");
  add(events.big, kBig);
  events.request = must(eventfd(0, 0), "eventfd");
  events.reply = must(eventfd(0, 0), "eventfd");
  events.worker = std::thread([&] { work(events); });
}

void turn(Events& events) {
  const std::uint64_t step = events.count % 17 + 1;
  expect(readable(events.counter), "the counter is empty");
  expect_equal(take(events.counter), events.count, "the counter");
  expect(!readable(events.counter), "the counter is not empty after a read");
  add(events.counter, 2);
  add(events.counter, step);
  events.count = step + 2;
  expect_equal(take(events.semaphore), 1U, "one token");
  if (--events.tokens == 500) {
    add(events.semaphore, 500);
    events.tokens += 500;
  }
  const std::uint64_t more = 1000;
  expect(write(events.big, &more, sizeof more) == -1 && errno == EAGAIN, "the big one is not full");
  add(events.request, step);
  expect_equal(take(events.reply), step * 2, "the thread's reply");
  expect((fcntl(events.counter, F_GETFL) & O_NONBLOCK) != 0, "the counter lost O_NONBLOCK");
  expect((fcntl(events.semaphore, F_GETFL) & O_NONBLOCK) == 0, "the semaphore does not block");
}

void final_check(Events& events) {
  expect_equal(take(events.big), kBig, "the big count");
  while (events.tokens > 0) {
    expect_equal(take(events.semaphore), 1U, "one token");
    --events.tokens;
  }
  expect(!readable(events.semaphore), "more tokens than there were");
  add(events.request, 2'000'000);
  events.worker.join();
}

}  // namespace

int main(int argc, char** argv) {
  Events events;
  return selfcheck::run_workload(
      argc, argv, [&] { set_up(events); }, [&] { turn(events); }, [&] { final_check(events); });
}
