// The connections of a table, described ahead of the rest of it.
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>

#include <algorithm>
#include <set>
#include <unordered_set>

#include "common/base/clock.h"
#include "common/kernel/socket_options.h"
#include "source-agent/capture/fd_owner.h"
#include "source-agent/capture/fd_table.h"
#include "source-agent/capture/tcp_sockets.h"

namespace godwit {
namespace {

// Enough that the message costs little beside them, and few enough that the destination soon
// starts.
constexpr std::size_t kConnectionsPerPart = 128;

// Fewer are described within the blackout in the time that the stops would take.
constexpr std::size_t kFewConnections = 100;

// The lowest bit of a timestamp tells the kernel its unit: 0, a millisecond (TCP_TIMESTAMP). Such
// are moved on by even numbers.
constexpr std::uint32_t kTimestampUnit = 1;

std::int64_t now_ms() { return monotonic_ns() / 1'000'000; }

// One call for all of them.
std::vector<bool> find_shut(const std::vector<const FdFacts*>& connections) {
  std::vector<pollfd> entries;
  entries.reserve(connections.size());
  for (const FdFacts* facts : connections) entries.push_back({facts->copy.get(), POLLRDHUP, 0});
  if (::poll(entries.data(), entries.size(), 0) < 0) throw_system("poll of connections");
  std::vector<bool> shut;
  shut.reserve(entries.size());
  for (const pollfd& entry : entries) shut.push_back((entry.revents & POLLRDHUP) != 0);
  return shut;
}

}  // namespace

std::vector<const FdFacts*> FdTableCapture::known_connections(
    const std::vector<FdFacts>& among) const {
  std::vector<const FdFacts*> connections;
  std::unordered_set<std::uint64_t> seen;
  for (const FdFacts& facts : among) {
    const KnownSocket* known = find_known(facts);
    if (known == nullptr || !known->type.is_tcp()) continue;
    if (!has_tcp_stream(static_cast<TcpState>(known->described.state()))) continue;
    if (seen.insert(facts.stamp.inode).second) connections.push_back(&facts);
  }
  return connections;
}

std::vector<int> FdTableCapture::streams_to_look_at() const {
  const std::vector<const FdFacts*> connections = known_connections(shape_);
  std::vector<int> fds;
  if (connections.size() < kFewConnections) return fds;
  for (const FdFacts* facts : connections) fds.push_back(facts->fd);
  return fds;
}

void FdTableCapture::look_at_streams(std::span<const int> fds, proto::Streams& out) {
  out.set_ahead(true);
  if (ahead_ms_ == 0) ahead_ms_ = now_ms();
  for (const int fd : fds) {
    const auto facts = std::ranges::lower_bound(shape_, fd, {}, &FdFacts::fd);
    if (facts != shape_.end() && facts->fd == fd) look_at_stream(*facts, out);
  }
}

void FdTableCapture::look_at_stream(const FdFacts& facts, proto::Streams& out) {
  const UniqueFd copy = copy_fd(facts.fd);
  // The number may have come to mean another file.
  if (!copy.valid() || socket_inode(copy.get()) != facts.socket_inode) return;
  if (has_file_owner(copy.get()) || (facts.info.flags & O_ASYNC) != 0) return;
  KnownSocket& known = known_of(facts);
  auto still = look_at_tcp_connection(copy.get(), known.described);
  if (!still) return;
  known.ahead = still->facts;
  if (still->socket.stream().timestamps()) {
    const auto passed = static_cast<std::uint32_t>(still->at_ms - ahead_ms_) & ~kTimestampUnit;
    still->socket.mutable_stream()->set_timestamp(still->socket.stream().timestamp() - passed);
  }
  proto::OpenFile& file = *out.add_files();
  file.set_id(static_cast<std::uint32_t>(facts.leader));
  *file.mutable_tcp_socket() = still->socket;
  known.described = std::move(still->socket);
}

// Takes those out of `connections` in which nothing has moved since look_at_streams(), and names
// them.
void FdTableCapture::name_streams_ahead(std::vector<const FdFacts*>& connections,
                                        std::vector<bool>& shut, proto::Streams& out) {
  std::size_t left = 0;
  for (std::size_t i = 0; i < connections.size(); ++i) {
    KnownSocket& known = known_of(*connections[i]);
    if (known.ahead && !shut[i] && tcp_facts(connections[i]->copy.get()) == *known.ahead) {
      known.relied_on = true;
      known.segments_in = known.ahead->segments_in;
      out.add_as_ahead(static_cast<std::uint32_t>(connections[i]->fd));
      continue;
    }
    known.ahead.reset();
    connections[left] = connections[i];
    shut[left++] = shut[i];
  }
  connections.resize(left);
  // Up to the millisecond that has begun, for both readings were cut off: it must not go back.
  const auto passed = static_cast<std::uint32_t>(now_ms() - ahead_ms_ + 1);
  out.set_passed_ms((passed + kTimestampUnit) & ~kTimestampUnit);
}

void FdTableCapture::describe_streams(const StreamSink& send) {
  std::vector<const FdFacts*> connections = known_connections(kept_);
  if (connections.empty()) return;
  std::vector<bool> shut = find_shut(connections);
  if (ahead_ms_ != 0) {
    proto::Streams part;
    name_streams_ahead(connections, shut, part);
    if (part.as_ahead_size() > 0) send(part);
  }
  for (std::size_t begin = 0; begin < connections.size(); begin += kConnectionsPerPart) {
    const std::size_t end = std::min(begin + kConnectionsPerPart, connections.size());
    proto::Streams part;
    std::vector<int> copies;
    for (std::size_t i = begin; i < end; ++i) {
      const FdFacts& facts = *connections[i];
      auto socket = capture_tcp_connection(facts.copy.get(), find_known(facts)->described,
                                           facts.before_hold, shut[i]);
      if (!socket) continue;
      copies.push_back(facts.copy.get());
      proto::OpenFile& file = *part.add_files();
      file.set_id(static_cast<std::uint32_t>(facts.fd));
      file.mutable_tcp_socket()->Swap(&*socket);
    }
    for (std::size_t i = copies.size(); i-- > 0;) {
      proto::TcpSocket& socket = *part.mutable_files(static_cast<int>(i))->mutable_tcp_socket();
      settle_tcp_stream(copies[i], socket);
      if (!socket.has_stream()) {  // a reset was still on its way
        part.mutable_files()->DeleteSubrange(static_cast<int>(i), 1);
        continue;
      }
      KnownSocket& known = known_.at(socket.inode());
      known.relied_on = true;
      known.segments_in = socket.stream().segments_in();
    }
    if (part.files_size() > 0) send(part);
  }
}

proto::Corrections FdTableCapture::confirm_streams() const {
  proto::Corrections corrections;
  for (const FdFacts& facts : kept_) {
    const KnownSocket* known = find_known(facts);
    if (known == nullptr || !known->segments_in) continue;
    if (known->ahead && has_file_owner(facts.copy.get())) {
      throw Error(facts.name() + " got an owner (F_SETOWN, F_SETSIG) in the last instant", EAGAIN,
                  "begin the migration again");
    }
    proto::SocketCorrection correction;
    confirm_tcp_connection(facts.copy.get(), known->described, known->ahead.has_value(),
                           correction);
    if (correction.options().empty()) continue;
    correction.set_file(static_cast<std::uint32_t>(facts.fd));
    *corrections.add_sockets() = std::move(correction);
  }
  return corrections;
}

proto::Corrections FdTableCapture::find_corrections() const {
  proto::Corrections corrections;
  std::set<std::uint64_t> seen;
  for (const FdFacts& facts : kept_) {
    const KnownSocket* known = find_known(facts);
    if (known == nullptr || !known->relied_on || !seen.insert(facts.stamp.inode).second) continue;
    proto::SocketCorrection correction;
    find_tcp_corrections(facts.copy.get(), known->described, known->ahead.has_value(), correction);
    if (correction.options().empty() && correction.backlog() == 0) continue;
    correction.set_file(static_cast<std::uint32_t>(facts.fd));
    *corrections.add_sockets() = std::move(correction);
  }
  return corrections;
}

}  // namespace godwit
