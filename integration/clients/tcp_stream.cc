// Talks to workload_tcp_server over connections of every sort and checks every byte.
//   client_tcp_stream --host H --port P --seconds S [--connections 8] [--bytes-per-s 2000000]
//                     [--json FILE]
// Connections that stream frames both ways, one closed on either side, and new ones one after the
// other. Ends after S seconds or at SIGTERM. Exit code 1: something was lost, wrong or reset.
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <exception>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "integration/clients/ending.h"
#include "integration/clients/resp.h"
#include "integration/workloads/frames.h"

namespace godwit::client {
namespace {

struct Target {
  std::string host;
  std::string port;
};

// A socket with frames on it; blocking.
class FrameSocket {
 public:
  FrameSocket(const Target& target, char mode) : fd_(connect_to(target.host, target.port)) {
    send_bytes(std::string_view(&mode, 1));
  }
  ~FrameSocket() { close(fd_); }
  FrameSocket(const FrameSocket&) = delete;
  FrameSocket& operator=(const FrameSocket&) = delete;

  void send_bytes(std::string_view bytes) {
    if (!send_all(fd_, bytes)) {
      throw std::system_error(errno, std::generic_category(), "a connection broke while sending");
    }
  }

  void shut_down(int how) { shutdown(fd_, how); }

  // The next frame, or nullopt at the end of the stream.
  std::optional<frames::Frame> receive() {
    in_.erase(0, used_);
    used_ = 0;
    for (;;) {
      frames::Frame frame;
      const frames::Taken taken = frames::take_frame(in_, frame);
      if (taken == frames::Taken::kBad) throw std::runtime_error("a frame is damaged");
      if (taken == frames::Taken::kFrame) {
        used_ = frame.bytes;
        return frame;
      }
      if (!read_more()) return std::nullopt;
    }
  }

 private:
  bool read_more() {
    const size_t had = in_.size();
    in_.resize(had + 65536);
    ssize_t got = 0;
    do {
      got = recv(fd_, in_.data() + had, 65536, 0);
    } while (got < 0 && errno == EINTR);
    const int error = errno;
    in_.resize(had + (got > 0 ? static_cast<size_t>(got) : 0));
    if (got < 0) throw std::system_error(error, std::generic_category(), "a connection broke");
    if (got == 0 && !in_.empty()) throw std::runtime_error("a stream ended within a frame");
    return got > 0;
  }

  int fd_;
  std::string in_;
  size_t used_ = 0;
};

void sleep_ns(int64_t ns) {
  const timespec pause{ns / 1'000'000'000, ns % 1'000'000'000};
  nanosleep(&pause, nullptr);
}

// What the threads share.
class Streams {
 public:
  Streams(Target target, double bytes_per_s) : target_(std::move(target)), rate_(bytes_per_s) {}

  // Runs `body` on a thread; what it throws is a failure that is reported.
  void start(const std::function<void()>& body) {
    threads_.emplace_back([this, body] {
      try {
        body();
      } catch (const std::exception& error) {
        const std::lock_guard guard(mutex_);
        failures_.emplace_back(error.what());
      }
    });
  }

  void start_all(int64_t connections) {
    for (int64_t i = 0; i < connections; ++i) {
      start([this, i] { echo(static_cast<uint64_t>(i)); });
    }
    start([this] { client_half_closes(); });
    start([this] { server_half_closes(); });
    start([this] { come_and_go(); });
  }

  int finish(const std::string& file) {
    stop_ = true;
    for (std::thread& thread : threads_) thread.join();
    std::string stories;
    for (const std::string& failure : failures_) {
      fmt::print(stderr, "client_tcp_stream: {}\n", failure);
      fmt::format_to(std::back_inserter(stories), "{}\"{}\"", stories.empty() ? "" : ",", failure);
    }
    write_report(file, fmt::format("{{\"failures\":[{}],\"frames\":{},\"bytes\":{},\"connects\":{},"
                                   "\"connect_max_ms\":{:.3f},"
                                   "\"gap_max_ms\":{:.3f}}}",
                                   stories, frames_.load(), bytes_.load(), connects_.load(),
                                   connect_max_ns_ / 1e6, gap_max_ns_ / 1e6));
    return failures_.empty() ? 0 : 1;
  }

 private:
  // Frames go out at the rate, and come back whole and in order.
  void echo(uint64_t stream) {
    FrameSocket socket(target_, frames::kEcho);
    std::atomic<uint64_t> sent = 0;
    std::atomic<bool> broken = false;
    std::exception_ptr failure;
    std::thread sender([&] {
      try {
        send_frames(socket, stream, sent, broken);
        socket.shut_down(SHUT_WR);
      } catch (...) {
        failure = std::current_exception();
        socket.shut_down(SHUT_RDWR);
      }
    });
    try {
      receive_echoes(socket, stream, sent);
    } catch (...) {
      broken = true;
      socket.shut_down(SHUT_RDWR);
      sender.join();
      throw;
    }
    sender.join();
    if (failure) std::rethrow_exception(failure);
  }

  void send_frames(FrameSocket& socket, uint64_t stream, std::atomic<uint64_t>& sent,
                   const std::atomic<bool>& broken) {
    std::string out;
    int64_t due_ns = monotonic_ns();
    for (uint64_t number = 0; !stop_ && !broken; ++number) {
      out.clear();
      const size_t bytes = size_of(stream, number);
      frames::append_frame(out, number, frames::payload_of(stream, number, bytes));
      socket.send_bytes(out);
      sent = number + 1;
      due_ns = std::max(due_ns + static_cast<int64_t>(1e9 * static_cast<double>(bytes) / rate_),
                        monotonic_ns() - 50'000'000);
      if (const int64_t left_ns = due_ns - monotonic_ns(); left_ns > 0) sleep_ns(left_ns);
    }
  }

  void receive_echoes(FrameSocket& socket, uint64_t stream, const std::atomic<uint64_t>& sent) {
    uint64_t number = 0;
    int64_t last_ns = 0;
    for (; const auto frame = socket.receive(); ++number) {
      const size_t bytes = size_of(stream, number);
      if (frame->number != number || frame->payload != frames::payload_of(stream, number, bytes)) {
        throw std::runtime_error(fmt::format("echo {} is not what was sent", number));
      }
      note_gap(last_ns);
      ++frames_;
      bytes_ += frame->bytes;
    }
    if (number != sent) throw std::runtime_error(fmt::format("{} of {} came back", number, +sent));
  }

  static size_t size_of(uint64_t stream, uint64_t number) {
    return 1 + frames::mix(stream * 1'000'003 + number) % 16384;
  }

  // The client has shut its side down; the server's frames go on coming.
  void client_half_closes() {
    FrameSocket socket(target_, frames::kClientHalfCloses);
    socket.shut_down(SHUT_WR);
    for (uint64_t number = 0; !stop_; ++number) {
      const auto frame = socket.receive();
      if (!frame || frame->number != number) {
        throw std::runtime_error("half-closed by the client: a frame is missing");
      }
      ++frames_;
    }
  }

  // The server has shut its side down; frames go on to it, which it judges.
  void server_half_closes() {
    FrameSocket socket(target_, frames::kServerHalfCloses);
    if (socket.receive()) throw std::runtime_error("a frame from a side that was shut down");
    std::string out;
    for (uint64_t number = 0; !stop_; ++number) {
      out.clear();
      frames::append_frame(out, number, frames::payload_of('R', number, 300));
      socket.send_bytes(out);
      ++frames_;
      sleep_ns(5'000'000);
    }
  }

  // New connections, one frame each.
  void come_and_go() {
    for (uint64_t number = 0; !stop_; ++number) {
      const int64_t start_ns = monotonic_ns();
      FrameSocket socket(target_, frames::kEcho);
      connect_max_ns_ = std::max(connect_max_ns_, monotonic_ns() - start_ns);
      std::string out;
      frames::append_frame(out, 0, frames::payload_of('N', number, 100));
      socket.send_bytes(out);
      socket.shut_down(SHUT_WR);
      const auto frame = socket.receive();
      if (!frame || frame->payload != frames::payload_of('N', number, 100) || socket.receive()) {
        throw std::runtime_error("a new connection's echo is wrong");
      }
      ++connects_;
      sleep_ns(10'000'000);
    }
  }

  void note_gap(int64_t& last_ns) {
    const int64_t now_ns = monotonic_ns();
    if (last_ns != 0) {
      const std::lock_guard guard(mutex_);
      gap_max_ns_ = std::max(gap_max_ns_, now_ns - last_ns);
    }
    last_ns = now_ns;
  }

  Target target_;
  double rate_;  // bytes a second of each connection
  std::atomic<bool> stop_ = false;
  std::vector<std::thread> threads_;
  std::mutex mutex_;
  std::vector<std::string> failures_;  // under mutex_
  int64_t gap_max_ns_ = 0;             // under mutex_
  int64_t connect_max_ns_ = 0;         // by one thread
  std::atomic<uint64_t> frames_ = 0;
  std::atomic<uint64_t> bytes_ = 0;
  std::atomic<uint64_t> connects_ = 0;
};

int run(const Options& options) {
  block_ending_signals();
  Streams streams({options.text("host", "127.0.0.1"), options.text("port", "7000")},
                  options.fraction("bytes-per-s", 2'000'000));
  streams.start_all(options.number("connections", 8));
  say_running();
  wait_for_end(options.number("seconds", 3600));
  return streams.finish(options.text("json", ""));
}

}  // namespace
}  // namespace godwit::client

int main(int argc, char** argv) {
  try {
    return godwit::client::run(godwit::client::Options(argc, argv));
  } catch (const std::exception& error) {
    fmt::print(stderr, "client_tcp_stream: {}\n", error.what());
    return 2;
  }
}
