// A process for tests whose memory does what it is told, seen from its parent as an agent sees a
// task. For tests only.
#pragma once

#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <future>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "common/base/page_range.h"
#include "common/base/unique_fd.h"
#include "common/kernel/userfaultfd.h"

namespace godwit::testing {

class TestChild {
 public:
  // `file_fd` (or -1) is what map_file() maps.
  explicit TestChild(int file_fd = -1) {
    std::array<int, 2> ends{};
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends.data()) != 0) {
      throw_system("socketpair");
    }
    const pid_t self = getpid();
    pid_ = fork();
    if (pid_ == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      if (getppid() != self) _exit(1);
      ::close(ends[0]);
      obey(ends[1], file_fd);
    }
    ::close(ends[1]);
    link_.reset(ends[0]);
    pidfd_.reset(static_cast<int>(syscall(SYS_pidfd_open, pid_, 0)));
    memory_ = open_file("/proc/" + std::to_string(pid_) + "/mem", O_RDWR);
    pagemap_ = open_file("/proc/" + std::to_string(pid_) + "/pagemap", O_RDWR);
  }
  TestChild(const TestChild&) = delete;
  TestChild& operator=(const TestChild&) = delete;
  ~TestChild() { end(); }

  void end() {
    if (pid_ < 0) return;
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
    pid_ = -1;
  }

  void map(const PageRange& range) { ask(kMap, range); }  // anonymous, no huge pages
  void map_shared(const PageRange& range) { ask(kMapShared, range); }
  void map_file(const PageRange& range) { ask(kMapFile, range); }
  void unmap(const PageRange& range) { ask(kUnmap, range); }
  void fill(const PageRange& range, std::uint64_t seed) { ask(kFill, range, seed); }
  void clear(const PageRange& range) { ask(kClear, range); }  // writes zeros
  void zap(const PageRange& range) { ask(kZap, range); }      // MADV_DONTNEED
  void use_huge_pages(const PageRange& range) { ask(kHuge, range); }
  void guard(const PageRange& range) { ask(kGuardOff, range); }  // MADV_GUARD_INSTALL
  void move(const PageRange& range, Address to) { ask(kMove, range, to); }
  // Writes single pages of the range, `seed` chooses which, until stop_writing(); returns at once.
  void start_writing(const PageRange& range, std::uint64_t pause_us) {
    ask(kStartWriting, range, pause_us);
  }
  std::uint64_t stop_writing() { return ask(kStopWriting, {0, 0}); }  // pages written
  // A thread that reads the range; returns at once.
  void start_reading(const PageRange& range) { ask(kStartReading, range); }
  // Waits for the thread that was started first: hash_of() what it read.
  std::uint64_t finish_reading() { return ask(kFinishReading, {0, 0}); }
  // The same, read by a process that the thread forks.
  void start_reading_in_fork(const PageRange& range) { ask(kStartReadingInFork, range); }
  std::uint64_t read_in_fork(const PageRange& range) {
    start_reading_in_fork(range);
    return finish_reading();
  }
  void exec() { ask(kExec, {0, 0}); }  // lives on as another program, deaf

  static std::uint64_t hash_of(std::span<const std::uint64_t> words) {
    std::uint64_t hash = 0;
    for (const std::uint64_t word : words) hash = (hash + word + 1) * 0x9e3779b97f4a7c15;
    return hash >> 1;  // no error
  }
  // A userfaultfd of the child's memory, enabled with `features`.
  UniqueFd uffd(std::uint64_t features) {
    const auto fd = static_cast<int>(ask(kUffd, {0, 0}, features));
    UniqueFd copy(static_cast<int>(syscall(SYS_pidfd_getfd, pidfd_.get(), fd, 0)));
    if (!copy.valid()) throw_system("pidfd_getfd");
    ask(kCloseFd, {static_cast<Address>(fd), 0});
    return copy;
  }

  std::vector<std::byte> read(const PageRange& range) const {
    std::vector<std::byte> data(range.bytes());
    std::size_t done = 0;
    while (done < data.size()) {
      const ssize_t got = pread(memory_.get(), data.data() + done, data.size() - done,
                                static_cast<off_t>(range.start + done));
      if (got <= 0) throw_system("read child at {:x}", range.start + done);
      done += static_cast<std::size_t>(got);
    }
    return data;
  }
  pid_t pid() const { return pid_; }
  int memory_fd() const { return memory_.get(); }
  int pagemap_fd() const { return pagemap_.get(); }

 private:
  enum Verb : std::uint64_t {
    kMap,
    kMapShared,
    kMapFile,
    kUnmap,
    kFill,
    kClear,
    kZap,
    kHuge,
    kMove,
    kGuardOff,
    kStartWriting,
    kStopWriting,
    kStartReading,
    kFinishReading,
    kStartReadingInFork,
    kExec,
    kUffd,
    kCloseFd,
  };
  struct Request {
    std::uint64_t verb;
    PageRange range;
    std::uint64_t extra;
  };

  std::uint64_t ask(Verb verb, const PageRange& range, std::uint64_t extra = 0) {
    const Request request{verb, range, extra};
    std::int64_t answer = -1;
    if (send(link_.get(), &request, sizeof(request), MSG_NOSIGNAL) != sizeof(request) ||
        recv(link_.get(), &answer, sizeof(answer), 0) != sizeof(answer)) {
      fail("the test child is gone");
    }
    if (answer < 0) throw_errno(static_cast<int>(-answer), "test child: request failed");
    return static_cast<std::uint64_t>(answer);
  }

  static std::uint64_t next(std::uint64_t& state) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
  }

  static void write_pages(PageRange range, std::uint64_t pause_us, std::atomic<bool>& stop,
                          std::uint64_t& written) {
    std::uint64_t state = 88172645463325252ULL;
    for (written = 0; !stop; ++written) {
      const std::uint64_t page = next(state) % range.pages();
      auto* words = reinterpret_cast<volatile std::uint64_t*>(range.start + page * kPageSize);
      words[next(state) % 512] = next(state);
      if (pause_us != 0) usleep(static_cast<useconds_t>(pause_us));
    }
  }

  static std::uint64_t hash_at(const PageRange& range) {
    return hash_of({reinterpret_cast<const std::uint64_t*>(range.start), range.bytes() / 8});
  }

  static std::uint64_t read_forked(const PageRange& range) {
    std::array<int, 2> ends{};
    if (pipe2(ends.data(), O_CLOEXEC) != 0) return 0;
    const pid_t forked = fork();
    if (forked == 0) {
      const std::uint64_t hash = hash_at(range);
      _exit(::write(ends[1], &hash, sizeof(hash)) == sizeof(hash) ? 0 : 1);
    }
    ::close(ends[1]);
    std::uint64_t hash = 0;
    if (::read(ends[0], &hash, sizeof(hash)) != sizeof(hash)) hash = 0;
    ::close(ends[0]);
    waitpid(forked, nullptr, 0);
    return hash;
  }

  [[noreturn]] static void obey(int link, int file_fd) {
    std::atomic<bool> stop{false};
    std::deque<std::future<std::uint64_t>> readers;
    std::uint64_t written = 0;
    std::thread writer;
    Request request{};
    while (recv(link, &request, sizeof(request), 0) == sizeof(request)) {
      errno = 0;
      std::int64_t answer = 0;
      if (request.verb == kStartWriting) {
        stop = false;
        writer = std::thread(write_pages, request.range, request.extra, std::ref(stop),
                             std::ref(written));
      } else if (request.verb == kStopWriting) {
        stop = true;
        writer.join();
        answer = static_cast<std::int64_t>(written);
      } else if (request.verb == kStartReading) {
        readers.push_back(std::async(std::launch::async, hash_at, request.range));
      } else if (request.verb == kStartReadingInFork) {
        readers.push_back(std::async(std::launch::async, read_forked, request.range));
      } else if (request.verb == kFinishReading) {
        answer = static_cast<std::int64_t>(readers.front().get());
        readers.pop_front();
      } else {
        answer = carry_out(request, file_fd);
        if (answer < 0) answer = -errno;
      }
      if (send(link, &answer, sizeof(answer), 0) != sizeof(answer)) break;
    }
    _exit(0);
  }

  static std::int64_t map_at(const PageRange& range, int flags, int fd) {
    void* at = mmap(reinterpret_cast<void*>(range.start), range.bytes(), PROT_READ | PROT_WRITE,
                    flags | MAP_FIXED_NOREPLACE | MAP_NORESERVE, fd, 0);
    if (at == MAP_FAILED) return -1;
    if (fd < 0) madvise(at, range.bytes(), MADV_NOHUGEPAGE);
    return 0;
  }

  static std::int64_t carry_out(const Request& request, int file_fd) {
    const PageRange& range = request.range;
    auto* at = reinterpret_cast<void*>(range.start);
    switch (request.verb) {
      case kMap:
        return map_at(range, MAP_PRIVATE | MAP_ANONYMOUS, -1);
      case kMapShared:
        return map_at(range, MAP_SHARED | MAP_ANONYMOUS, -1);
      case kMapFile:
        return map_at(range, MAP_PRIVATE, file_fd);
      case kUnmap:
        return munmap(at, range.bytes());
      case kFill: {
        std::uint64_t state = request.extra * 2654435761U + 1;
        auto* words = static_cast<std::uint64_t*>(at);
        for (std::uint64_t i = 0; i < range.bytes() / 8; ++i) words[i] = next(state);
        return 0;
      }
      case kClear:
        for (std::uint64_t i = 0; i < range.bytes(); ++i) static_cast<volatile char*>(at)[i] = 0;
        return 0;
      case kZap:
        return madvise(at, range.bytes(), MADV_DONTNEED);
      case kHuge:
        return madvise(at, range.bytes(), MADV_HUGEPAGE);
      case kGuardOff:
        return madvise(at, range.bytes(), 102);
      case kMove:
        return mremap(at, range.bytes(), range.bytes(), MREMAP_MAYMOVE | MREMAP_FIXED,
                      request.extra) == MAP_FAILED
                   ? -1
                   : 0;
      case kUffd: {
        UniqueFd uffd = make_userfaultfd();
        if (!try_userfaultfd_enable(uffd.get(), request.extra)) return -1;
        return uffd.release();
      }
      case kExec:
        execl("/bin/sleep", "sleep", "600", nullptr);
        return -1;
      case kCloseFd:
        return ::close(static_cast<int>(range.start));
      default:
        return -1;
    }
  }

  pid_t pid_ = -1;
  UniqueFd link_;
  UniqueFd pidfd_;
  UniqueFd memory_;
  UniqueFd pagemap_;
};

}  // namespace godwit::testing
