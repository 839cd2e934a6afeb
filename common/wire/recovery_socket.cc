#include "common/wire/recovery_socket.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "common/base/error.h"
#include "common/base/log.h"

namespace godwit {
namespace {

constexpr std::size_t kMessageBytesMax = 256 << 10;
constexpr std::int64_t kRequestTimeoutNs = 1'000'000'000;

// A path may be longer than an address has room for: the folder is named by a descriptor.
class SocketName {
 public:
  explicit SocketName(const std::string& path) {
    const std::size_t slash = path.rfind('/');
    folder_ = open_file(slash == std::string::npos ? "." : path.substr(0, slash + 1),
                        O_PATH | O_DIRECTORY);
    const std::string name =
        fmt::format("/proc/self/fd/{}/{}", folder_.get(), path.substr(slash + 1));
    address_.sun_family = AF_UNIX;
    if (name.size() >= sizeof(address_.sun_path)) fail("{}: too long a name for a socket", path);
    std::memcpy(address_.sun_path, name.c_str(), name.size() + 1);
  }
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&address_); }

 private:
  UniqueFd folder_;
  sockaddr_un address_{};
};

UniqueFd make_socket() {
  UniqueFd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (!socket.valid()) throw_system("socket");
  const int bytes = kMessageBytesMax;
  ::setsockopt(socket.get(), SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
  return socket;
}

void set_timeout(int socket, std::int64_t ns) {
  const timeval time{ns / 1'000'000'000, ns % 1'000'000'000 / 1000};
  ::setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &time, sizeof(time));
  ::setsockopt(socket, SOL_SOCKET, SO_SNDTIMEO, &time, sizeof(time));
}

void send_message(int socket, const google::protobuf::MessageLite& message) {
  const std::string text = message.SerializeAsString();
  if (::send(socket, text.data(), text.size(), MSG_NOSIGNAL) < 0) throw_system("answer");
}

// False when there is no more to come.
bool receive_message(int socket, google::protobuf::MessageLite& message) {
  std::string text(kMessageBytesMax, '\0');
  const ssize_t got = ::recv(socket, text.data(), text.size(), 0);
  if (got < 0 && errno == ECONNRESET) return false;
  if (got < 0) throw_system("receive");
  text.resize(static_cast<std::size_t>(got));
  if (!message.ParseFromString(text)) fail("a message that is none");
  return true;
}

}  // namespace

std::string recovery_socket_path(const std::string& state_dir, const std::string& migration_id) {
  return fmt::format("{}/{}-destination.sock", state_dir, migration_id);
}

RecoverySocket::RecoverySocket(std::string path)
    : path_(std::move(path)), listening_(make_socket()) {
  const SocketName name(path_);
  ::unlink(path_.c_str());
  const mode_t before = ::umask(0177);
  const int bound = ::bind(listening_.get(), name.get(), sizeof(sockaddr_un));
  const int code = errno;
  ::umask(before);
  if (bound != 0) throw_errno(code, "make the socket " + path_);
  if (::listen(listening_.get(), 4) != 0) throw_system("listen on {}", path_);
}

RecoverySocket::~RecoverySocket() { ::unlink(path_.c_str()); }

void RecoverySocket::serve(const Answer& answer) try {
  const UniqueFd connection(::accept4(listening_.get(), nullptr, nullptr, SOCK_CLOEXEC));
  if (!connection.valid()) return;
  set_timeout(connection.get(), kRequestTimeoutNs);
  proto::RecoveryRequest request;
  // An empty one is a request, too, and also how a peer ends that has none.
  if (!receive_message(connection.get(), request)) return;
  proto::RecoveryAnswer given;
  try {
    given = answer(request);
  } catch (const Error& error) {
    given.set_problem(error.what());
  }
  send_message(connection.get(), given);
} catch (const Error& error) {
  log_warning("{}: {}", path_, error.what());
}

std::optional<proto::RecoveryAnswer> ask_recovery(const std::string& path,
                                                  const proto::RecoveryRequest& request,
                                                  std::int64_t timeout_ns) try {
  const UniqueFd socket = make_socket();
  const SocketName name(path);
  if (::connect(socket.get(), name.get(), sizeof(sockaddr_un)) != 0) {
    if (errno == ENOENT || errno == ECONNREFUSED) return std::nullopt;
    throw_system("connect");
  }
  set_timeout(socket.get(), timeout_ns);
  send_message(socket.get(), request);
  proto::RecoveryAnswer answer;
  if (!receive_message(socket.get(), answer) || answer.ByteSizeLong() == 0) return std::nullopt;
  return answer;
} catch (const Error& error) {
  throw error.in(path);
}

}  // namespace godwit
