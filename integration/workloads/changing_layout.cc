// A large memory of which little is touched at a time, in pieces that are checked, rewritten, moved
// (mremap), mapped anew, dropped (MADV_DONTNEED), written to a pipe and read from it, checked by
// new threads, and, for each SIGUSR1, by a child that has its own copy of everything.
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "integration/workloads/selfcheck.h"

namespace {

using selfcheck::expect;
using selfcheck::must;

constexpr size_t kPage = 4096;
constexpr size_t kPieceBytes = 16 * kPage;
constexpr size_t kSlots = 1024;
constexpr size_t kPieces = 768;

struct Piece {
  size_t slot = 0;
  uint64_t seed = 0;
  size_t zero_from = kPieceBytes;  // whole pages from here on were dropped
};

volatile sig_atomic_t forks_wanted = 0;

class Layout {
 public:
  void set_up() {
    struct sigaction action {};
    action.sa_handler = [](int) { forks_wanted = forks_wanted + 1; };
    must(sigaction(SIGUSR1, &action, nullptr), "sigaction");
    must(pipe2(pipe_, O_CLOEXEC), "pipe");
    must(fcntl(pipe_[1], F_SETPIPE_SZ, kPieceBytes), "F_SETPIPE_SZ");
    void* area = mmap(nullptr, kSlots * kPieceBytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    expect(area != MAP_FAILED, "mmap failed");
    base_ = static_cast<unsigned char*>(area);
    pieces_.resize(kPieces);
    for (size_t i = 0; i < kSlots; ++i) (i < kPieces ? pieces_[i].slot : free_.emplace_back()) = i;
    for (Piece& piece : pieces_) fill(piece);
  }

  void turn() {
    for (int i = 0; i < 4; ++i) change(pieces_[random() % kPieces]);
    if (forks_wanted > forks_) fork_checker();
    reap(WNOHANG);
  }

  void check_all() {
    for (const Piece& piece : pieces_) check(piece);
    reap(0);
    expect(children_.empty(), "a child is left");
  }

 private:
  unsigned char* data(const Piece& piece) const { return base_ + piece.slot * kPieceBytes; }

  uint64_t random() {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return state_;
  }

  static uint64_t value(const Piece& piece, size_t at) {
    return at < piece.zero_from ? piece.seed + at * 0x9e3779b97f4a7c15 : 0;
  }

  void fill(Piece& piece) {
    piece.seed = random() | 1;
    piece.zero_from = kPieceBytes;
    for (size_t at = 0; at < kPieceBytes; at += 8) {
      const uint64_t word = value(piece, at);
      memcpy(data(piece) + at, &word, 8);
    }
  }

  void check(const Piece& piece) const { check(piece, data(piece)); }
  static void check(const Piece& piece, const unsigned char* found) {
    for (size_t at = 0; at < kPieceBytes; at += 8) {
      uint64_t word = 0;
      memcpy(&word, found + at, 8);
      if (word != value(piece, at)) {
        selfcheck::give_up("byte " + std::to_string(at) + " of the piece in slot " +
                           std::to_string(piece.slot) + " is wrong, zeros from " +
                           std::to_string(piece.zero_from));
      }
    }
  }

  void change(Piece& piece) {
    switch (random() % 8) {
      case 0:
        check(piece);
        fill(piece);
        return;
      case 1:
        move(piece);
        return;
      case 2:
        map_anew(piece);
        return;
      case 3:
        drop(piece);
        return;
      case 4:
        std::thread([&] { check(piece); }).join();
        return;
      case 5:
        through_pipe(piece);
        return;
      case 6:  // before it was touched
        drop(piece);
        move(piece);
        return;
      default:
        check(piece);
    }
  }

  void move(Piece& piece) {
    size_t& to = free_[random() % free_.size()];
    unsigned char* there = base_ + to * kPieceBytes;
    expect(mremap(data(piece), kPieceBytes, kPieceBytes, MREMAP_MAYMOVE | MREMAP_FIXED, there) ==
               there,
           "mremap failed");
    map(data(piece), kPieceBytes);
    std::swap(piece.slot, to);
    if (random() % 2 == 0) check(piece);
  }

  static void map(unsigned char* at, size_t bytes) {
    expect(mmap(at, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
                0) == at,
           "mmap failed");
  }

  void map_anew(Piece& piece) {
    map(data(piece), kPieceBytes);
    piece.zero_from = 0;
    check(piece);
    fill(piece);
  }

  void drop(Piece& piece) {
    const size_t from = random() % 16 * kPage;
    must(madvise(data(piece) + from, kPieceBytes - from, MADV_DONTNEED), "MADV_DONTNEED");
    if (from < piece.zero_from) piece.zero_from = from;
    if (random() % 2 == 0) check(piece);
  }

  // The kernel reads the piece, and writes it to another.
  void through_pipe(Piece& piece) {
    for (size_t done = 0; done < kPieceBytes;) {
      done += static_cast<size_t>(
          must(write(pipe_[1], data(piece) + done, kPieceBytes - done), "write"));
    }
    Piece& other = pieces_[random() % kPieces];
    for (size_t done = 0; done < kPieceBytes;) {
      done +=
          static_cast<size_t>(must(read(pipe_[0], data(other) + done, kPieceBytes - done), "read"));
    }
    other.seed = piece.seed;
    other.zero_from = piece.zero_from;
    check(other);
  }

  void fork_checker() {
    ++forks_;
    const pid_t child = fork();
    must(child, "fork");
    if (child == 0) {
      for (size_t i = 0; i < kPieces; ++i) check(pieces_[(i * 5) % kPieces]);
      _exit(0);
    }
    children_.push_back(child);
  }

  void reap(int flags) {
    while (!children_.empty()) {
      int status = 0;
      const pid_t pid = must(waitpid(children_.back(), &status, flags), "waitpid");
      if (pid == 0) return;
      expect(WIFEXITED(status) && WEXITSTATUS(status) == 0, "a child found its copy wrong");
      children_.pop_back();
    }
  }

  uint64_t state_ = 88172645463325252;
  unsigned char* base_ = nullptr;
  std::vector<Piece> pieces_;
  std::vector<size_t> free_;
  int pipe_[2] = {-1, -1};
  int forks_ = 0;
  std::vector<pid_t> children_;
};

}  // namespace

int main(int argc, char** argv) {
  Layout layout;
  return selfcheck::run_workload(
      argc, argv, [&] { layout.set_up(); }, [&] { layout.turn(); }, [&] { layout.check_all(); });
}
