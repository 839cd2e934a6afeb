// Fills a redis with random values, or reads every one back and compares (--verify).
//   client_redis_fill --host H --port P --mib N [--value-bytes 1000] [--seed S] [--verify]
// Prints one JSON object. Exit code 1: something is missing or different.
#include <fmt/format.h>

#include <cstdio>
#include <exception>
#include <string>

#include "integration/clients/resp.h"

namespace godwit::client {
namespace {

class Filler {
 public:
  explicit Filler(const Options& options)
      : fd_(connect_to(options.text("host", "127.0.0.1"), options.text("port", "6379"))),
        seed_(static_cast<uint64_t>(options.number("seed", 1))),
        value_bytes_(static_cast<size_t>(options.number("value-bytes", 1000))),
        keys_((static_cast<uint64_t>(options.number("mib", 64)) << 20) / value_bytes_),
        verify_(options.has("verify")) {}
  ~Filler() { close(fd_); }
  Filler(const Filler&) = delete;
  Filler& operator=(const Filler&) = delete;

  int run() {
    const int64_t start_ns = monotonic_ns();
    for (uint64_t key = 0; key < keys_; key += kBatch) batch(key, std::min(key + kBatch, keys_));
    fmt::print(
        "{{\"keys\":{},\"value_bytes\":{},\"wrong\":{},\"missing\":{},\"seconds\":{:.3f}}}\n",
        keys_, value_bytes_, wrong_, missing_,
        static_cast<double>(monotonic_ns() - start_ns) / 1e9);
    return wrong_ + missing_ == 0 ? 0 : 1;
  }

 private:
  static constexpr uint64_t kBatch = 64;

  void value_of(uint64_t key, std::string& out) const {
    Pattern(seed_ * 0x2545F4914F6CDD1Du + key).fill(out, value_bytes_);
  }

  // Sends the commands for the keys [first, end) and reads their replies.
  void batch(uint64_t first, uint64_t end) {
    commands_.clear();
    for (uint64_t key = first; key < end; ++key) {
      const std::string name = fmt::format("fill:{:08}", key);
      if (verify_) {
        append_command(commands_, {"GET", name});
      } else {
        value_of(key, value_);
        append_command(commands_, {"SET", name, value_});
      }
    }
    if (!send_all(fd_, commands_)) throw std::runtime_error("the connection is gone");
    for (uint64_t key = first; key < end; ++key) check(key, next_reply());
  }

  Reply next_reply() {
    for (;;) {
      if (const auto reply = reader_.try_next()) return *reply;
      if (!reader_.feed(fd_, 0)) throw std::runtime_error("the connection is gone");
    }
  }

  void check(uint64_t key, const Reply& reply) {
    if (reply.type == '-') throw std::runtime_error(fmt::format("key {}: {}", key, reply.text));
    if (!verify_) return;
    value_of(key, value_);
    if (reply.missing) {
      ++missing_;
    } else if (reply.text != value_) {
      ++wrong_;
    }
  }

  int fd_;
  uint64_t seed_;
  size_t value_bytes_;
  uint64_t keys_;
  bool verify_;
  ReplyReader reader_;
  std::string commands_;
  std::string value_;
  uint64_t wrong_ = 0;
  uint64_t missing_ = 0;
};

}  // namespace
}  // namespace godwit::client

int main(int argc, char** argv) {
  try {
    return godwit::client::Filler(godwit::client::Options(argc, argv)).run();
  } catch (const std::exception& error) {
    fmt::print(stderr, "client_redis_fill: {}\n", error.what());
    return 2;
  }
}
