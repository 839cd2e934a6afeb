// Sends numbered datagrams to workload_udp_server and counts what is lost or comes back twice.
//   client_udp --host H --port P --seconds S [--rate 2000] [--json FILE]
// No datagram is ever sent again: a lost one stays lost. Ends after S seconds or at SIGTERM. Exit
// code 1: lost, doubled or damaged.
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>

#include <algorithm>
#include <cstdio>
#include <exception>
#include <string>
#include <string_view>
#include <vector>

#include "integration/clients/ending.h"
#include "integration/clients/resp.h"
#include "integration/workloads/frames.h"

namespace godwit::client {
namespace {

class Datagrams {
 public:
  explicit Datagrams(const Options& options)
      : fd_(connect_to(options.text("host", "127.0.0.1"), options.text("port", "7001"),
                       SOCK_DGRAM)),
        period_ns_(static_cast<int64_t>(1e9 / options.fraction("rate", 2000))),
        end_ns_(monotonic_ns() + options.number("seconds", 3600) * 1'000'000'000),
        client_(static_cast<uint64_t>(clock_ns(CLOCK_REALTIME))) {}
  ~Datagrams() { close(fd_); }
  Datagrams(const Datagrams&) = delete;
  Datagrams& operator=(const Datagrams&) = delete;

  void run(int signals) {
    pollfd waiting[2] = {{fd_, POLLIN, 0}, {signals, POLLIN, 0}};
    int64_t due_ns = monotonic_ns();
    int64_t grace_end_ns = 0;
    for (;;) {
      const int64_t now_ns = monotonic_ns();
      if (grace_end_ns == 0 && now_ns >= end_ns_) grace_end_ns = now_ns + 2'000'000'000;
      if (grace_end_ns != 0 && (now_ns > grace_end_ns || answered_ == answers_.size())) return;
      if (grace_end_ns == 0 && now_ns >= due_ns) {
        send_next();
        due_ns = std::max(due_ns + period_ns_, now_ns - 50'000'000);
        continue;
      }
      const int64_t wait_ns =
          grace_end_ns == 0 ? std::max<int64_t>(due_ns - now_ns, 0) : 50'000'000;
      const timespec timeout{wait_ns / 1'000'000'000, wait_ns % 1'000'000'000};
      if (ppoll(waiting, 2, &timeout, nullptr) <= 0) continue;
      if ((waiting[0].revents & (POLLIN | POLLERR)) != 0) receive();
      if ((waiting[1].revents & POLLIN) != 0) end_ns_ = std::min(end_ns_, now_ns);
    }
  }

  int report(const std::string& file) const {
    const auto lost = std::count(answers_.begin(), answers_.end(), 0);
    const auto doubled =
        std::count_if(answers_.begin(), answers_.end(), [](int times) { return times > 1; });
    write_report(
        file, fmt::format("{{\"sent\":{},\"lost\":{},\"doubled\":{},\"damaged\":{},\"errors\":{},"
                          "\"gap_max_ms\":{:.3f}}}",
                          answers_.size(), lost, doubled, damaged_, errors_, gap_max_ns_ / 1e6));
    return lost + doubled == 0 && damaged_ + errors_ == 0 ? 0 : 1;
  }

 private:
  void send_next() {
    frames::Datagram datagram{};
    datagram.client = client_;
    datagram.number = answers_.size();
    const std::string payload =
        frames::payload_of(client_, datagram.number, sizeof datagram.payload);
    std::copy(payload.begin(), payload.end(), datagram.payload);
    datagram.check = frames::check_of(datagram.number, payload);
    answers_.push_back(0);
    if (send(fd_, &datagram, sizeof datagram, 0) != sizeof datagram) ++errors_;
  }

  void receive() {
    frames::Datagram datagram;
    const ssize_t got = recv(fd_, &datagram, sizeof datagram, MSG_DONTWAIT);
    if (got < 0) {
      if (errno != EAGAIN && errno != EINTR) ++errors_;
      return;
    }
    const std::string_view payload(datagram.payload, sizeof datagram.payload);
    if (got != sizeof datagram || datagram.client != client_ ||
        datagram.number >= answers_.size() || datagram.times != 1 ||
        datagram.check != frames::check_of(datagram.number, payload)) {
      ++damaged_;
      return;
    }
    if (answers_[datagram.number]++ == 0) ++answered_;
    const int64_t now_ns = monotonic_ns();
    if (last_ns_ != 0) gap_max_ns_ = std::max(gap_max_ns_, now_ns - last_ns_);
    last_ns_ = now_ns;
  }

  int fd_;
  int64_t period_ns_;
  int64_t end_ns_;
  uint64_t client_;
  std::vector<int> answers_;  // by number
  size_t answered_ = 0;
  uint64_t damaged_ = 0;
  uint64_t errors_ = 0;  // of send and receive: an ICMP answer shows here
  int64_t last_ns_ = 0;
  int64_t gap_max_ns_ = 0;
};

}  // namespace
}  // namespace godwit::client

int main(int argc, char** argv) {
  try {
    const godwit::client::Options options(argc, argv);
    godwit::client::block_ending_signals();
    const sigset_t ending = godwit::client::ending_signals();
    godwit::client::Datagrams datagrams(options);
    godwit::client::say_running();
    datagrams.run(signalfd(-1, &ending, SFD_CLOEXEC));
    return datagrams.report(options.text("json", ""));
  } catch (const std::exception& error) {
    fmt::print(stderr, "client_udp: {}\n", error.what());
    return 2;
  }
}
