// Plain TLS 1.3 over the path that pages take: what the page stream is measured against. No pages,
// no checksums, no placing; large writes from a block that stays in the cache, read and forgotten.
//   client_tls_stream --listen ADDRESS --port P --keys DIR [--streams N] [--buffer-bytes B]
//   client_tls_stream --connect ADDRESS --port P --keys DIR --mib N [--streams N] [--buffer-bytes
//   B]
//                     [--json FILE]
// AES-128-GCM, records of 16 KiB, one thread a stream. Records are handed to the kernel B bytes at
// a time (262144; 0: one by one, as OpenSSL does it by itself). The time runs from the first byte
// to the receiver's word that it has the last one, handshakes left out. The receiver serves once.
#include <fmt/format.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <sys/socket.h>

#include <algorithm>
#include <barrier>
#include <exception>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "integration/clients/resp.h"

namespace godwit::client {
namespace {

constexpr size_t kWriteBytes = 1 << 20;
constexpr char kAllRead = 'R';

template <auto release>
struct Release {
  template <typename T>
  void operator()(T* object) const {
    release(object);
  }
};
using Context = std::unique_ptr<SSL_CTX, Release<SSL_CTX_free>>;
using Session = std::unique_ptr<SSL, Release<SSL_free>>;

[[noreturn]] void throw_tls(const std::string& what) {
  char reason[256] = "the connection ended";
  if (const unsigned long code = ERR_get_error(); code != 0) {
    ERR_error_string_n(code, reason, sizeof reason);
  }
  throw std::runtime_error(fmt::format("{}: {}", what, reason));
}

Context make_context(const std::string& keys) {
  Context context(SSL_CTX_new(TLS_method()));
  SSL_CTX* raw = context.get();
  SSL_CTX_set_min_proto_version(raw, TLS1_3_VERSION);
  SSL_CTX_set_ciphersuites(raw, "TLS_AES_128_GCM_SHA256");
  SSL_CTX_set_num_tickets(raw, 0);
  const bool usable =
      SSL_CTX_use_certificate_chain_file(raw, (keys + "/host.crt").c_str()) == 1 &&
      SSL_CTX_use_PrivateKey_file(raw, (keys + "/host.key").c_str(), SSL_FILETYPE_PEM) == 1 &&
      SSL_CTX_load_verify_locations(raw, (keys + "/ca.crt").c_str(), nullptr) == 1;
  if (!usable) throw_tls(keys);
  SSL_CTX_set_verify(raw, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nullptr);
  return context;
}

// One TLS connection. Owns the socket.
class Stream {
 public:
  Stream(SSL_CTX* context, int fd, bool server, int buffer_bytes)
      : fd_(fd), buffered_(buffer_bytes > 0), session_(SSL_new(context)) {
    BIO* socket = BIO_new_socket(fd, BIO_NOCLOSE);
    BIO* out = socket;
    if (buffered_) {
      out = BIO_push(BIO_new(BIO_f_buffer()), socket);
      BIO_set_write_buffer_size(out, buffer_bytes);
      SSL_set_default_read_buffer_len(session_.get(), static_cast<size_t>(buffer_bytes));
      SSL_set_read_ahead(session_.get(), 1);
      BIO_up_ref(socket);
    }
    SSL_set_bio(session_.get(), socket, out);  // takes ownership
    const int result = server ? SSL_accept(session_.get()) : SSL_connect(session_.get());
    if (result != 1) throw_tls("handshake");
  }
  ~Stream() {
    session_.reset();
    close(fd_);
  }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  void write(std::string_view bytes) {
    size_t done = 0;
    if (SSL_write_ex(session_.get(), bytes.data(), bytes.size(), &done) != 1) throw_tls("write");
  }
  void flush() {
    if (BIO_flush(SSL_get_wbio(session_.get())) != 1) throw_tls("flush");
  }
  size_t read(char* to, size_t bytes) {
    size_t done = 0;
    if (SSL_read_ex(session_.get(), to, bytes, &done) != 1) throw_tls("read");
    return done;
  }
  std::string cipher() const { return SSL_get_cipher_name(session_.get()); }

 private:
  int fd_;
  bool buffered_;
  Session session_;
};

// Runs `body(index)` on a thread for each stream and throws what the first failing one threw.
template <typename Body>
void on_threads(size_t count, Body body) {
  std::vector<std::thread> threads;
  std::mutex mutex;
  std::exception_ptr failure;
  for (size_t i = 0; i < count; ++i) {
    threads.emplace_back([&, i] {
      try {
        body(i);
      } catch (...) {
        const std::lock_guard guard(mutex);
        if (!failure) failure = std::current_exception();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  if (failure) std::rethrow_exception(failure);
}

int listen_on(const std::string& address, int port) {
  sockaddr_in local{};
  local.sin_family = AF_INET;
  local.sin_port = htons(static_cast<uint16_t>(port));
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int on = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (inet_pton(AF_INET, address.c_str(), &local.sin_addr) != 1 ||
      bind(fd, reinterpret_cast<sockaddr*>(&local), sizeof local) != 0 || listen(fd, 64) != 0) {
    throw std::system_error(errno, std::generic_category(), "listen on " + address);
  }
  return fd;
}

// The first eight bytes of a stream say how many follow.
void receive_all(Stream& stream) {
  std::string block(kWriteBytes, 0);
  uint64_t left = 0;
  for (size_t had = 0; had < sizeof left;) {
    had += stream.read(reinterpret_cast<char*>(&left) + had, sizeof left - had);
  }
  while (left > 0) left -= stream.read(block.data(), std::min<uint64_t>(block.size(), left));
  stream.write(std::string_view(&kAllRead, 1));
  stream.flush();
}

int receive(const Options& options, SSL_CTX* context) {
  const int listener =
      listen_on(options.text("listen", ""), static_cast<int>(options.number("port", 7100)));
  const auto buffer_bytes = static_cast<int>(options.number("buffer-bytes", 262144));
  fmt::print("running\n");
  std::fflush(stdout);
  std::vector<int> sockets(static_cast<size_t>(options.number("streams", 1)));
  for (int& fd : sockets) fd = accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
  close(listener);
  on_threads(sockets.size(), [&](size_t i) {
    Stream stream(context, sockets[i], true, buffer_bytes);
    receive_all(stream);
  });
  return 0;
}

void send_all_of(Stream& stream, uint64_t bytes, const std::string& block) {
  stream.write(std::string_view(reinterpret_cast<const char*>(&bytes), sizeof bytes));
  for (uint64_t left = bytes; left > 0;) {
    const size_t piece = std::min<uint64_t>(block.size(), left);
    stream.write(std::string_view(block).substr(0, piece));
    left -= piece;
  }
  stream.flush();
  char answer = 0;
  stream.read(&answer, 1);
  if (answer != kAllRead) throw std::runtime_error("the receiver said something else");
}

int transmit(const Options& options, SSL_CTX* context) {
  const auto streams = static_cast<size_t>(options.number("streams", 1));
  const auto buffer_bytes = static_cast<int>(options.number("buffer-bytes", 262144));
  const uint64_t bytes_each = (static_cast<uint64_t>(options.number("mib", 1024)) << 20) / streams;
  std::string block;
  Pattern(1).fill(block, kWriteBytes);
  // All of them before the first handshake: the receiver accepts all of them before it.
  std::vector<int> sockets;
  for (size_t i = 0; i < streams; ++i) {
    sockets.push_back(connect_to(options.text("connect", ""), options.text("port", "7100")));
  }
  std::vector<std::unique_ptr<Stream>> open;
  for (const int fd : sockets) {
    open.push_back(std::make_unique<Stream>(context, fd, false, buffer_bytes));
  }
  const int64_t start_ns = monotonic_ns();
  on_threads(streams, [&](size_t i) { send_all_of(*open[i], bytes_each, block); });
  const double seconds = static_cast<double>(monotonic_ns() - start_ns) / 1e9;
  const double bytes = static_cast<double>(bytes_each * streams);
  write_report(options.text("json", ""),
               fmt::format("{{\"cipher\":\"{}\",\"streams\":{},\"bytes\":{:.0f},"
                           "\"seconds\":{:.6f},\"bytes_per_s\":{:.0f}}}",
                           open.front()->cipher(), streams, bytes, seconds, bytes / seconds));
  return 0;
}

}  // namespace
}  // namespace godwit::client

int main(int argc, char** argv) {
  try {
    const godwit::client::Options options(argc, argv);
    const auto context = godwit::client::make_context(options.text("keys", "."));
    return options.has("listen") ? godwit::client::receive(options, context.get())
                                 : godwit::client::transmit(options, context.get());
  } catch (const std::exception& error) {
    fmt::print(stderr, "client_tls_stream: {}\n", error.what());
    return 2;
  }
}
