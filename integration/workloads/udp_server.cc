// A UDP server for v4 and v6: every numbered datagram is answered, none may come twice. Its
// counterpart is client_udp, which knows what was lost.
//   workload_udp_server STATUS-FILE STOP-FILE [PORT [V4-ADDRESS [V6-ADDRESS]]]
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "integration/workloads/frames.h"
#include "integration/workloads/selfcheck.h"

namespace {

namespace frames = godwit::frames;
using selfcheck::expect;
using selfcheck::must;

int bound_socket(int family, const char* address, uint16_t port) {
  const int fd = must(socket(family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), "socket");
  sockaddr_in local4{};
  sockaddr_in6 local6{};
  if (family == AF_INET) {
    local4.sin_family = AF_INET;
    local4.sin_port = htons(port);
    expect(inet_pton(family, address, &local4.sin_addr) == 1, "bad v4 address");
    must(bind(fd, reinterpret_cast<sockaddr*>(&local4), sizeof local4), "bind v4");
  } else {
    const int on = 1;
    must(setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on), "IPV6_V6ONLY");
    local6.sin6_family = AF_INET6;
    local6.sin6_port = htons(port);
    expect(inet_pton(family, address, &local6.sin6_addr) == 1, "bad v6 address");
    must(bind(fd, reinterpret_cast<sockaddr*>(&local6), sizeof local6), "bind v6");
  }
  return fd;
}

class Server {
 public:
  void open(const char* address4, const char* address6, uint16_t port) {
    waiting_[0] = {bound_socket(AF_INET, address4, port), POLLIN, 0};
    waiting_[1] = {bound_socket(AF_INET6, address6, port), POLLIN, 0};
  }

  void turn() {
    const int64_t end_ns = selfcheck::now_ns(CLOCK_MONOTONIC) + 10'000'000;
    do {
      const int ready = poll(waiting_, 2, 2);
      expect(ready >= 0 || errno == EINTR, "poll failed");
      for (const pollfd& socket : waiting_) {
        if (ready > 0 && (socket.revents & POLLIN) != 0) answer_all(socket.fd);
      }
    } while (selfcheck::now_ns(CLOCK_MONOTONIC) < end_ns);
  }

 private:
  void answer_all(int fd) {
    for (;;) {
      frames::Datagram datagram;
      sockaddr_storage from;
      socklen_t from_bytes = sizeof from;
      const ssize_t got = recvfrom(fd, &datagram, sizeof datagram, 0,
                                   reinterpret_cast<sockaddr*>(&from), &from_bytes);
      if (got < 0) {
        // A client that is gone already makes the next call fail once with ECONNREFUSED.
        expect(errno == EAGAIN || errno == EINTR || errno == ECONNREFUSED, "recvfrom failed");
        return;
      }
      expect(got == sizeof datagram, "a datagram was cut");
      const std::string_view payload(datagram.payload, sizeof datagram.payload);
      expect(datagram.check == frames::check_of(datagram.number, payload), "a datagram is damaged");
      auto& seen = seen_[datagram.client];
      if (seen.size() <= datagram.number) seen.resize(datagram.number + 1024);
      datagram.times = ++seen[datagram.number];
      expect(datagram.times == 1, "datagram " + std::to_string(datagram.number) + " came twice");
      const ssize_t sent =
          sendto(fd, &datagram, sizeof datagram, 0, reinterpret_cast<sockaddr*>(&from), from_bytes);
      expect(sent == sizeof datagram || errno == ECONNREFUSED,
             std::string("sendto failed: ") + strerror(errno));
    }
  }

  pollfd waiting_[2] = {};
  std::map<uint64_t, std::vector<uint8_t>> seen_;  // by client, times by number
};

}  // namespace

int main(int argc, char** argv) {
  const auto port = static_cast<uint16_t>(argc > 3 ? atoi(argv[3]) : 7001);
  const char* address4 = argc > 4 ? argv[4] : "127.0.0.1";
  const char* address6 = argc > 5 ? argv[5] : "::1";
  Server server;
  return selfcheck::run_workload(
      std::min(argc, 3), argv, [&] { server.open(address4, address6, port); },
      [&] { server.turn(); }, [] {});
}
