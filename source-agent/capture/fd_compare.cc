#include "source-agent/capture/fd_compare.h"

#include <fmt/format.h>
#include <google/protobuf/util/message_differencer.h>
#include <linux/udp.h>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <map>
#include <sstream>

namespace godwit {
namespace {

constexpr std::size_t kValueCharactersMax = 300;

// Numbers objects in the order of the files that name them.
class Renaming {
 public:
  std::uint64_t operator()(std::uint64_t inode) {
    if (inode == 0) return 0;
    return names_.try_emplace(inode, names_.size() + 1).first->second;
  }

 private:
  std::map<std::uint64_t, std::uint64_t> names_;
};

void join_messages(proto::UnixSocket& socket) {
  if (socket.type() != SOCK_STREAM || socket.messages_size() < 2 || socket.senders_size() > 0)
    return;
  std::string all;
  for (const auto& message : socket.messages()) all += message;
  socket.clear_messages();
  socket.add_messages(all);
}

// The queue is filled at the very end, and so these options are set, which would stand in its way.
void normalize_udp(proto::UdpSocket& socket) {
  const auto comes_last = [](const proto::SocketOption& option) {
    const int name = option.name();
    if (option.level() == IPPROTO_UDP) return name == UDP_CORK;
    return option.level() == SOL_SOCKET && (name == SO_ATTACH_FILTER || name == SO_PEEK_OFF);
  };
  socket.clear_inode();
  socket.clear_queue();
  auto& options = *socket.mutable_options();
  options.erase(std::remove_if(options.begin(), options.end(), comes_last), options.end());
}

void normalize(proto::OpenFile& file, Renaming& rename) {
  if (file.has_regular_file()) {
    file.mutable_regular_file()->clear_modified_ns();
    file.mutable_regular_file()->clear_inode();
  } else if (file.has_pipe_end()) {
    auto& end = *file.mutable_pipe_end();
    end.set_pipe(rename(end.pipe()));
    if (end.packets_size() == 1) end.clear_packets();
  } else if (file.has_epoll()) {
    // The kernel adds these two itself when a target is added.
    for (auto& target : *file.mutable_epoll()->mutable_targets()) {
      target.set_events(target.events() | EPOLLERR | EPOLLHUP);
    }
  } else if (file.has_timerfd()) {
    auto& timer = *file.mutable_timerfd();
    // Armed or not is what counts; an expiration may have come in between.
    timer.set_remaining_ns(timer.remaining_ns() != 0 || timer.expirations() != 0);
    timer.clear_deadline_ns();
    timer.clear_expirations();
  } else if (file.has_unix_socket()) {
    auto& socket = *file.mutable_unix_socket();
    socket.set_inode(rename(socket.inode()));
    socket.set_peer(rename(socket.peer()));
    join_messages(socket);
  } else if (file.has_udp_socket()) {
    normalize_udp(*file.mutable_udp_socket());
  } else if (file.has_tcp_socket()) {
    auto& socket = *file.mutable_tcp_socket();
    socket.clear_inode();
    // A socket in repair mode is not what it will be when it is released.
    socket.clear_stream();
    socket.clear_state();
    socket.clear_options();
  }
}

void split_lines(const std::string& text, const std::string& prefix,
                 std::vector<std::string>& out) {
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (line.size() > kValueCharactersMax) line.resize(kValueCharactersMax);
    out.push_back(prefix + line);
  }
}

template <typename Message>
void compare_messages(const Message& expected, const Message& found, const std::string& prefix,
                      std::vector<std::string>& out) {
  google::protobuf::util::MessageDifferencer differencer;
  const auto* targets = proto::Epoll::descriptor()->FindFieldByName("targets");
  differencer.TreatAsSet(targets);
  std::string text;
  differencer.ReportDifferencesToString(&text);
  if (!differencer.Compare(expected, found)) split_lines(text, prefix, out);
}

template <typename Entries, typename KeyOf>
auto by_key(const Entries& entries, KeyOf key_of) {
  std::map<int, typename Entries::value_type> out;
  for (const auto& entry : entries) out.emplace(key_of(entry), entry);
  return out;
}

template <typename Entries, typename KeyOf>
void compare_entries(const Entries& expected, const Entries& found, KeyOf key_of,
                     const std::string& what, std::vector<std::string>& out) {
  const auto have = by_key(found, key_of);
  const auto want = by_key(expected, key_of);
  for (const auto& [key, entry] : want) {
    const auto other = have.find(key);
    if (other == have.end()) {
      out.push_back(fmt::format("{} {}: missing", what, key));
    } else {
      compare_messages(entry, other->second, fmt::format("{} {}: ", what, key), out);
    }
  }
  for (const auto& [key, entry] : have) {
    if (want.count(key) == 0) out.push_back(fmt::format("{} {}: not expected", what, key));
  }
}

}  // namespace

std::vector<std::string> compare_fd_tables(const proto::FdTable& expected,
                                           const proto::FdTable& found) {
  proto::FdTable want = expected;
  proto::FdTable have = found;
  Renaming rename_wanted;
  Renaming rename_found;
  for (auto& file : *want.mutable_files()) normalize(file, rename_wanted);
  for (auto& file : *have.mutable_files()) normalize(file, rename_found);
  std::vector<std::string> out;
  compare_entries(
      want.descriptors(), have.descriptors(),
      [](const proto::Descriptor& entry) { return entry.fd(); }, "fd", out);
  compare_entries(
      want.files(), have.files(),
      [](const proto::OpenFile& entry) { return static_cast<int>(entry.id()); }, "open file", out);
  return out;
}

}  // namespace godwit
