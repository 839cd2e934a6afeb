#include "source-agent/capture/tcp_sockets.h"

#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>

#include "common/base/clock.h"
#include "common/kernel/socket_options.h"
#include "common/kernel/tcp_repair.h"
#include "common/network/socket_address.h"

namespace godwit {
namespace {

using OptionList = google::protobuf::RepeatedPtrField<proto::SocketOption>;

void add_option(SocketOptionValue option, OptionList& options) {
  proto::SocketOption& added = *options.Add();
  added.set_level(option.level);
  added.set_name(option.name);
  added.set_value(std::move(option.value));
}

// One order, whatever was read when: two descriptions are compared as they are.
void sort_options(proto::TcpSocket& socket) {
  std::sort(socket.mutable_options()->begin(), socket.mutable_options()->end(),
            [](const proto::SocketOption& a, const proto::SocketOption& b) {
              return std::pair(a.level(), a.name()) < std::pair(b.level(), b.name());
            });
}

void put_options(int agent_fd, proto::TcpSocket& socket) {
  const bool stream = has_tcp_stream(static_cast<TcpState>(socket.state()));
  for (SocketOptionValue& option :
       changed_socket_options(agent_fd, socket.family(), SOCK_STREAM, IPPROTO_TCP)) {
    // Of a connection these say what was negotiated, which is in the stream.
    const bool negotiated =
        option.level == IPPROTO_TCP && (option.name == TCP_MAXSEG || option.name == TCP_CONGESTION);
    if (stream && negotiated) continue;
    add_option(std::move(option), *socket.mutable_options());
  }
  sort_options(socket);
}

short poll_state(int fd) {
  pollfd entry{fd, POLLIN | POLLRDHUP, 0};
  if (poll(&entry, 1, 0) < 0) throw_system("poll of descriptor {}", fd);
  return entry.revents;
}

// A descriptor in state CLOSE was connected once if its receiving side is shut.
void capture_dead(int agent_fd, proto::TcpSocket& socket) {
  const short events = poll_state(agent_fd);
  if ((events & POLLRDHUP) == 0) return;
  proto::DeadConnection& dead = *socket.mutable_dead();
  dead.set_error((events & POLLERR) != 0);
  int unread = 0;
  if (ioctl(agent_fd, SIOCINQ, &unread) != 0) throw_system("SIOCINQ of descriptor {}", agent_fd);
  // The data stands before the error in the queue: reading it does not consume the error.
  if (unread == 0) return;
  if (int_socket_option(agent_fd, IPPROTO_TCP, TCP_REPAIR) != 0) {
    select_tcp_queue(agent_fd, TcpQueueSide::kReceive);
  }
  dead.set_unread(peek_tcp_queue(agent_fd, static_cast<std::size_t>(unread)));
}

void put_window(int fd, proto::TcpStream& stream) {
  const TcpWindow window = tcp_window(fd);
  stream.set_has_window(true);
  stream.set_window_send_seq(window.send_seq);
  stream.set_window_send(window.send);
  stream.set_window_max(window.max);
  stream.set_window_receive(window.receive);
  stream.set_window_receive_update(window.receive_update);
}

bool is_reuse(const proto::SocketOption& option) {
  return option.level() == SOL_SOCKET && option.name() == SO_REUSEADDR;
}

bool reuses_address(const proto::TcpSocket& socket) {
  return std::any_of(socket.options().begin(), socket.options().end(), is_reuse);
}

// The description of before, with the options of these paces as they are now.
proto::TcpSocket capture_anew(int agent_fd, const proto::TcpSocket& before,
                              std::initializer_list<OptionPace> paces) {
  proto::TcpSocket socket;
  socket.set_family(before.family());
  socket.set_state(before.state());
  socket.set_local_address(before.local_address());
  socket.set_remote_address(before.remote_address());
  socket.set_inode(before.inode());
  socket.set_owner_uid(before.owner_uid());
  socket.set_owner_gid(before.owner_gid());
  socket.set_backlog(before.backlog());
  for (const proto::SocketOption& option : before.options()) {
    const OptionPace pace = option_pace(option.level(), option.name());
    const bool anew = std::find(paces.begin(), paces.end(), pace) != paces.end();
    if (!anew) *socket.add_options() = option;
  }
  for (const OptionPace pace : paces) {
    for (SocketOptionValue& option :
         changed_socket_options(agent_fd, socket.family(), SOCK_STREAM, IPPROTO_TCP, pace)) {
      add_option(std::move(option), *socket.mutable_options());
    }
  }
  sort_options(socket);
  return socket;
}

// Repair mode for as long as it lives. The kernel makes such a socket share its port.
class RepairMode {
 public:
  RepairMode(int fd, const proto::TcpSocket& socket) : fd_(fd), reuse_(reuses_address(socket)) {
    enter_tcp_repair(fd_);
  }
  RepairMode(const RepairMode&) = delete;
  RepairMode& operator=(const RepairMode&) = delete;
  ~RepairMode() {
    try {
      leave_tcp_repair(fd_, false);
      if (reuse_) set_socket_option(fd_, {SOL_SOCKET, SO_REUSEADDR, int_option_value(1)});
    } catch (const Error&) {
      // The state was read; a socket that can't leave repair is gone.
    }
  }

 private:
  int fd_;
  bool reuse_;
};

// In repair mode.
void put_queues(int fd, const TcpFacts& facts, proto::TcpStream& stream) {
  const TcpState state = facts.state;
  const TcpQueueLengths lengths = tcp_queue_lengths(fd, facts);
  select_tcp_queue(fd, TcpQueueSide::kReceive);
  const std::uint32_t peer_fin = peer_fin_received(state) ? 1 : 0;
  stream.mutable_receive()->set_sequence(tcp_queue_sequence(fd) - peer_fin);
  if (lengths.receive > 0) stream.mutable_receive()->set_bytes(peek_tcp_queue(fd, lengths.receive));

  select_tcp_queue(fd, TcpQueueSide::kSend);
  const std::uint32_t own_fin = own_fin_queued(state) ? 1 : 0;
  stream.mutable_send()->set_sequence(tcp_queue_sequence(fd) - own_fin);
  // A FIN that is not acknowledged, or not even sent, counts like a byte.
  const std::uint32_t fin_in_queue =
      own_fin != 0 && state != TcpState::kFinWait2 && lengths.unacknowledged > 0 ? 1 : 0;
  const std::uint32_t bytes = lengths.unacknowledged - fin_in_queue;
  if (bytes > 0) stream.mutable_send()->set_bytes(peek_tcp_queue(fd, bytes));
  const std::uint32_t fin_unsent = fin_in_queue != 0 && lengths.unsent > 0 ? 1 : 0;
  stream.set_unsent_bytes(lengths.unsent - fin_unsent);
}

// In repair mode. What is not asked of the socket here is the caller's.
void put_stream(int fd, const TcpFacts& facts, const TcpFacts* before_hold,
                proto::TcpStream& stream) {
  stream.set_segments_in(facts.segments_in);
  stream.set_sack(facts.sack);
  stream.set_timestamps(facts.timestamps);
  stream.set_window_scaling(facts.window_scaling);
  stream.set_send_scale(facts.send_scale);
  stream.set_receive_scale(facts.receive_scale);
  stream.set_mss_clamp(tcp_mss_clamp(fd));
  if (facts.timestamps) stream.set_timestamp(tcp_timestamp(fd));
  put_window(fd, stream);
  put_queues(fd, facts, stream);
  // An acknowledgement that was sent while the hold closed was dropped, and nothing tells.
  stream.set_quiet(before_hold != nullptr && facts.segments_in == before_hold->segments_in &&
                   facts.segments_out == before_hold->segments_out &&
                   stream.window_receive_update() == stream.receive().sequence());
}

// Adds what an option of this pace is now where it is not what it was.
void find_option_changes(int fd, const OptionList& before, const OptionList& now, OptionPace pace,
                         OptionList& out) {
  const auto find = [](const OptionList& options, const proto::SocketOption& option) {
    return std::find_if(options.begin(), options.end(), [&](const auto& each) {
      return each.level() == option.level() && each.name() == option.name();
    });
  };
  for (const proto::SocketOption& option : now) {
    if (option_pace(option.level(), option.name()) != pace) continue;
    const auto old = find(before, option);
    if (old == before.end() || old->value() != option.value()) *out.Add() = option;
  }
  for (const proto::SocketOption& option : before) {
    if (option_pace(option.level(), option.name()) != pace) continue;
    if (find(now, option) != now.end()) continue;
    add_option(socket_option(fd, option.level(), option.name()), out);
  }
}

}  // namespace

proto::TcpSocket capture_tcp_socket(int agent_fd) {
  const TcpState state = tcp_facts(agent_fd).state;
  if (state == TcpState::kSynSent || state == TcpState::kSynReceived) {
    throw Refused("tcp-connecting",
                  fmt::format("TCP socket: still connecting ({})", tcp_state_name(state)),
                  "try again in a moment");
  }
  proto::TcpSocket socket;
  socket.set_family(int_socket_option(agent_fd, SOL_SOCKET, SO_DOMAIN));
  socket.set_state(static_cast<int>(state));
  if (const auto local = SocketAddress::local_of(agent_fd))
    socket.set_local_address(local->bytes());
  if (const auto remote = SocketAddress::remote_of(agent_fd)) {
    socket.set_remote_address(remote->bytes());
  }
  struct stat status {};
  if (fstat(agent_fd, &status) != 0) throw_system("fstat of socket {}", agent_fd);
  socket.set_inode(status.st_ino);
  socket.set_owner_uid(status.st_uid);
  socket.set_owner_gid(status.st_gid);
  if (state == TcpState::kListen) {
    socket.set_backlog(static_cast<int>(tcp_facts(agent_fd).backlog_limit));
  }
  put_options(agent_fd, socket);
  if (state == TcpState::kClose) capture_dead(agent_fd, socket);
  return socket;
}

proto::TcpSocket capture_tcp_socket_again(int agent_fd, const proto::TcpSocket& before) {
  if (static_cast<int>(tcp_facts(agent_fd).state) != before.state()) {
    return capture_tcp_socket(agent_fd);
  }
  proto::TcpSocket socket =
      capture_anew(agent_fd, before, {OptionPace::kLively, OptionPace::kUrgent});
  if (const auto local = SocketAddress::local_of(agent_fd)) {
    socket.set_local_address(local->bytes());
  }
  if (const auto remote = SocketAddress::remote_of(agent_fd)) {
    socket.set_remote_address(remote->bytes());
  }
  if (static_cast<TcpState>(socket.state()) == TcpState::kClose) capture_dead(agent_fd, socket);
  return socket;
}

void find_tcp_corrections(int agent_fd, const proto::TcpSocket& before, bool ahead,
                          proto::SocketCorrection& out) {
  const proto::TcpSocket now = capture_tcp_socket(agent_fd);
  if (now.backlog() != before.backlog()) out.set_backlog(now.backlog());
  find_option_changes(agent_fd, before.options(), now.options(), OptionPace::kSettled,
                      *out.mutable_options());
  if (ahead) {
    OptionList urgent;
    find_option_changes(agent_fd, before.options(), now.options(), OptionPace::kUrgent, urgent);
    for (proto::SocketOption& option : urgent) {
      if (!is_reuse(option)) *out.add_options() = std::move(option);
    }
  }
  const std::string& congestion = before.stream().congestion_control();
  if (congestion.empty()) return;
  std::string now_congestion = tcp_congestion_control(agent_fd);
  if (now_congestion != congestion) {
    add_option({IPPROTO_TCP, TCP_CONGESTION, std::move(now_congestion)}, *out.mutable_options());
  }
}

void capture_tcp_stream(int agent_fd, proto::TcpSocket& socket, const TcpFacts* before_hold) {
  const RepairMode repair(agent_fd, socket);
  const TcpFacts facts = tcp_facts(agent_fd);
  socket.set_state(static_cast<int>(facts.state));
  if (!has_tcp_stream(facts.state)) {  // it ended since it was described
    socket.clear_stream();
    capture_dead(agent_fd, socket);
    return;
  }
  proto::TcpStream& stream = *socket.mutable_stream();
  stream.Clear();
  put_stream(agent_fd, facts, before_hold, stream);
  stream.set_congestion_control(tcp_congestion_control(agent_fd));
  stream.set_receive_shutdown(!peer_fin_received(facts.state) &&
                              (poll_state(agent_fd) & POLLRDHUP) != 0);
}

std::optional<proto::TcpSocket> capture_tcp_connection(int agent_fd, const proto::TcpSocket& before,
                                                       const TcpFacts& before_hold,
                                                       bool receive_shutdown) {
  proto::TcpSocket socket = capture_anew(agent_fd, before, {OptionPace::kUrgent});
  const RepairMode repair(agent_fd, socket);
  const TcpFacts facts = tcp_facts(agent_fd);
  if (static_cast<int>(facts.state) != before.state()) return std::nullopt;
  proto::TcpStream& stream = *socket.mutable_stream();
  put_stream(agent_fd, facts, &before_hold, stream);
  stream.set_congestion_control(before.stream().congestion_control());
  stream.set_receive_shutdown(!peer_fin_received(facts.state) && receive_shutdown);
  return socket;
}

std::optional<StillConnection> look_at_tcp_connection(int agent_fd,
                                                      const proto::TcpSocket& before) {
  const TcpFacts facts = tcp_facts(agent_fd);
  // One that was at work a moment ago will be.
  if (facts.state != TcpState::kEstablished || facts.unsent_bytes > 0 ||
      static_cast<int>(facts.state) != before.state() ||
      facts.segments_in != before.stream().segments_in()) {
    return std::nullopt;
  }
  const TcpQueueLengths lengths = tcp_queue_lengths(agent_fd, facts);
  const bool shut = (poll_state(agent_fd) & POLLRDHUP) != 0;
  if (lengths.receive > 0 || lengths.unacknowledged > 0 || shut) return std::nullopt;
  const std::int64_t at_ms = monotonic_ns() / 1'000'000;
  auto socket = capture_tcp_connection(agent_fd, before, facts, false);
  if (!socket || tcp_facts(agent_fd) != facts) return std::nullopt;
  const proto::TcpStream& stream = socket->stream();
  const bool counts_milliseconds = (stream.timestamp() & 1) == 0;  // not microseconds
  if (!stream.quiet() || !counts_milliseconds || !stream.receive().bytes().empty() ||
      !stream.send().bytes().empty()) {
    return std::nullopt;
  }
  return StillConnection{*std::move(socket), facts, at_ms};
}

void confirm_tcp_connection(int agent_fd, const proto::TcpSocket& described, bool ahead,
                            proto::SocketCorrection& out) {
  OptionList now;
  for (SocketOptionValue& option : changed_socket_options(agent_fd, described.family(), SOCK_STREAM,
                                                          IPPROTO_TCP, OptionPace::kLively)) {
    add_option(std::move(option), now);
  }
  find_option_changes(agent_fd, described.options(), now, OptionPace::kLively,
                      *out.mutable_options());
  if (ahead) {  // later it is in repair mode, which does not show it
    const int reuse = int_socket_option(agent_fd, SOL_SOCKET, SO_REUSEADDR);
    if ((reuse != 0) != reuses_address(described)) {
      add_option({SOL_SOCKET, SO_REUSEADDR, int_option_value(reuse)}, *out.mutable_options());
    }
  }
  const auto local = SocketAddress::local_of(agent_fd);
  const auto remote = SocketAddress::remote_of(agent_fd);
  if (local && remote && local->bytes() == described.local_address() &&
      remote->bytes() == described.remote_address()) {
    return;
  }
  throw Error(fmt::format("a connection with {} was made another one at the moment of the switch",
                          remote ? remote->text() : "nobody"))
      .with_hint("try again");
}

std::string tcp_congestion_control(int agent_fd) {
  std::array<char, 32> name{};
  socklen_t bytes = name.size();
  if (getsockopt(agent_fd, IPPROTO_TCP, TCP_CONGESTION, name.data(), &bytes) != 0) return {};
  return std::string(name.data(), strnlen(name.data(), bytes));
}

bool tcp_stream_changed(int agent_fd, const proto::TcpSocket& socket) {
  return tcp_facts(agent_fd).segments_in != socket.stream().segments_in();
}

void settle_tcp_stream(int agent_fd, proto::TcpSocket& socket) {
  constexpr int kCapturesMax = 20;
  for (int attempt = 0; socket.has_stream() && tcp_stream_changed(agent_fd, socket); ++attempt) {
    if (attempt == kCapturesMax) fail("packets reach a TCP socket although they are held");
    capture_tcp_stream(agent_fd, socket);
  }
}

void freeze_tcp_stream(int agent_fd, const SocketBlock& block,
                       std::optional<std::uint32_t> segments_in) {
  block.block(agent_fd);
  const TcpFacts facts = tcp_facts(agent_fd);
  if (facts.state != TcpState::kListen) enter_tcp_repair(agent_fd);
  if (segments_in && facts.segments_in != *segments_in) {
    throw Error("a packet reached a TCP socket although it was held back").with_hint("try again");
  }
}

void thaw_tcp_stream(int agent_fd, const proto::TcpSocket& socket, PacketReplay& replay) {
  std::optional<std::string> own_filter;
  bool reuse = false;
  for (const proto::SocketOption& option : socket.options()) {
    if (option.level() != SOL_SOCKET) continue;
    if (option.name() == SO_ATTACH_FILTER) own_filter = option.value();
    if (option.name() == SO_REUSEADDR) reuse = true;
  }
  unblock_socket_input(agent_fd, own_filter);
  const TcpState state = tcp_facts(agent_fd).state;
  if (state == TcpState::kListen) return;
  const bool stream = has_tcp_stream(state);
  // One that was held and not frozen yet is not in repair, where its window can be read.
  if (int_socket_option(agent_fd, IPPROTO_TCP, TCP_REPAIR) == 0) enter_tcp_repair(agent_fd);
  const std::uint32_t acknowledged = stream ? tcp_window(agent_fd).receive_update : 0;
  // The probe makes the peer answer: what could not be sent meanwhile goes out at once.
  leave_tcp_repair(agent_fd, true);
  if (reuse) set_socket_option(agent_fd, {SOL_SOCKET, SO_REUSEADDR, int_option_value(1)});
  const auto local = SocketAddress::local_of(agent_fd);
  const auto remote = SocketAddress::remote_of(agent_fd);
  if (!stream || !local || !remote) return;
  // Acknowledgements that were due meanwhile did not get out.
  const std::string& queued = socket.stream().send().bytes();
  prompt_tcp_acknowledgement(
      replay, *local, *remote, acknowledged,
      socket.stream().send().sequence() - static_cast<std::uint32_t>(queued.size()));
}

}  // namespace godwit
