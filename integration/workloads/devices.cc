// The devices without a state: null, zero, full, random, urandom.
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "integration/workloads/selfcheck.h"

using selfcheck::expect;
using selfcheck::expect_equal;
using selfcheck::must;

namespace {

struct Devices {
  int null = -1;
  int zero = -1;
  int full = -1;
  int random = -1;
  int urandom = -1;
  std::uint64_t last_random = 0;
};

void set_up(Devices& devices) {
  devices.null = must(open("/dev/null", O_RDWR | O_APPEND), "open null");
  devices.zero = must(open("/dev/zero", O_RDONLY), "open zero");
  devices.full = must(open("/dev/full", O_WRONLY | O_CLOEXEC), "open full");
  devices.random = must(open("/dev/random", O_RDONLY | O_NONBLOCK), "open random");
  devices.urandom = must(open("/dev/urandom", O_RDONLY), "open urandom");
}

void check_number(int fd, unsigned number, const std::string& name) {
  struct stat status {};
  must(fstat(fd, &status), "fstat");
  expect(S_ISCHR(status.st_mode) && status.st_rdev == makedev(1, number),
         name + " is another device");
}

void turn(Devices& devices) {
  char block[256] = {1};
  expect_equal(read(devices.null, block, sizeof block), 0, "reading null");
  expect_equal(write(devices.null, block, sizeof block), 256, "writing null");
  memset(block, 1, sizeof block);
  expect_equal(read(devices.zero, block, sizeof block), 256, "reading zero");
  for (const char byte : block) expect(byte == 0, "zero gave something else");
  expect(write(devices.full, block, 1) == -1 && errno == ENOSPC, "full is not full");
  std::uint64_t number = 0;
  expect_equal(read(devices.urandom, &number, sizeof number), 8, "reading urandom");
  expect(number != devices.last_random, "urandom repeats itself");
  devices.last_random = number;
  expect_equal(read(devices.random, &number, sizeof number), 8, "reading random");
  check_number(devices.null, 3, "null");
  check_number(devices.zero, 5, "zero");
  check_number(devices.full, 7, "full");
  check_number(devices.random, 8, "random");
  check_number(devices.urandom, 9, "urandom");
  expect((fcntl(devices.null, F_GETFL) & O_APPEND) != 0, "null lost O_APPEND");
  expect((fcntl(devices.random, F_GETFL) & O_NONBLOCK) != 0, "random lost O_NONBLOCK");
  expect_equal(fcntl(devices.full, F_GETFD), FD_CLOEXEC, "close-on-exec of full");
}

}  // namespace

int main(int argc, char** argv) {
  Devices devices;
  return selfcheck::run_workload(
      argc, argv, [&] { set_up(devices); }, [&] { turn(devices); }, [&] { turn(devices); });
}
