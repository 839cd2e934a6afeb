// Threads that ask a server all the time until SIGTERM: how they are started, ended and judged.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "integration/clients/ending.h"
#include "integration/clients/resp.h"

namespace godwit::client {

// Make it before any other thread: it blocks the signals that end the load.
class Load {
 public:
  Load() { block_ending_signals(); }

  // Runs `body` on a thread of its own; what it throws is a failure with the name in front.
  void start(std::string name, std::function<void()> body) {
    threads_.emplace_back([this, name = std::move(name), body = std::move(body)] {
      try {
        body();
      } catch (const std::exception& error) {
        const std::lock_guard guard(mutex_);
        failures_.push_back(fmt::format("{}: {}", name, error.what()));
      }
    });
  }

  bool stopping() const { return stop_; }

  // One answered request.
  void count(int64_t began_ns) {
    const int64_t took_ns = monotonic_ns() - began_ns;
    ++requests_;
    int64_t longest = longest_ns_;
    while (took_ns > longest && !longest_ns_.compare_exchange_weak(longest, took_ns)) {
    }
  }

  // Says that it runs and lets it, for `seconds` or until SIGTERM; then waits for every thread.
  void run(int64_t seconds) {
    say_running();
    wait_for_end(seconds);
    stop_ = true;
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
  }

  // The exit code: 0 when nothing failed. `more` is JSON to be added: `,"name":value`.
  int report(const std::string& file, const std::string& more = "") const {
    std::string stories;
    for (const std::string& failure : failures_) {
      fmt::print(stderr, "{}\n", failure);
      stories += fmt::format("{}\"{}\"", stories.empty() ? "" : ",", failure);
    }
    write_report(
        file, fmt::format("{{\"failures\":[{}],\"requests\":{},\"longest_ms\":{:.3f}{}}}", stories,
                          requests_.load(), static_cast<double>(longest_ns_) / 1e6, more));
    return failures_.empty() ? 0 : 1;
  }

 private:
  std::atomic<bool> stop_ = false;
  std::atomic<uint64_t> requests_ = 0;
  std::atomic<int64_t> longest_ns_ = 0;
  std::vector<std::thread> threads_;
  std::mutex mutex_;
  std::vector<std::string> failures_;  // under mutex_
};

}  // namespace godwit::client
