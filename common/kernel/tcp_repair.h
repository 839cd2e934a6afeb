// TCP_REPAIR: a TCP socket whose inner state can be read and written (net/ipv4/tcp.c; the constants
// are in <linux/tcp.h>, tcp(7) does not describe them). Needs CAP_NET_ADMIN over the socket's
// network namespace. Every function throws Error naming the call; a descriptor may be a duplicate
// of another process's (pidfd_getfd(2)).
//
// What repair mode does and does not: data written goes to the selected queue and not out; closing
// sends nothing. Packets still come in and are answered, timers still run: whoever needs silence
// holds the packets (common/network/packet_hold.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace godwit {

// The kernel's numbers (TCP_ESTABLISHED, ... of <netinet/tcp.h>).
enum class TcpState : int {
  kEstablished = 1,
  kSynSent,
  kSynReceived,
  kFinWait1,
  kFinWait2,
  kTimeWait,
  kClose,
  kCloseWait,
  kLastAck,
  kListen,
  kClosing,
};
std::string_view tcp_state_name(TcpState state);
// Connected: there are queues and sequence numbers.
bool has_tcp_stream(TcpState state);
// The peer's FIN has come in. It occupies one sequence number behind the receive queue.
bool peer_fin_received(TcpState state);
// Our FIN is behind the send queue, where it occupies one sequence number, sent or not.
bool own_fin_queued(TcpState state);

struct TcpFacts {
  TcpState state = TcpState::kClose;
  bool timestamps = false;
  bool sack = false;
  bool window_scaling = false;
  std::uint8_t send_scale = 0;
  std::uint8_t receive_scale = 0;
  std::uint32_t backlog_limit = 0;  // listening
  std::uint32_t backlog_used = 0;   // listening: connections not accepted yet
  std::uint32_t segments_in = 0;    // every segment that came in, wraps around
  std::uint32_t segments_out = 0;
  std::uint32_t unsent_bytes = 0;

  bool operator==(const TcpFacts&) const = default;
};
// TCP_INFO.
TcpFacts tcp_facts(int fd);

// On. The kernel also forgets the socket's SO_REUSEADDR; the caller puts it back after repair.
void enter_tcp_repair(int fd);
// Off; with `probe` a window probe goes out at once, to which the peer answers with an ACK.
void leave_tcp_repair(int fd, bool probe);

enum class TcpQueueSide : int { kReceive = 1, kSend = 2 };
// Queue that the following sequence, peek and append calls mean.
void select_tcp_queue(int fd, TcpQueueSide side);
std::uint32_t tcp_queue_sequence(int fd);
// Only before the socket is connected.
void set_tcp_queue_sequence(int fd, std::uint32_t sequence);
// Copies exactly `bytes` of the selected queue and leaves them there; throws when there are others.
std::string peek_tcp_queue(int fd, std::size_t bytes);
// Appends to the selected queue, at most as much as the buffer takes; returns the bytes taken.
std::size_t append_tcp_queue(int fd, std::string_view bytes);

struct TcpQueueLengths {
  std::uint32_t receive = 0;         // bytes to be read
  std::uint32_t unacknowledged = 0;  // write_seq - snd_una, a queued FIN counted as one
  std::uint32_t unsent = 0;          // of these not sent yet
};
TcpQueueLengths tcp_queue_lengths(int fd);
// With what was just learnt, one system call less.
TcpQueueLengths tcp_queue_lengths(int fd, const TcpFacts& facts);

struct TcpWindow {
  std::uint32_t send_seq = 0;        // snd_wl1
  std::uint32_t send = 0;            // snd_wnd
  std::uint32_t max = 0;             // max_window
  std::uint32_t receive = 0;         // rcv_wnd
  std::uint32_t receive_update = 0;  // rcv_wup
};
TcpWindow tcp_window(int fd);
void set_tcp_window(int fd, const TcpWindow& window);

// What was negotiated in the handshake; only in an established socket.
struct TcpNegotiated {
  std::uint32_t mss_clamp = 0;
  bool sack = false;
  bool timestamps = false;
  bool window_scaling = false;
  std::uint8_t send_scale = 0;
  std::uint8_t receive_scale = 0;
};
void set_tcp_negotiated(int fd, const TcpNegotiated& negotiated);
// Largest segment that the peer said it takes; in repair mode.
std::uint32_t tcp_mss_clamp(int fd);

// The clock in outgoing timestamps. Its lowest bit says microseconds since Linux 6.7.
std::uint32_t tcp_timestamp(int fd);
void set_tcp_timestamp(int fd, std::uint32_t timestamp);

}  // namespace godwit
