#include "common/kernel/tcp_repair.h"

#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <array>

#include "common/base/error.h"

namespace godwit {
namespace {

// Kinds of TCP options (RFC 9293, 7323, 2018), which TCP_REPAIR_OPTIONS uses as codes.
constexpr std::uint32_t kOptionMaxSegment = 2;
constexpr std::uint32_t kOptionWindowScale = 3;
constexpr std::uint32_t kOptionSackPermitted = 4;
constexpr std::uint32_t kOptionTimestamp = 8;

template <typename Value>
void set_option(int fd, int name, const Value& value, const char* what) {
  if (setsockopt(fd, IPPROTO_TCP, name, &value, sizeof value) != 0) {
    throw_system("setsockopt {} of descriptor {}", what, fd);
  }
}

template <typename Value>
Value get_option(int fd, int name, const char* what) {
  Value value{};
  socklen_t bytes = sizeof value;
  if (getsockopt(fd, IPPROTO_TCP, name, &value, &bytes) != 0) {
    throw_system("getsockopt {} of descriptor {}", what, fd);
  }
  return value;
}

std::uint32_t queue_ioctl(int fd, unsigned long request, const char* what) {
  int bytes = 0;
  if (ioctl(fd, request, &bytes) != 0) throw_system("ioctl {} of descriptor {}", what, fd);
  return static_cast<std::uint32_t>(bytes);
}

}  // namespace

std::string_view tcp_state_name(TcpState state) {
  static constexpr std::array<std::string_view, 12> kNames = {
      "?",         "ESTABLISHED", "SYN_SENT",   "SYN_RECV", "FIN_WAIT1", "FIN_WAIT2",
      "TIME_WAIT", "CLOSE",       "CLOSE_WAIT", "LAST_ACK", "LISTEN",    "CLOSING"};
  const auto index = static_cast<std::size_t>(state);
  return index < kNames.size() ? kNames[index] : kNames[0];
}

bool has_tcp_stream(TcpState state) {
  switch (state) {
    case TcpState::kEstablished:
    case TcpState::kFinWait1:
    case TcpState::kFinWait2:
    case TcpState::kCloseWait:
    case TcpState::kLastAck:
    case TcpState::kClosing:
      return true;
    default:
      return false;
  }
}

bool peer_fin_received(TcpState state) {
  return state == TcpState::kCloseWait || state == TcpState::kLastAck ||
         state == TcpState::kClosing;
}

bool own_fin_queued(TcpState state) {
  return state == TcpState::kFinWait1 || state == TcpState::kFinWait2 ||
         state == TcpState::kLastAck || state == TcpState::kClosing;
}

TcpFacts tcp_facts(int fd) {
  const auto info = get_option<tcp_info>(fd, TCP_INFO, "TCP_INFO");
  TcpFacts facts;
  facts.state = static_cast<TcpState>(info.tcpi_state);
  facts.timestamps = (info.tcpi_options & TCPI_OPT_TIMESTAMPS) != 0;
  facts.sack = (info.tcpi_options & TCPI_OPT_SACK) != 0;
  facts.window_scaling = (info.tcpi_options & TCPI_OPT_WSCALE) != 0;
  facts.send_scale = info.tcpi_snd_wscale;
  facts.receive_scale = info.tcpi_rcv_wscale;
  if (facts.state == TcpState::kListen) {
    facts.backlog_limit = info.tcpi_sacked;
    facts.backlog_used = info.tcpi_unacked;
  }
  facts.segments_in = info.tcpi_segs_in;
  facts.segments_out = info.tcpi_segs_out;
  facts.unsent_bytes = info.tcpi_notsent_bytes;
  return facts;
}

void enter_tcp_repair(int fd) { set_option<int>(fd, TCP_REPAIR, TCP_REPAIR_ON, "TCP_REPAIR on"); }

void leave_tcp_repair(int fd, bool probe) {
  set_option<int>(fd, TCP_REPAIR, probe ? TCP_REPAIR_OFF : TCP_REPAIR_OFF_NO_WP, "TCP_REPAIR off");
}

void select_tcp_queue(int fd, TcpQueueSide side) {
  set_option<int>(fd, TCP_REPAIR_QUEUE, static_cast<int>(side), "TCP_REPAIR_QUEUE");
}

std::uint32_t tcp_queue_sequence(int fd) {
  return get_option<std::uint32_t>(fd, TCP_QUEUE_SEQ, "TCP_QUEUE_SEQ");
}

void set_tcp_queue_sequence(int fd, std::uint32_t sequence) {
  set_option(fd, TCP_QUEUE_SEQ, sequence, "TCP_QUEUE_SEQ");
}

std::string peek_tcp_queue(int fd, std::size_t bytes) {
  // One byte more than expected: a queue that grew since it was measured is noticed.
  std::string found(bytes + 1, '\0');
  ssize_t got = recv(fd, found.data(), found.size(), MSG_PEEK | MSG_DONTWAIT);
  if (got < 0) {
    if (errno != EAGAIN || bytes != 0) throw_system("peek {} bytes of descriptor {}", bytes, fd);
    got = 0;
  }
  if (static_cast<std::size_t>(got) != bytes) {
    fail("TCP queue of descriptor {}: {} bytes expected, {} found (urgent data can't be moved)", fd,
         bytes, got);
  }
  found.resize(bytes);
  return found;
}

std::size_t append_tcp_queue(int fd, std::string_view bytes) {
  const ssize_t taken = send(fd, bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
  if (taken >= 0) return static_cast<std::size_t>(taken);
  if (errno == EAGAIN || errno == ENOMEM || errno == ENOBUFS) return 0;
  throw_system("write {} bytes into the TCP queue of descriptor {}", bytes.size(), fd);
}

TcpQueueLengths tcp_queue_lengths(int fd) { return tcp_queue_lengths(fd, tcp_facts(fd)); }

TcpQueueLengths tcp_queue_lengths(int fd, const TcpFacts& facts) {
  TcpQueueLengths lengths;
  lengths.receive = queue_ioctl(fd, SIOCINQ, "SIOCINQ");
  lengths.unacknowledged = queue_ioctl(fd, SIOCOUTQ, "SIOCOUTQ");
  lengths.unsent = facts.unsent_bytes;
  return lengths;
}

TcpWindow tcp_window(int fd) {
  const auto window = get_option<tcp_repair_window>(fd, TCP_REPAIR_WINDOW, "TCP_REPAIR_WINDOW");
  return {window.snd_wl1, window.snd_wnd, window.max_window, window.rcv_wnd, window.rcv_wup};
}

void set_tcp_window(int fd, const TcpWindow& window) {
  const tcp_repair_window raw{window.send_seq, window.send, window.max, window.receive,
                              window.receive_update};
  set_option(fd, TCP_REPAIR_WINDOW, raw, "TCP_REPAIR_WINDOW");
}

void set_tcp_negotiated(int fd, const TcpNegotiated& negotiated) {
  std::array<tcp_repair_opt, 4> options{};
  std::size_t count = 0;
  options[count++] = {kOptionMaxSegment, negotiated.mss_clamp};
  if (negotiated.window_scaling) {
    const std::uint32_t receive = negotiated.receive_scale;
    options[count++] = {kOptionWindowScale, negotiated.send_scale | (receive << 16)};
  }
  if (negotiated.sack) options[count++] = {kOptionSackPermitted, 0};
  if (negotiated.timestamps) options[count++] = {kOptionTimestamp, 0};
  if (setsockopt(fd, IPPROTO_TCP, TCP_REPAIR_OPTIONS, options.data(),
                 static_cast<socklen_t>(count * sizeof options[0])) != 0) {
    throw_system("setsockopt TCP_REPAIR_OPTIONS of descriptor {}", fd);
  }
}

std::uint32_t tcp_mss_clamp(int fd) {
  return get_option<std::uint32_t>(fd, TCP_MAXSEG, "TCP_MAXSEG");
}

std::uint32_t tcp_timestamp(int fd) {
  return get_option<std::uint32_t>(fd, TCP_TIMESTAMP, "TCP_TIMESTAMP");
}

void set_tcp_timestamp(int fd, std::uint32_t timestamp) {
  set_option(fd, TCP_TIMESTAMP, timestamp, "TCP_TIMESTAMP");
}

}  // namespace godwit
