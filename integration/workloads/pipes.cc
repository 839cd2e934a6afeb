// Pipes within the process: contents, capacity, packets, closed ends, a thread that blocks in read.
#include <signal.h>

#include <thread>

#include "integration/workloads/selfcheck.h"

using selfcheck::expect;
using selfcheck::expect_equal;
using selfcheck::must;

namespace {

constexpr int kCapacity = 1 << 18;
constexpr std::size_t kKept = 100'000;  // bytes that wait in the big pipe between turns

struct Pipes {
  int big[2];      // with a capacity of its own, never empty, not blocking
  int packets[2];  // O_DIRECT
  int orphan[2];   // the writing end is closed, something waits
  int widow[2];    // the reading end is closed
  int talk[2];     // a thread blocks in read
  int answers[2];
  std::uint64_t written = 0;
  std::uint64_t read = 0;
  std::uint64_t packet = 0;
  std::uint64_t question = 0;
  std::thread answerer;
};

char byte_at(std::uint64_t place) { return static_cast<char>(place * 131 + (place >> 8)); }

void write_big(Pipes& pipes, std::size_t bytes) {
  std::string text(bytes, '\0');
  for (auto& byte : text) byte = byte_at(pipes.written++);
  expect_equal(write(pipes.big[1], text.data(), bytes), static_cast<ssize_t>(bytes),
               "write to the big pipe");
}

void read_big(Pipes& pipes, std::size_t bytes) {
  std::string text(bytes, '\0');
  expect_equal(read(pipes.big[0], text.data(), bytes), static_cast<ssize_t>(bytes),
               "read from the big pipe");
  for (const char byte : text) {
    expect(byte == byte_at(pipes.read),
           "byte " + std::to_string(pipes.read) + " of the big pipe differs");
    ++pipes.read;
  }
}

void answer(Pipes& pipes) {
  std::uint64_t number = 0;
  while (read(pipes.talk[0], &number, sizeof number) == sizeof number) {
    number = number * 3 + 1;
    if (write(pipes.answers[1], &number, sizeof number) != sizeof number) break;
  }
}

void send_packet(Pipes& pipes, std::uint64_t number) {
  const std::string text(number % 500 + 1, byte_at(number));
  expect_equal(write(pipes.packets[1], text.data(), text.size()), static_cast<ssize_t>(text.size()),
               "write a packet");
}

void receive_packet(Pipes& pipes, std::uint64_t number) {
  char text[4096];
  const auto bytes = read(pipes.packets[0], text, sizeof text);
  expect_equal(bytes, static_cast<ssize_t>(number % 500 + 1),
               "size of packet " + std::to_string(number));
  expect(text[0] == byte_at(number), "contents of packet " + std::to_string(number));
}

void set_up(Pipes& pipes) {
  signal(SIGPIPE, SIG_IGN);
  must(pipe2(pipes.big, O_NONBLOCK), "pipe");
  must(fcntl(pipes.big[1], F_SETPIPE_SZ, kCapacity), "F_SETPIPE_SZ");
  write_big(pipes, kKept);
  must(pipe2(pipes.packets, O_DIRECT | O_NONBLOCK | O_CLOEXEC), "packet pipe");
  for (int i = 0; i < 3; ++i) send_packet(pipes, pipes.packet++);
  must(pipe(pipes.orphan), "pipe");
  must(write(pipes.orphan[1], "last words", 10), "write");
  close(pipes.orphan[1]);
  must(pipe(pipes.widow), "pipe");
  close(pipes.widow[0]);
  must(pipe(pipes.talk), "pipe");
  must(pipe(pipes.answers), "pipe");
  pipes.answerer = std::thread([&] { answer(pipes); });
}

void turn(Pipes& pipes) {
  const std::size_t bytes = 1 + pipes.question * 37 % 5000;
  write_big(pipes, bytes);
  read_big(pipes, bytes);
  expect_equal(fcntl(pipes.big[0], F_GETPIPE_SZ), kCapacity, "capacity of the big pipe");
  expect((fcntl(pipes.big[0], F_GETFL) & O_NONBLOCK) != 0, "the big pipe lost O_NONBLOCK");
  send_packet(pipes, pipes.packet);
  receive_packet(pipes, pipes.packet - 3);
  ++pipes.packet;
  expect((fcntl(pipes.packets[1], F_GETFL) & O_DIRECT) != 0, "the packet pipe lost O_DIRECT");
  expect_equal(fcntl(pipes.packets[0], F_GETFD), FD_CLOEXEC, "close-on-exec");
  expect(write(pipes.widow[1], "x", 1) == -1 && errno == EPIPE, "the widowed pipe takes bytes");
  const std::uint64_t question = pipes.question++;
  must(write(pipes.talk[1], &question, sizeof question), "ask");
  std::uint64_t number = 0;
  expect_equal(read(pipes.answers[0], &number, sizeof number), 8, "answer");
  expect_equal(number, question * 3 + 1, "the thread's answer");
}

void final_check(Pipes& pipes) {
  read_big(pipes, kKept);
  char text[32];
  expect(read(pipes.big[0], text, 1) == -1 && errno == EAGAIN,
         "the big pipe holds more than was written");
  expect_equal(read(pipes.orphan[0], text, sizeof text), 10, "last words");
  expect(memcmp(text, "last words", 10) == 0, "other last words");
  expect_equal(read(pipes.orphan[0], text, sizeof text), 0, "end of file of the orphaned pipe");
  close(pipes.talk[1]);
  pipes.answerer.join();
}

}  // namespace

int main(int argc, char** argv) {
  Pipes pipes;
  return selfcheck::run_workload(
      argc, argv, [&] { set_up(pipes); }, [&] { turn(pipes); }, [&] { final_check(pipes); });
}
