#include "common/wire/tls_stream.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "common/base/clock.h"
#include "common/wire/openssl_handles.h"
#include "common/wire/tls_errors.h"

namespace godwit {
namespace {

template <auto Free>
struct Freer {
  template <typename T>
  void operator()(T* object) const {
    Free(object);
  }
};
using Context = std::unique_ptr<SSL_CTX, Freer<SSL_CTX_free>>;
using Session = std::unique_ptr<SSL, Freer<SSL_free>>;
using MemoryBio = std::unique_ptr<BIO, Freer<BIO_free>>;
using Certificate = std::unique_ptr<X509, Freer<X509_free>>;
using PrivateKey = std::unique_ptr<EVP_PKEY, Freer<EVP_PKEY_free>>;

constexpr std::byte kGreeting{0x47};
constexpr std::int64_t kDrainNs = 500'000'000;
constexpr std::size_t kDrainBytesMax = 1 << 20;

MemoryBio open_pem(const std::string& pem) {
  return MemoryBio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
}

void use_certificate(SSL_CTX* context, const TlsMaterial& material) {
  if (material.certificate_pem().empty()) fail("TLS: no certificate was given");
  if (material.private_key_pem().empty()) fail("TLS: no private key was given");
  const MemoryBio pem = open_pem(material.certificate_pem());
  const Certificate leaf(PEM_read_bio_X509(pem.get(), nullptr, nullptr, nullptr));
  if (!leaf || SSL_CTX_use_certificate(context, leaf.get()) != 1) {
    fail("TLS: our certificate cannot be used: {}", drain_openssl_errors());
  }
  while (X509* link = PEM_read_bio_X509(pem.get(), nullptr, nullptr, nullptr)) {
    SSL_CTX_add_extra_chain_cert(context, link);  // takes ownership
  }
  ERR_clear_error();  // the end of the text is an error to the reader
  const MemoryBio key_pem = open_pem(material.private_key_pem());
  const PrivateKey key(PEM_read_bio_PrivateKey(key_pem.get(), nullptr, nullptr, nullptr));
  if (!key) fail("TLS: our private key cannot be read: {}", drain_openssl_errors());
  if (SSL_CTX_use_PrivateKey(context, key.get()) != 1 || SSL_CTX_check_private_key(context) != 1) {
    fail("TLS: our private key does not belong to our certificate: {}", drain_openssl_errors());
  }
}

void use_authority(SSL_CTX* context, const std::string& authority_pem) {
  const MemoryBio pem = open_pem(authority_pem);
  X509_STORE* store = SSL_CTX_get_cert_store(context);
  int count = 0;
  while (true) {
    const Certificate authority(PEM_read_bio_X509(pem.get(), nullptr, nullptr, nullptr));
    if (!authority) break;
    X509_STORE_add_cert(store, authority.get());
    ++count;
  }
  ERR_clear_error();
  if (count == 0) fail("TLS: the authority's certificate cannot be read");
}

// What the verification of the peer has to know and leaves behind. Lives as long as the handshake.
struct PeerCheck {
  std::string expected_unit;
  std::string name;
  std::string unit;
};

// Called by OpenSSL for each certificate of the chain (SSL_CTX_set_verify(3)); a refusal here
// becomes an alert that tells the peer why.
int judge_peer(int accepted, X509_STORE_CTX* store) {
  auto* ssl =
      static_cast<SSL*>(X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx()));
  auto* check = static_cast<PeerCheck*>(SSL_get_app_data(ssl));
  X509* leaf = X509_STORE_CTX_get0_cert(store);
  if (leaf == nullptr) return accepted;
  check->name = subject_entry(*leaf, NID_commonName);
  check->unit = subject_entry(*leaf, NID_organizationalUnitName);
  if (accepted == 1 && X509_STORE_CTX_get_error_depth(store) == 0 &&
      check->unit != check->expected_unit) {
    X509_STORE_CTX_set_error(store, X509_V_ERR_INVALID_PURPOSE);
    return 0;
  }
  return accepted;
}

Context make_context(const TlsMaterial& material) {
  prepare_tls();
  Context context(SSL_CTX_new(TLS_method()));
  if (!context) fail("TLS: {}", drain_openssl_errors());
  SSL_CTX* raw = context.get();
  SSL_CTX_set_min_proto_version(raw, TLS1_3_VERSION);
  SSL_CTX_set_security_level(raw, 2);
  SSL_CTX_set_ciphersuites(
      raw, "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256");
  SSL_CTX_set_options(raw, SSL_OP_NO_TICKET | SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION |
                               SSL_OP_CIPHER_SERVER_PREFERENCE);
  SSL_CTX_set_num_tickets(raw, 0);
  SSL_CTX_set_session_cache_mode(raw, SSL_SESS_CACHE_OFF);
  SSL_CTX_set_mode(raw, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
  SSL_CTX_set_verify(raw, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, judge_peer);
  use_certificate(raw, material);
  use_authority(raw, material.authority_pem());
  return context;
}

// --- Bytes to and from the socket ----------------------------------------------------------------
// Like BIO_s_socket, but a closed peer never raises SIGPIPE, and the kernel hears that more
// follows, so that records travel together though none is copied to wait for others.
//
// OpenSSL's own read-ahead moves all that it has read to the front of its buffer for each record
// (SSL_CTX_set_read_ahead), which for bulk data is several copies of everything. Here the record
// that OpenSSL asks for goes straight to where it is decrypted, and what follows it, read by the
// same system call, waits here.

constexpr std::size_t kAheadBytes = 112 << 10;
constexpr std::size_t kSmallBytes = 512;  // a record's header; comes by way of what is read ahead

struct SocketEnds {
  int fd = -1;
  bool more_follows = false;  // what is written may wait for what comes next
  bool waits = false;         // the kernel may hold back what was written last
  std::size_t first = 0;      // bytes [first, end) were read ahead
  std::size_t end = 0;
  std::array<char, kAheadBytes> ahead;
};

SocketEnds& ends_of(BIO* bio) { return *static_cast<SocketEnds*>(BIO_get_data(bio)); }

int bio_write(BIO* bio, const char* from, int bytes) {
  BIO_clear_retry_flags(bio);
  SocketEnds& ends = ends_of(bio);
  const int flags = MSG_NOSIGNAL | (ends.more_follows ? MSG_MORE : 0);
  ssize_t done = 0;
  do {
    done = ::send(ends.fd, from, static_cast<std::size_t>(bytes), flags);
  } while (done < 0 && errno == EINTR);
  if (done < 0 && errno == EAGAIN) BIO_set_retry_write(bio);
  if (done > 0) ends.waits = ends.more_follows;
  return static_cast<int>(done);
}

// Nothing waits for more, neither later (tcp(7), TCP_NODELAY) nor now.
void push_on(int fd) {
  const int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));  // a unix socket has none
}

int bio_read(BIO* bio, char* to, int bytes) {
  BIO_clear_retry_flags(bio);
  SocketEnds& ends = ends_of(bio);
  const auto wanted = static_cast<std::size_t>(bytes);
  if (ends.first == ends.end) {
    const std::size_t direct = wanted < kSmallBytes ? 0 : wanted;
    std::array<iovec, 2> parts{iovec{to, direct}, iovec{ends.ahead.data(), ends.ahead.size()}};
    msghdr message{};
    message.msg_iov = parts.data();
    message.msg_iovlen = parts.size();
    ssize_t got = 0;
    do {
      got = ::recvmsg(ends.fd, &message, 0);
    } while (got < 0 && errno == EINTR);
    if (got < 0 && errno == EAGAIN) BIO_set_retry_read(bio);
    if (got == 0) BIO_set_flags(bio, BIO_FLAGS_IN_EOF);
    if (got <= 0) return static_cast<int>(got);
    const std::size_t taken = std::min(static_cast<std::size_t>(got), direct);
    ends.first = 0;
    ends.end = static_cast<std::size_t>(got) - taken;
    if (taken > 0) return static_cast<int>(taken);
  }
  const std::size_t taken = std::min(wanted, ends.end - ends.first);
  std::memcpy(to, ends.ahead.data() + ends.first, taken);
  ends.first += taken;
  return static_cast<int>(taken);
}

long bio_control(BIO* bio, int command, long, void*) {
  switch (command) {
    case BIO_CTRL_FLUSH:
      return 1;  // nothing waits here
    case BIO_CTRL_EOF:
      return BIO_test_flags(bio, BIO_FLAGS_IN_EOF) != 0 ? 1 : 0;
    default:
      return 0;
  }
}

int bio_destroy(BIO* bio) {
  delete &ends_of(bio);
  return 1;
}

const BIO_METHOD* socket_method() {
  static const BIO_METHOD* const method = [] {
    BIO_METHOD* made = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "godwit socket");
    BIO_meth_set_write(made, bio_write);
    BIO_meth_set_read(made, bio_read);
    BIO_meth_set_ctrl(made, bio_control);
    BIO_meth_set_destroy(made, bio_destroy);
    return made;
  }();
  return method;
}

BIO* make_socket_bio(int fd) {
  BIO* bio = BIO_new(socket_method());
  if (bio == nullptr) fail("TLS: {}", drain_openssl_errors());
  auto* ends = new SocketEnds;
  ends->fd = fd;
  BIO_set_data(bio, ends);
  BIO_set_init(bio, 1);
  return bio;
}

std::string address_text(int fd) {
  sockaddr_storage address{};
  socklen_t bytes = sizeof(address);
  if (getpeername(fd, reinterpret_cast<sockaddr*>(&address), &bytes) != 0) return "the peer";
  std::array<char, INET6_ADDRSTRLEN> text{};
  if (address.ss_family == AF_INET) {
    const auto* v4 = reinterpret_cast<const sockaddr_in*>(&address);
    inet_ntop(AF_INET, &v4->sin_addr, text.data(), text.size());
    return fmt::format("{}:{}", text.data(), ntohs(v4->sin_port));
  }
  if (address.ss_family == AF_INET6) {
    const auto* v6 = reinterpret_cast<const sockaddr_in6*>(&address);
    inet_ntop(AF_INET6, &v6->sin6_addr, text.data(), text.size());
    return fmt::format("[{}]:{}", text.data(), ntohs(v6->sin6_port));
  }
  return "the peer";
}

}  // namespace

void prepare_tls() {
  static const bool ready = [] {
    OPENSSL_init_ssl(OPENSSL_INIT_NO_LOAD_CONFIG | OPENSSL_INIT_LOAD_SSL_STRINGS |
                         OPENSSL_INIT_LOAD_CRYPTO_STRINGS,
                     nullptr);
    const Context context(SSL_CTX_new(TLS_method()));
    const Session session(SSL_new(context.get()));
    std::array<unsigned char, 16> random{};
    return RAND_bytes(random.data(), static_cast<int>(random.size())) == 1;
  }();
  if (!ready) fail("TLS: no random numbers: {}", drain_openssl_errors());
}

std::string tls_role_unit(std::string_view role) { return fmt::format("godwit-{}", role); }

struct TlsStream::State {
  UniqueFd socket;
  Context context;
  PeerCheck peer;
  std::string address;
  Session session;  // last: refers to the others
  bool closed = false;

  State(UniqueFd connected, const TlsMaterial& material);
  // Waits until what SSL_get_error() said is possible; throws ETIMEDOUT.
  void wait(int ssl_error, std::int64_t deadline_ns, const std::string& doing) const;
  void handshake(bool server, std::int64_t deadline_ns);
  // The Error for an operation that failed with `ssl_error`; `code` is errno right after it.
  Error failure(int ssl_error, int code, const std::string& doing);
  // After a refusal: lets the peer read our alert before the socket goes (unread input would turn
  // our close into a reset that destroys the alert on its way).
  void part() const;
};

TlsStream::State::State(UniqueFd connected, const TlsMaterial& material)
    : socket(std::move(connected)),
      context(make_context(material)),
      address(address_text(socket.get())) {
  const int flags = fcntl(socket.get(), F_GETFL);
  if (flags < 0 || fcntl(socket.get(), F_SETFL, flags | O_NONBLOCK) != 0) {
    throw_system("TLS: fd {}", socket.get());
  }
  push_on(socket.get());
  peer.expected_unit = tls_role_unit(material.peer_role());
  session.reset(SSL_new(context.get()));
  if (!session) fail("TLS: {}", drain_openssl_errors());
  BIO* bio = make_socket_bio(socket.get());
  SSL_set_bio(session.get(), bio, bio);  // takes ownership
  SSL_set_app_data(session.get(), &peer);
}

void TlsStream::State::wait(int ssl_error, std::int64_t deadline_ns,
                            const std::string& doing) const {
  pollfd waiting{socket.get(),
                 static_cast<short>(ssl_error == SSL_ERROR_WANT_WRITE ? POLLOUT : POLLIN), 0};
  while (true) {
    int timeout_ms = -1;
    if (deadline_ns != kNoDeadline) {
      const std::int64_t left_ns = deadline_ns - monotonic_ns();
      if (left_ns <= 0) throw Error(fmt::format("{}: timed out", doing), ETIMEDOUT);
      timeout_ms = static_cast<int>(std::min<std::int64_t>(left_ns / 1'000'000 + 1, 1 << 30));
    }
    const int ready = poll(&waiting, 1, timeout_ms);
    if (ready > 0) return;
    if (ready < 0 && errno != EINTR) throw_system("{}: poll", doing);
  }
}

Error TlsStream::State::failure(int ssl_error, int code, const std::string& doing) {
  const long verify = SSL_get_verify_result(session.get());
  if (verify != X509_V_OK && ssl_error == SSL_ERROR_SSL) {
    ERR_clear_error();
    return certificate_error(verify, peer.name, peer.unit, peer.expected_unit).in(doing);
  }
  if (ssl_error == SSL_ERROR_SSL &&
      ERR_GET_REASON(ERR_peek_error()) != SSL_R_UNEXPECTED_EOF_WHILE_READING) {
    return protocol_error(doing);
  }
  ERR_clear_error();
  if (ssl_error == SSL_ERROR_SYSCALL && code != 0) {
    return Error(fmt::format("{}: {}", doing, errno_text(code)), code);
  }
  return Error(fmt::format("{}: the peer closed the connection without a word", doing), ECONNRESET);
}

void TlsStream::State::part() const {
  shutdown(socket.get(), SHUT_WR);
  const std::int64_t deadline_ns = monotonic_ns() + kDrainNs;
  std::array<char, 4096> waste{};
  for (std::size_t drained = 0; drained < kDrainBytesMax;) {
    pollfd waiting{socket.get(), POLLIN, 0};
    const std::int64_t left_ms = (deadline_ns - monotonic_ns()) / 1'000'000;
    if (left_ms <= 0 || poll(&waiting, 1, static_cast<int>(left_ms)) <= 0) return;
    const ssize_t bytes = recv(socket.get(), waste.data(), waste.size(), 0);
    if (bytes <= 0) return;
    drained += static_cast<std::size_t>(bytes);
  }
}

void TlsStream::State::handshake(bool server, std::int64_t deadline_ns) {
  const std::string doing = fmt::format("TLS handshake with {}", address);
  if (server) {
    SSL_set_accept_state(session.get());
  } else {
    SSL_set_connect_state(session.get());
  }
  while (true) {
    ERR_clear_error();
    errno = 0;
    const int result = SSL_do_handshake(session.get());
    const int code = errno;
    if (result == 1) break;
    const int why = SSL_get_error(session.get(), result);
    if (why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE) {
      wait(why, deadline_ns, doing);
      continue;
    }
    const Error error = failure(why, code, doing);
    part();
    throw error;
  }
}

TlsStream::TlsStream(std::unique_ptr<State> state) : state_(std::move(state)) {}
TlsStream::TlsStream(TlsStream&&) noexcept = default;
TlsStream& TlsStream::operator=(TlsStream&&) noexcept = default;
TlsStream::~TlsStream() = default;

TlsStream TlsStream::connect(UniqueFd socket, const TlsMaterial& material,
                             std::int64_t deadline_ns) {
  TlsStream stream(std::make_unique<State>(std::move(socket), material));
  stream.state_->handshake(false, deadline_ns);
  std::byte greeting{};
  stream.read(std::span(&greeting, 1), deadline_ns);
  if (greeting != kGreeting) {
    fail("TLS connection to {}: what answers there is not godwit", stream.state_->address);
  }
  return stream;
}

TlsStream TlsStream::accept(UniqueFd socket, const TlsMaterial& material,
                            std::int64_t deadline_ns) {
  TlsStream stream(std::make_unique<State>(std::move(socket), material));
  stream.state_->handshake(true, deadline_ns);
  stream.write(std::span(&kGreeting, 1), deadline_ns);
  return stream;
}

std::size_t TlsStream::read_some(std::span<std::byte> to, std::int64_t deadline_ns) {
  while (true) {
    std::size_t done = 0;
    ERR_clear_error();
    errno = 0;
    const int result = SSL_read_ex(state_->session.get(), to.data(), to.size(), &done);
    const int code = errno;
    if (result == 1) return done;
    const int why = SSL_get_error(state_->session.get(), result);
    if (why == SSL_ERROR_ZERO_RETURN) return 0;
    const std::string doing = fmt::format("TLS connection with {}", state_->address);
    if (why != SSL_ERROR_WANT_READ && why != SSL_ERROR_WANT_WRITE) {
      throw state_->failure(why, code, doing);
    }
    state_->wait(why, deadline_ns, doing);
  }
}

void TlsStream::read(std::span<std::byte> to, std::int64_t deadline_ns) {
  while (!to.empty()) {
    const std::size_t done = read_some(to, deadline_ns);
    if (done == 0) {
      throw Error(fmt::format("TLS connection with {}: closed by the peer with {} bytes missing",
                              state_->address, to.size()),
                  ECONNRESET);
    }
    to = to.subspan(done);
  }
}

void TlsStream::write(std::span<const std::byte> from, std::int64_t deadline_ns) {
  write(from, deadline_ns, true);
}

void TlsStream::write_more(std::span<const std::byte> from, std::int64_t deadline_ns) {
  write(from, deadline_ns, false);
}

void TlsStream::write(std::span<const std::byte> from, std::int64_t deadline_ns, bool flush) {
  SSL* ssl = state_->session.get();
  SocketEnds& ends = ends_of(SSL_get_wbio(ssl));
  while (!from.empty()) {
    std::size_t done = 0;
    ERR_clear_error();
    errno = 0;
    // One record at a time (SSL_MODE_ENABLE_PARTIAL_WRITE).
    ends.more_follows = !flush || from.size() > SSL3_RT_MAX_PLAIN_LENGTH;
    const int result = SSL_write_ex(ssl, from.data(), from.size(), &done);
    const int code = errno;
    ends.more_follows = false;
    if (result == 1) {
      from = from.subspan(done);
      continue;
    }
    const int why = SSL_get_error(ssl, result);
    const std::string doing = fmt::format("TLS connection with {}", state_->address);
    if (why != SSL_ERROR_WANT_READ && why != SSL_ERROR_WANT_WRITE) {
      throw state_->failure(why, code, doing);
    }
    state_->wait(why, deadline_ns, doing);
  }
  if (flush && ends.waits) {
    push_on(state_->socket.get());
    ends.waits = false;
  }
}

void TlsStream::close() noexcept {
  if (state_ == nullptr || state_->closed) return;
  state_->closed = true;
  ERR_clear_error();
  SSL_shutdown(state_->session.get());
  ERR_clear_error();
  shutdown(state_->socket.get(), SHUT_WR);
}

bool TlsStream::has_pending() const {
  const SocketEnds& ends = ends_of(SSL_get_rbio(state_->session.get()));
  return ends.first < ends.end || SSL_has_pending(state_->session.get()) == 1;
}
int TlsStream::fd() const { return state_->socket.get(); }
const std::string& TlsStream::peer_name() const { return state_->peer.name; }
std::string TlsStream::cipher() const { return SSL_get_cipher_name(state_->session.get()); }

}  // namespace godwit
