// Unix socket pairs within the process: streams and messages with data on the way, options,
// credentials, half-closed pairs, a pair of which one end is closed, a thread that blocks in recv.
// A recv with SO_RCVTIMEO is ended with EINTR by every stop of its thread (signal(7)), so the one
// that waits for an answer repeats it.
#include <sys/socket.h>
#include <sys/un.h>

#include <thread>

#include "integration/workloads/selfcheck.h"

using selfcheck::expect;
using selfcheck::expect_equal;
using selfcheck::must;

namespace {

constexpr std::size_t kKept = 60'000;  // bytes that wait in the stream between turns
constexpr int kBuffer = 150'000;

struct Sockets {
  int stream[2];
  int messages[2];   // SOCK_SEQPACKET, three messages wait
  int datagrams[2];  // SOCK_DGRAM with SO_PASSCRED
  int half[2];       // one direction shut down
  int widow[2];      // the other end is closed, something waits
  int talk[2];       // a thread blocks in recv
  int lonely = -1;   // never connected
  std::uint64_t sent = 0;
  std::uint64_t received = 0;
  std::uint64_t turns = 0;
  std::thread answerer;
};

char byte_at(std::uint64_t place) { return static_cast<char>(place * 37 + (place >> 7)); }

void send_stream(Sockets& all, std::size_t bytes) {
  std::string text(bytes, '\0');
  for (auto& byte : text) byte = byte_at(all.sent++);
  expect_equal(send(all.stream[0], text.data(), bytes, MSG_DONTWAIT), static_cast<ssize_t>(bytes),
               "send");
}

void receive_stream(Sockets& all, std::size_t bytes) {
  std::string text(bytes, '\0');
  expect_equal(recv(all.stream[1], text.data(), bytes, MSG_WAITALL), static_cast<ssize_t>(bytes),
               "recv");
  for (const char byte : text) {
    expect(byte == byte_at(all.received),
           "byte " + std::to_string(all.received) + " of the stream differs");
    ++all.received;
  }
}

std::string message(std::uint64_t number) { return std::string(number % 900 + 1, byte_at(number)); }

void send_message(int fd, std::uint64_t number) {
  const std::string text = message(number);
  must(send(fd, text.data(), text.size(), 0), "send a message");
}

void answer(const Sockets& all) {
  std::uint64_t number = 0;
  while (recv(all.talk[0], &number, sizeof number, MSG_WAITALL) == sizeof number) {
    number += 5;
    if (send(all.talk[0], &number, sizeof number, 0) != sizeof number) return;
  }
}

std::uint64_t receive_answer(const Sockets& all) {
  std::uint64_t number = 0;
  ssize_t bytes = 0;
  do {
    bytes = recv(all.talk[1], &number, sizeof number, MSG_WAITALL);
  } while (bytes == -1 && errno == EINTR);
  expect_equal(bytes, 8, "answer");
  return number;
}

void set_up(Sockets& all) {
  must(socketpair(AF_UNIX, SOCK_STREAM, 0, all.stream), "socketpair");
  must(setsockopt(all.stream[0], SOL_SOCKET, SO_SNDBUF, &kBuffer, sizeof kBuffer), "SO_SNDBUF");
  send_stream(all, kKept);
  must(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, all.messages), "socketpair");
  for (int i = 0; i < 3; ++i) send_message(all.messages[0], static_cast<std::uint64_t>(i));
  must(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, all.datagrams), "socketpair");
  const int on = 1;
  must(setsockopt(all.datagrams[1], SOL_SOCKET, SO_PASSCRED, &on, sizeof on), "SO_PASSCRED");
  send_message(all.datagrams[0], 0);
  must(socketpair(AF_UNIX, SOCK_STREAM, 0, all.half), "socketpair");
  must(shutdown(all.half[0], SHUT_WR), "shutdown");
  must(socketpair(AF_UNIX, SOCK_STREAM, 0, all.widow), "socketpair");
  must(send(all.widow[1], "farewell", 8, 0), "send");
  close(all.widow[1]);
  must(socketpair(AF_UNIX, SOCK_STREAM, 0, all.talk), "socketpair");
  const timeval patience{30, 250'000};
  must(setsockopt(all.talk[1], SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience), "SO_RCVTIMEO");
  all.lonely = must(socket(AF_UNIX, SOCK_STREAM, 0), "socket");
  all.answerer = std::thread([&] { answer(all); });
}

// One datagram with who sent it.
void receive_datagram(const Sockets& all) {
  char text[1024];
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(ucred))];
  iovec part{text, sizeof text};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  header.msg_control = control;
  header.msg_controllen = sizeof control;
  const auto bytes = must(recvmsg(all.datagrams[1], &header, 0), "recvmsg");
  expect(std::string(text, static_cast<std::size_t>(bytes)) == message(all.turns),
         "the datagram differs");
  const cmsghdr* first = CMSG_FIRSTHDR(&header);
  expect(first != nullptr && first->cmsg_type == SCM_CREDENTIALS, "no credentials came along");
  ucred sender{};
  memcpy(&sender, CMSG_DATA(first), sizeof sender);
  expect_equal(sender.pid, getpid(), "the sender's pid");
  expect_equal(sender.uid, getuid(), "the sender's uid");
}

void check_options(const Sockets& all) {
  int value = 0;
  socklen_t bytes = sizeof value;
  must(getsockopt(all.stream[0], SOL_SOCKET, SO_SNDBUF, &value, &bytes), "SO_SNDBUF");
  expect_equal(value, 2 * kBuffer, "SO_SNDBUF");
  timeval patience{};
  bytes = sizeof patience;
  must(getsockopt(all.talk[1], SOL_SOCKET, SO_RCVTIMEO, &patience, &bytes), "SO_RCVTIMEO");
  expect_equal(patience.tv_sec, 30, "SO_RCVTIMEO");
  expect((fcntl(all.messages[0], F_GETFL) & O_NONBLOCK) != 0, "O_NONBLOCK is gone");
  expect_equal(fcntl(all.datagrams[0], F_GETFD), FD_CLOEXEC, "close-on-exec");
  ucred peer{};
  bytes = sizeof peer;
  must(getsockopt(all.talk[0], SOL_SOCKET, SO_PEERCRED, &peer, &bytes), "SO_PEERCRED");
  expect_equal(peer.pid, getpid(), "pid of the peer");
  expect_equal(peer.uid, geteuid(), "uid of the peer");
  sockaddr_un name{};
  bytes = sizeof name;
  expect(getpeername(all.lonely, reinterpret_cast<sockaddr*>(&name), &bytes) == -1 &&
             errno == ENOTCONN,
         "the lonely socket is connected");
}

void turn(Sockets& all) {
  const std::size_t bytes = all.turns * 53 % 4000 + 1;
  send_stream(all, bytes);
  receive_stream(all, bytes);
  char text[1024];
  send_message(all.messages[0], all.turns + 3);
  const auto size = must(recv(all.messages[1], text, sizeof text, 0), "receive a message");
  expect(std::string(text, static_cast<std::size_t>(size)) == message(all.turns),
         "the message differs");
  receive_datagram(all);
  send_message(all.datagrams[0], all.turns + 1);
  expect(send(all.half[0], "x", 1, MSG_NOSIGNAL) == -1 && errno == EPIPE,
         "the shut direction takes bytes");
  expect_equal(recv(all.half[1], text, 1, 0), 0, "end of the shut direction");
  must(send(all.half[1], "y", 1, 0), "send in the open direction");
  expect_equal(recv(all.half[0], text, 1, 0), 1, "receive in the open direction");
  const std::uint64_t question = all.turns * 11;
  must(send(all.talk[1], &question, sizeof question, 0), "ask");
  expect_equal(receive_answer(all), question + 5, "the thread's answer");
  check_options(all);
  ++all.turns;
}

void final_check(Sockets& all) {
  receive_stream(all, kKept);
  char text[64];
  expect(recv(all.stream[1], text, 1, MSG_DONTWAIT) == -1 && errno == EAGAIN,
         "the stream holds more");
  expect_equal(recv(all.widow[0], text, sizeof text, 0), 8, "farewell");
  expect_equal(recv(all.widow[0], text, sizeof text, 0), 0, "end of the widowed pair");
  expect(send(all.widow[0], "x", 1, MSG_NOSIGNAL) == -1 && errno == EPIPE,
         "the widowed pair takes bytes");
  shutdown(all.talk[1], SHUT_RDWR);
  all.answerer.join();
}

}  // namespace

int main(int argc, char** argv) {
  Sockets all;
  return selfcheck::run_workload(
      argc, argv, [&] { set_up(all); }, [&] { turn(all); }, [&] { final_check(all); });
}
