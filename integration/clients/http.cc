// Requests to a web server, each one compared with the file that it asks for: connections that are
// kept, a new one for each request, and downloads that take their time.
//   client_http --host H --port P --small FILE --large FILE [--kept 4] [--fresh 2] [--slow 2]
//               [--pause-us 300] [--seconds S] [--json FILE]
// A file is asked for by its last name. Ends after S seconds or at SIGTERM. Exit code 1: a request
// failed in any way.
#include <algorithm>
#include <charconv>
#include <exception>
#include <filesystem>
#include <fstream>
#include <string>

#include "integration/clients/line_socket.h"
#include "integration/clients/load.h"

namespace godwit::client {
namespace {

struct Document {
  explicit Document(const std::string& path)
      : name(std::filesystem::path(path).filename()), content(std::filesystem::file_size(path), 0) {
    std::ifstream file(path, std::ios::binary);
    if (!file.read(content.data(), static_cast<std::streamsize>(content.size()))) {
      throw std::runtime_error(fmt::format("{} cannot be read", path));
    }
  }

  std::string name;
  std::string content;
};

class Requests {
 public:
  explicit Requests(const Options& options)
      : host_(options.text("host", "127.0.0.1")),
        port_(options.text("port", "80")),
        pause_us_(static_cast<useconds_t>(options.number("pause-us", 300))),
        small_(options.text("small", "")),
        large_(options.text("large", "")) {}

  void start(const Options& options) {
    for (int64_t i = 0; i < options.number("kept", 4); ++i) {
      load_.start(fmt::format("kept connection {}", i), [this] { ask_on_one(); });
    }
    for (int64_t i = 0; i < options.number("fresh", 2); ++i) {
      load_.start(fmt::format("new connections {}", i), [this] { ask_on_new_ones(); });
    }
    for (int64_t i = 0; i < options.number("slow", 2); ++i) {
      load_.start(fmt::format("download {}", i), [this] { download(); });
    }
  }

  Load& load() { return load_; }
  std::string figures() const {
    return fmt::format(",\"connects\":{},\"downloads\":{}", connects_.load(), downloads_.load());
  }

 private:
  static constexpr size_t kPieceBytes = 64 << 10;

  void ask(LineSocket& socket, const Document& document, bool keep) const {
    socket.send(fmt::format("GET /{} HTTP/1.1\r\nHost: test\r\nConnection: {}\r\n\r\n",
                            document.name, keep ? "keep-alive" : "close"));
    if (const std::string_view status = socket.line(); status != "HTTP/1.1 200 OK") {
      throw std::runtime_error(fmt::format("answer \"{}\"", status));
    }
    constexpr std::string_view kLength = "Content-Length: ";
    size_t bytes = 0;
    for (;;) {
      const std::string_view header = socket.line();
      if (header.empty()) break;
      if (!header.starts_with(kLength)) continue;
      std::from_chars(header.data() + kLength.size(), header.data() + header.size(), bytes);
    }
    if (bytes != document.content.size()) {
      throw std::runtime_error(fmt::format("{} has {} bytes", document.name, bytes));
    }
  }

  void check(std::string_view part, const Document& document, size_t at) const {
    if (part != std::string_view(document.content).substr(at, part.size())) {
      throw std::runtime_error(fmt::format("wrong bytes in {} behind byte {}", document.name, at));
    }
  }

  void ask_on_one() {
    LineSocket socket(host_, port_);
    while (!load_.stopping()) {
      const int64_t began_ns = monotonic_ns();
      ask(socket, small_, true);
      check(socket.bytes(small_.content.size()), small_, 0);
      load_.count(began_ns);
      usleep(pause_us_);
    }
  }

  void ask_on_new_ones() {
    while (!load_.stopping()) {
      const int64_t began_ns = monotonic_ns();
      LineSocket socket(host_, port_);
      ask(socket, small_, false);
      check(socket.bytes(small_.content.size()), small_, 0);
      if (!socket.ended()) throw std::runtime_error("there is more behind the answer");
      load_.count(began_ns);
      ++connects_;
      usleep(10 * pause_us_);
    }
  }

  // Slower than the network: the server always has something left to send.
  void download() {
    LineSocket socket(host_, port_);
    while (!load_.stopping()) {
      ask(socket, large_, true);
      for (size_t at = 0; at < large_.content.size();) {
        const size_t bytes = std::min(kPieceBytes, large_.content.size() - at);
        check(socket.bytes(bytes), large_, at);
        at += bytes;
        if (!load_.stopping()) usleep(5 * pause_us_);
      }
      ++downloads_;
    }
  }

  std::string host_;
  std::string port_;
  useconds_t pause_us_;
  Document small_;
  Document large_;
  Load load_;
  std::atomic<uint64_t> connects_ = 0;
  std::atomic<uint64_t> downloads_ = 0;
};

}  // namespace
}  // namespace godwit::client

int main(int argc, char** argv) {
  try {
    const godwit::client::Options options(argc, argv);
    godwit::client::Requests requests(options);
    requests.start(options);
    requests.load().run(options.number("seconds", 3600));
    return requests.load().report(options.text("json", ""), requests.figures());
  } catch (const std::exception& error) {
    fmt::print(stderr, "client_http: {}\n", error.what());
    return 2;
  }
}
