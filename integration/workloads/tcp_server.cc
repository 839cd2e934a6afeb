// A TCP server for v4 and v6 that checks every byte: connections that echo frames, connections half
// closed by either side, and new ones all the time. Its counterpart is client_tcp_stream.
//   workload_tcp_server STATUS-FILE STOP-FILE [PORT [V4-ADDRESS [V6-ADDRESS]]]
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <map>
#include <string>
#include <utility>

#include "integration/workloads/frames.h"
#include "integration/workloads/selfcheck.h"

namespace {

namespace frames = godwit::frames;
using selfcheck::expect;
using selfcheck::give_up;
using selfcheck::must;

constexpr size_t kOutBytesMax = 1 << 20;

struct Connection {
  char mode = 0;
  bool peer_closed = false;
  std::string in;
  std::string out;
  uint64_t next_in = 0;   // number of the next frame to come
  uint64_t next_out = 0;  // of the next one of our own
};

class Server {
 public:
  void listen_on(int family, const char* address, uint16_t port) {
    const int fd = must(socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), "socket");
    const int on = 1;
    must(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on), "SO_REUSEADDR");
    sockaddr_storage storage{};
    socklen_t bytes = sizeof(sockaddr_in);
    storage.ss_family = static_cast<sa_family_t>(family);
    if (family == AF_INET) {
      auto& local = reinterpret_cast<sockaddr_in&>(storage);
      local.sin_port = htons(port);
      expect(inet_pton(family, address, &local.sin_addr) == 1, "bad v4 address");
    } else {
      auto& local = reinterpret_cast<sockaddr_in6&>(storage);
      local.sin6_port = htons(port);
      bytes = sizeof(sockaddr_in6);
      expect(inet_pton(family, address, &local.sin6_addr) == 1, "bad v6 address");
      must(setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on), "IPV6_V6ONLY");
    }
    must(bind(fd, reinterpret_cast<sockaddr*>(&storage), bytes), "bind");
    must(listen(fd, 64), "listen");
    if (epoll_ < 0) epoll_ = must(epoll_create1(EPOLL_CLOEXEC), "epoll_create1");
    watch(EPOLL_CTL_ADD, fd, EPOLLIN);
    (family == AF_INET ? listener4_ : listener6_) = fd;
  }

  // Serves for a few milliseconds.
  void turn() {
    const int64_t end_ns = selfcheck::now_ns(CLOCK_MONOTONIC) + 10'000'000;
    do {
      epoll_event events[64];
      const int count = epoll_wait(epoll_, events, 64, 2);
      expect(count >= 0 || errno == EINTR, "epoll_wait failed");
      for (int i = 0; i < count; ++i) serve(events[i].data.fd);
    } while (selfcheck::now_ns(CLOCK_MONOTONIC) < end_ns);
    for (auto next = connections_.begin(); next != connections_.end();) {
      const auto [fd, alive] = std::pair(next->first, stream(next->first, next->second));
      ++next;
      if (!alive) end(fd);
    }
  }

 private:
  void watch(int operation, int fd, uint32_t what) {
    epoll_event event{};
    event.events = what;
    event.data.fd = fd;
    must(epoll_ctl(epoll_, operation, fd, &event), "epoll_ctl");
  }

  void serve(int fd) {
    if (fd == listener4_ || fd == listener6_) return accept_all(fd);
    const auto found = connections_.find(fd);
    if (found == connections_.end()) give_up("an event for a descriptor that is no connection");
    Connection& connection = found->second;
    if (!connection.peer_closed && !read_some(fd, connection)) return end(fd);
    if (!flush(fd, connection)) return end(fd);
    const bool done = connection.peer_closed && connection.out.empty() &&
                      connection.mode != frames::kClientHalfCloses;
    if (done) end(fd);
  }

  void accept_all(int listener) {
    for (;;) {
      const int fd = accept4(listener, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
      if (fd < 0) {
        expect(errno == EAGAIN || errno == ECONNABORTED || errno == EINTR, "accept4 failed");
        return;
      }
      const int on = 1;
      must(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on), "TCP_NODELAY");
      connections_[fd] = {};
      watch(EPOLL_CTL_ADD, fd, EPOLLIN);
    }
  }

  // False: the connection has come to its end.
  bool read_some(int fd, Connection& connection) {
    char buffer[65536];
    if (connection.out.size() > kOutBytesMax) return true;
    const ssize_t got = recv(fd, buffer, sizeof buffer, 0);
    if (got < 0) {
      if (errno == EAGAIN || errno == EINTR) return true;
      if (connection.mode == frames::kClientHalfCloses) return false;
      give_up(std::string("a connection broke: ") + strerror(errno));
    }
    connection.in.append(buffer, static_cast<size_t>(got));
    if (connection.mode == 0 && got > 0) begin(fd, connection);
    judge(connection);
    if (got == 0) {
      expect(connection.in.empty(), "a connection ended within a frame");
      connection.peer_closed = true;
      watch(EPOLL_CTL_MOD, fd, 0);
    }
    return true;
  }

  void begin(int fd, Connection& connection) {
    connection.mode = connection.in[0];
    connection.in.erase(0, 1);
    if (connection.mode == frames::kServerHalfCloses) must(shutdown(fd, SHUT_WR), "shutdown");
  }

  void judge(Connection& connection) {
    size_t used = 0;
    frames::Frame frame;
    for (;;) {
      const std::string_view rest = std::string_view(connection.in).substr(used);
      const frames::Taken taken = frames::take_frame(rest, frame);
      expect(taken != frames::Taken::kBad, "a frame's checksum is wrong");
      if (taken == frames::Taken::kIncomplete) break;
      selfcheck::expect_equal(frame.number, connection.next_in, "a frame is lost or doubled");
      ++connection.next_in;
      if (connection.mode == frames::kEcho) {
        frames::append_frame(connection.out, frame.number, frame.payload);
      }
      used += frame.bytes;
    }
    connection.in.erase(0, used);
  }

  // False: the other side is gone, which only one that had closed its half may be.
  bool flush(int fd, Connection& connection) {
    while (!connection.out.empty()) {
      const ssize_t sent = send(fd, connection.out.data(), connection.out.size(), MSG_NOSIGNAL);
      if (sent < 0) {
        if (errno == EINTR) continue;
        if (errno == EAGAIN) break;
        expect(connection.mode == frames::kClientHalfCloses,
               std::string("send failed: ") + strerror(errno));
        return false;
      }
      connection.out.erase(0, static_cast<size_t>(sent));
    }
    const bool reading = !connection.peer_closed && connection.out.size() <= kOutBytesMax;
    uint32_t what = 0;
    if (reading) what |= EPOLLIN;
    if (!connection.out.empty()) what |= EPOLLOUT;
    watch(EPOLL_CTL_MOD, fd, what);
    return true;
  }

  // Frames of our own for a client that has shut its side down.
  bool stream(int fd, Connection& connection) {
    if (connection.mode != frames::kClientHalfCloses || connection.out.size() > kOutBytesMax) {
      return true;
    }
    const std::string payload = frames::payload_of('H', connection.next_out, 500);
    frames::append_frame(connection.out, connection.next_out++, payload);
    return flush(fd, connection);
  }

  void end(int fd) {
    connections_.erase(fd);
    must(close(fd), "close");
  }

  int epoll_ = -1;
  int listener4_ = -1;
  int listener6_ = -1;
  std::map<int, Connection> connections_;
};

}  // namespace

int main(int argc, char** argv) {
  const auto port = static_cast<uint16_t>(argc > 3 ? atoi(argv[3]) : 7000);
  const char* address4 = argc > 4 ? argv[4] : "127.0.0.1";
  const char* address6 = argc > 5 ? argv[5] : "::1";
  Server server;
  const auto set_up = [&] {
    server.listen_on(AF_INET, address4, port);
    server.listen_on(AF_INET6, address6, port);
  };
  return selfcheck::run_workload(
      std::min(argc, 3), argv, set_up, [&] { server.turn(); }, [] {});
}
