#include "source-agent/task_userfaultfd.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>

#include "common/base/error.h"
#include "common/base/log.h"
#include "common/base/scope_exit.h"
#include "common/kernel/fd_passing.h"
#include "common/tracking/blocking_tracker.h"

namespace godwit {
namespace {

// Linux 6.1; the C library's headers are older.
constexpr unsigned long kMakeUserfaultfd = _IO(0xAA, 0x00);  // USERFAULTFD_IOC_NEW
constexpr int kFlags = O_CLOEXEC | O_NONBLOCK;

void close_in(RemoteTask& task, std::initializer_list<std::int64_t> numbers) {
  SyscallBatch batch;
  for (const std::int64_t number : numbers) batch.add_may_fail(SYS_close, {number});
  task.run(batch);
}

UniqueFd take_out(RemoteTask& task, std::int64_t number) {
  const ScopeExit close([&] { close_in(task, {number}); });
  return task.copy_fd(static_cast<int>(number));
}

// One message of one byte with a descriptor, as send_fd() makes it; where the latter stands then.
DataAt receive_in(RemoteTask& task, SyscallBatch& batch, std::int64_t socket) {
  const DataAt byte = batch.reserve(sizeof(std::uint64_t));
  const DataAt vector = batch.reserve(sizeof(iovec));
  const DataAt control = batch.reserve(CMSG_SPACE(sizeof(int)));
  const DataAt message = batch.reserve(sizeof(msghdr));
  const Address data = task.data_address(batch);
  batch.set_value(vector, iovec{reinterpret_cast<void*>(data + byte.offset), 1});
  msghdr header{};
  header.msg_iov = reinterpret_cast<iovec*>(data + vector.offset);
  header.msg_iovlen = 1;
  header.msg_control = reinterpret_cast<void*>(data + control.offset);
  header.msg_controllen = CMSG_SPACE(sizeof(int));
  batch.set_value(message, header);
  batch.add(SYS_recvmsg, {socket, message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT}, "/dev/userfaultfd");
  return control + CMSG_LEN(0);
}

// /dev/userfaultfd inside the task; its number there.
std::int64_t give_device(RemoteTask& task) {
  const UniqueFd device = open_file("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
  SyscallBatch pair;
  const DataAt ends = pair.reserve(2 * sizeof(int));
  pair.add(SYS_socketpair, {AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, ends}, "socket pair");
  const auto numbers = task.run(pair).value<std::array<int, 2>>(ends);
  const ScopeExit close([&] { close_in(task, {numbers[0], numbers[1]}); });
  send_fd(task.copy_fd(numbers[0]).get(), device.get());
  SyscallBatch receive;
  const DataAt number = receive_in(task, receive, numbers[1]);
  return task.run(receive).value<int>(number);
}

}  // namespace

UniqueFd make_tracking_userfaultfd(RemoteTask& task) {
  // Asynchronous write protection never hands a fault to user space, so that faults in the kernel
  // are no exception, and any process may have a descriptor for it.
  SyscallBatch make;
  const RowResult fd = make.add(SYS_userfaultfd, {kFlags | UFFD_USER_MODE_ONLY}, "userfaultfd");
  return take_out(task, task.run(make)[fd]);
}

UniqueFd try_make_blocking_userfaultfd(RemoteTask& task) try {
  SyscallBatch direct;
  const RowResult fd = direct.add_may_fail(SYS_userfaultfd, {kFlags}, "userfaultfd");
  std::int64_t number = task.run(direct)[fd];
  if (number < 0) {
    const std::int64_t device = give_device(task);
    SyscallBatch make;
    const RowResult made =
        make.add_may_fail(SYS_ioctl, {device, kMakeUserfaultfd, kFlags}, "/dev/userfaultfd");
    number = task.run(make)[made];
    close_in(task, {device});
    if (number < 0) throw_errno(static_cast<int>(-number), "make a userfaultfd in the process");
  }
  UniqueFd copy = take_out(task, number);
  enable_blocking_protection(copy.get());
  return copy;
} catch (const Error& error) {
  log_info("writers can't be held up: {}", error.what());
  return {};
}

}  // namespace godwit
