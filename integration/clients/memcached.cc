// Clients of a memcached that know every value they have stored: each sets, gets and counts up on a
// connection and keys of its own, compares every answer, and reads everything back at the end.
//   client_memcached --host H --port P [--clients 8] [--keys 1000] [--value-bytes 1000]
//                    [--pause-us 200] [--seconds S] [--json FILE]
// Ends after S seconds or at SIGTERM. Exit code 1: a wrong or missing answer, a broken connection.
#include <algorithm>
#include <exception>
#include <memory>
#include <string>
#include <vector>

#include "integration/clients/line_socket.h"
#include "integration/clients/load.h"

namespace godwit::client {
namespace {

class Client {
 public:
  Client(const Options& options, uint64_t number, Load& load)
      : load_(load),
        socket_(options.text("host", "127.0.0.1"), options.text("port", "11211")),
        number_(number),
        versions_(static_cast<size_t>(options.number("keys", 1000))),
        value_bytes_(static_cast<size_t>(options.number("value-bytes", 1000))),
        pause_us_(static_cast<useconds_t>(options.number("pause-us", 200))),
        random_(number + 1) {
    for (size_t key = 0; key < versions_.size(); ++key) set(key);
    ask(fmt::format("set counter-{} 0 0 1\r\n0\r\n", number_), "STORED");
  }

  void work() {
    while (!load_.stopping()) {
      const size_t key = random_.next() % versions_.size();
      const int64_t began_ns = monotonic_ns();
      switch (random_.next() % 8) {
        case 0:
        case 1:
          set(key);
          break;
        case 2:
          ask(fmt::format("incr counter-{} 1\r\n", number_), fmt::format("{}", ++counted_));
          break;
        default:
          get(key);
      }
      load_.count(began_ns);
      usleep(pause_us_);
    }
    for (size_t key = 0; key < versions_.size(); ++key) get(key);
  }

 private:
  std::string name(size_t key) const { return fmt::format("client-{}-key-{}", number_, key); }

  std::string value(size_t key) const {
    std::string value;
    Pattern(number_ << 48 | static_cast<uint64_t>(key) << 24 | versions_[key])
        .fill(value, value_bytes_);
    return value;
  }

  void ask(const std::string& request, std::string_view wanted) {
    socket_.send(request);
    const std::string_view answer = socket_.line();
    if (answer != wanted) {
      throw std::runtime_error(fmt::format("answer \"{}\", expected \"{}\"", answer, wanted));
    }
  }

  void set(size_t key) {
    ++versions_[key];
    ask(fmt::format("set {} {} 0 {}\r\n{}\r\n", name(key), key, value_bytes_, value(key)),
        "STORED");
  }

  void get(size_t key) {
    ask(fmt::format("get {}\r\n", name(key)),
        fmt::format("VALUE {} {} {}", name(key), key, value_bytes_));
    if (socket_.bytes(value_bytes_) != value(key)) {
      throw std::runtime_error(fmt::format("{} is not what was stored last", name(key)));
    }
    if (!socket_.line().empty() || socket_.line() != "END") {
      throw std::runtime_error(fmt::format("the answer for {} has no end", name(key)));
    }
  }

  Load& load_;
  LineSocket socket_;
  uint64_t number_;
  std::vector<uint32_t> versions_;  // by key
  size_t value_bytes_;
  useconds_t pause_us_;
  Pattern random_;
  uint64_t counted_ = 0;
};

}  // namespace
}  // namespace godwit::client

int main(int argc, char** argv) {
  using godwit::client::Client;
  try {
    const godwit::client::Options options(argc, argv);
    godwit::client::Load load;
    std::vector<std::unique_ptr<Client>> clients;
    for (int64_t i = 0; i < options.number("clients", 8); ++i) {
      clients.push_back(std::make_unique<Client>(options, static_cast<uint64_t>(i), load));
    }
    for (size_t i = 0; i < clients.size(); ++i) {
      load.start(fmt::format("client {}", i), [&clients, i] { clients[i]->work(); });
    }
    load.run(options.number("seconds", 3600));
    return load.report(options.text("json", ""));
  } catch (const std::exception& error) {
    fmt::print(stderr, "client_memcached: {}\n", error.what());
    return 2;
  }
}
