#include "common/wire/page_service_link.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <string>

#include "common/base/clock.h"
#include "common/kernel/precedence.h"

namespace godwit {
namespace {

constexpr std::uint64_t kMessageBytesMax = 256 << 20;
constexpr int kSocketBufferBytes = 4 << 20;
constexpr std::size_t kFdsMax = 8;
constexpr char kGone[] = "page server link: the other end is gone";

void enlarge_buffers(int fd) {
  // Beyond the system's limit only for a privileged agent; a smaller buffer just makes it wait.
  for (const int option : {SO_SNDBUFFORCE, SO_SNDBUF}) {
    if (setsockopt(fd, SOL_SOCKET, option, &kSocketBufferBytes, sizeof(kSocketBufferBytes)) == 0) {
      return;
    }
  }
}

void take_fds(msghdr& header, std::vector<UniqueFd>& fds) {
  for (cmsghdr* part = CMSG_FIRSTHDR(&header); part != nullptr; part = CMSG_NXTHDR(&header, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    const std::size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (std::size_t i = 0; i < count; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(part) + i * sizeof(int), sizeof(fd));
      fds.emplace_back(fd);
    }
  }
}

}  // namespace

std::pair<UniqueFd, UniqueFd> PageServiceLink::make_sockets() {
  std::array<int, 2> ends{};
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) != 0) {
    throw_system("socket pair for a page server");
  }
  enlarge_buffers(ends[0]);
  enlarge_buffers(ends[1]);
  return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}

bool PageServiceLink::wait(short events, std::int64_t deadline_ns) const {
  pollfd waiting{socket_.get(), events, 0};
  while (true) {
    int timeout_ms = -1;
    if (deadline_ns != kNoDeadline) {
      const std::int64_t left_ns = std::max<std::int64_t>(deadline_ns - monotonic_ns(), 0);
      timeout_ms =
          static_cast<int>(std::min<std::int64_t>((left_ns + 999'999) / 1'000'000, 1 << 30));
    }
    const int ready = poll(&waiting, 1, timeout_ms);
    if (ready > 0) return true;
    if (ready == 0) return false;
    if (errno != EINTR) throw_system("page server link: poll");
  }
}

void PageServiceLink::send_message(const google::protobuf::MessageLite& message,
                                   std::span<const int> fds, std::int64_t deadline_ns) {
  if (fds.size() > kFdsMax) fail("page server link: {} descriptors at once", fds.size());
  const std::string body = message.SerializeAsString();
  const std::uint64_t bytes = body.size();
  std::string text(reinterpret_cast<const char*>(&bytes), sizeof(bytes));
  text += body;
  const std::lock_guard lock(sending_);
  std::size_t done = 0;
  while (done < text.size()) {
    iovec piece{text.data() + done, text.size() - done};
    msghdr header{};
    header.msg_iov = &piece;
    header.msg_iovlen = 1;
    alignas(cmsghdr) std::array<char, CMSG_SPACE(kFdsMax * sizeof(int))> control{};
    if (done == 0 && !fds.empty()) {
      header.msg_control = control.data();
      header.msg_controllen = CMSG_SPACE(fds.size_bytes());
      cmsghdr* part = CMSG_FIRSTHDR(&header);
      part->cmsg_level = SOL_SOCKET;
      part->cmsg_type = SCM_RIGHTS;
      part->cmsg_len = CMSG_LEN(fds.size_bytes());
      std::memcpy(CMSG_DATA(part), fds.data(), fds.size_bytes());
    }
    const ssize_t sent = sendmsg(socket_.get(), &header, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent >= 0) {
      done += static_cast<std::size_t>(sent);
    } else if (errno == EPIPE || errno == ECONNRESET) {
      throw Error(kGone, ECONNRESET);
    } else if (errno == EAGAIN) {
      if (!wait(POLLOUT, deadline_ns)) throw Error("page server link: send timed out", ETIMEDOUT);
    } else if (errno != EINTR) {
      throw_system("page server link: send");
    }
  }
}

bool PageServiceLink::receive_header(std::uint64_t& bytes, std::vector<UniqueFd>* fds) {
  std::size_t done = 0;
  while (done < sizeof(bytes)) {
    iovec piece{reinterpret_cast<char*>(&bytes) + done, sizeof(bytes) - done};
    alignas(cmsghdr) std::array<char, CMSG_SPACE(kFdsMax * sizeof(int))> control{};
    msghdr header{};
    header.msg_iov = &piece;
    header.msg_iovlen = 1;
    header.msg_control = control.data();
    header.msg_controllen = control.size();
    const ssize_t got = recvmsg(socket_.get(), &header, MSG_CMSG_CLOEXEC);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && errno != ECONNRESET) throw_system("page server link: receive");
    if (got <= 0) {
      if (done == 0) return false;
      throw Error(kGone, ECONNRESET);
    }
    std::vector<UniqueFd> unwanted;
    take_fds(header, fds != nullptr ? *fds : unwanted);
    done += static_cast<std::size_t>(got);
  }
  return true;
}

bool PageServiceLink::receive_message(google::protobuf::MessageLite& message,
                                      std::vector<UniqueFd>* fds) {
  std::uint64_t bytes = 0;
  if (!receive_header(bytes, fds)) return false;
  if (bytes > kMessageBytesMax) fail("page server link: a message of {} bytes", bytes);
  std::string body(bytes, '\0');
  for (std::size_t done = 0; done < body.size();) {
    const ssize_t got = recv(socket_.get(), body.data() + done, body.size() - done, 0);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && errno != ECONNRESET) throw_system("page server link: receive");
    if (got <= 0) throw Error(kGone, ECONNRESET);
    done += static_cast<std::size_t>(got);
  }
  if (!message.ParseFromString(body)) fail("page server link: a message that is none");
  return true;
}

void PageServiceLink::send(const proto::PageOrder& order, std::span<const int> fds,
                           std::int64_t deadline_ns) {
  try {
    send_message(order, fds, deadline_ns);
  } catch (const Error& error) {
    if (error.code() != ECONNRESET) throw;
    // What it said before it ended is the story; what comes before that answers earlier orders. The
    // end of the stream is an Error too.
    for (;;) receive(deadline_ns);
  }
}

void PageServiceLink::send(const proto::PageReport& report, std::span<const int> fds) {
  if (report.has_failed()) failed_ = true;
  send_message(report, fds, kNoDeadline);
}

std::optional<proto::PageReport> PageServiceLink::try_receive(std::int64_t deadline_ns,
                                                              std::vector<UniqueFd>* fds) {
  if (!wait(POLLIN, deadline_ns)) return std::nullopt;
  proto::PageReport report;
  if (!receive_message(report, fds)) throw Error("the page server is gone", ECONNRESET);
  if (report.has_failed()) throw Error("page server: " + report.failed().story());
  if (report.has_answering_thread() && server_ > 0) {
    const proto::AnsweringThread& answering = report.answering_thread();
    lend_precedence(server_, answering.thread(), answering.precedence());
  }
  return report;
}

proto::PageReport PageServiceLink::receive(std::int64_t deadline_ns, std::vector<UniqueFd>* fds) {
  std::optional<proto::PageReport> report = try_receive(deadline_ns, fds);
  if (!report) throw Error("the page server did not answer in time", ETIMEDOUT);
  return *std::move(report);
}

std::optional<PageServiceLink::Order> PageServiceLink::receive_order() {
  Order order;
  if (!receive_message(order.order, &order.fds)) return std::nullopt;
  return order;
}

}  // namespace godwit
