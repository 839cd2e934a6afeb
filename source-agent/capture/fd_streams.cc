// The connections of a table, described ahead of the rest of it.
#include <netinet/in.h>
#include <poll.h>

#include <algorithm>
#include <set>

#include "source-agent/capture/fd_table.h"
#include "source-agent/capture/tcp_sockets.h"

namespace godwit {
namespace {

// Enough that the message costs little beside them, and few enough that the destination soon
// starts.
constexpr std::size_t kConnectionsPerPart = 128;

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

std::vector<const FdFacts*> FdTableCapture::known_connections() const {
  std::vector<const FdFacts*> connections;
  std::set<std::uint64_t> seen;
  for (const FdFacts& facts : kept_) {
    const KnownSocket* known = find_known(facts);
    if (known == nullptr || !known->type.is_tcp()) continue;
    if (!has_tcp_stream(static_cast<TcpState>(known->described.state()))) continue;
    if (seen.insert(facts.stamp.inode).second) connections.push_back(&facts);
  }
  return connections;
}

void FdTableCapture::describe_streams(const StreamSink& send) {
  const std::vector<const FdFacts*> connections = known_connections();
  if (connections.empty()) return;
  const std::vector<bool> shut = find_shut(connections);
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
    proto::SocketCorrection correction;
    confirm_tcp_connection(facts.copy.get(), known->described, correction);
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
    find_tcp_corrections(facts.copy.get(), known->described, correction);
    if (correction.options().empty() && correction.backlog() == 0) continue;
    correction.set_file(static_cast<std::uint32_t>(facts.fd));
    *corrections.add_sockets() = std::move(correction);
  }
  return corrections;
}

}  // namespace godwit
