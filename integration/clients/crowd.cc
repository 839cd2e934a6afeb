// The clients of workload_crowd: one that asks all the time and times every gap, and any number
// that stay connected, each with a word of its own before and after.
//   client_crowd --host H --port P [--connections 100] [--seconds S] [--json FILE]
// Ends after S seconds or at SIGTERM, when every connection has given back one more word and
// everything it was sent. Exit code 1: something was lost, wrong or reset.
#include <fmt/format.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include <atomic>
#include <exception>
#include <string>
#include <thread>
#include <vector>

#include "integration/clients/ending.h"
#include "integration/clients/resp.h"
#include "integration/clients/timeline.h"

namespace godwit::client {
namespace {

constexpr int kAnswerMs = 10'000;
constexpr useconds_t kPauseUs = 200;  // far below what a gap is measured in

// One connection that gets back what it sends.
class Caller {
 public:
  Caller(const std::string& host, const std::string& port, uint64_t number)
      : fd_(connect_to(host, port)), number_(number) {}
  ~Caller() {
    if (fd_ >= 0) close(fd_);
  }
  Caller(Caller&& other) noexcept
      : fd_(std::exchange(other.fd_, -1)), number_(other.number_), asked_(other.asked_) {}
  Caller& operator=(Caller&&) = delete;

  // Sends a word that was not sent before and waits for its return.
  void ask() {
    const std::string word = fmt::format("{:016x}", Pattern(number_ << 32 | asked_++).next());
    if (!send_all(fd_, word)) throw broken("sending");
    std::string answer;
    while (answer.size() < word.size()) {
      char buffer[64];
      pollfd waiting{fd_, POLLIN, 0};
      if (poll(&waiting, 1, kAnswerMs) == 0) throw broken("waiting for an answer");
      const ssize_t got = recv(fd_, buffer, sizeof buffer, 0);
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0) throw broken("receiving");
      answer.append(buffer, static_cast<size_t>(got));
    }
    if (answer != word) throw broken("a wrong answer");
  }

 private:
  std::runtime_error broken(const char* doing) const {
    return std::runtime_error(fmt::format("connection {}: {}", number_, doing));
  }

  int fd_;
  uint64_t number_;
  uint64_t asked_ = 0;
};

void raise_descriptor_limit() {
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

// What the asking client saw, one sample a reply.
Samples ask_until(Caller& caller, const std::atomic<bool>& stop) {
  Samples samples;
  int64_t last_ns = 0;
  while (!stop) {
    const int64_t sent_ns = monotonic_ns();
    caller.ask();
    const int64_t now_ns = monotonic_ns();
    samples.push_back({now_ns, saturated_ns(now_ns - sent_ns),
                       last_ns == 0 ? 0 : saturated_ns(now_ns - last_ns)});
    last_ns = now_ns;
    usleep(kPauseUs);
  }
  return samples;
}

int run(const Options& options) {
  block_ending_signals();
  prctl(PR_SET_TIMERSLACK, 1);
  raise_descriptor_limit();
  const std::string host = options.text("host", "127.0.0.1");
  const std::string port = options.text("port", "7000");
  std::vector<Caller> callers;
  const auto count = static_cast<uint64_t>(options.number("connections", 100));
  for (uint64_t i = 0; i < count; ++i) callers.emplace_back(host, port, i + 1);
  for (Caller& caller : callers) caller.ask();

  std::string failure;
  std::atomic<bool> stop = false;
  Samples samples;
  const int64_t start_ns = monotonic_ns();
  const int64_t start_unix_ns = clock_ns(CLOCK_REALTIME);
  std::thread asking([&] {
    try {
      Caller caller(host, port, 0);
      samples = ask_until(caller, stop);
    } catch (const std::exception& error) {
      failure = error.what();
    }
  });
  say_running();
  wait_for_end(options.number("seconds", 3600));
  stop = true;
  asking.join();
  const int64_t end_ns = monotonic_ns();
  uint64_t broken = failure.empty() ? 0 : 1;
  for (Caller& caller : callers) {
    try {
      caller.ask();
    } catch (const std::exception& error) {
      ++broken;
      failure = error.what();
    }
  }
  if (!failure.empty()) fmt::print(stderr, "client_crowd: {}\n", failure);
  Timeline timeline(start_ns, start_unix_ns, end_ns);
  timeline.add(samples);
  write_report(options.text("json", ""),
               fmt::format("{{\"connections\":{},\"broken\":{},\"story\":\"{}\",\"timeline\":{}}}",
                           count, broken, failure, timeline.json()));
  return broken == 0 ? 0 : 1;
}

}  // namespace
}  // namespace godwit::client

int main(int argc, char** argv) {
  try {
    return godwit::client::run(godwit::client::Options(argc, argv));
  } catch (const std::exception& error) {
    fmt::print(stderr, "client_crowd: {}\n", error.what());
    return 2;
  }
}
