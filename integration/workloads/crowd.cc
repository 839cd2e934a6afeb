// Much of one thing: threads, descriptors, connections, mappings or memory, as many as asked, each
// one checked at the end. What a pause costs against how much there is, is measured with it.
//   workload_crowd STATUS-FILE STOP-FILE [--threads N] [--descriptors N] [--mappings N] [--mib N]
//                  [--writes-per-s N] [--address A --port P]
// With an address it serves TCP: every byte that comes goes back (client_crowd).
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <semaphore.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "integration/workloads/selfcheck.h"

namespace {

using selfcheck::expect;
using selfcheck::expect_equal;
using selfcheck::must;

constexpr size_t kPageBytes = 4096;
constexpr size_t kPageWords = kPageBytes / sizeof(uint64_t);

uint64_t mix(uint64_t value) {
  value += 0x9E3779B97F4A7C15u;
  value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9u;
  value = (value ^ (value >> 27)) * 0x94D049BB133111EBu;
  return value ^ (value >> 31);
}

// Threads that sleep in a futex until it is their turn. A few are woken at each turn of the
// program, all of them at the end.
class Threads {
 public:
  explicit Threads(size_t count) : sleepers_(count) {
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, kStackBytes);
    for (Sleeper& sleeper : sleepers_) {
      sem_init(&sleeper.wake, 0, 0);
      sem_init(&sleeper.done, 0, 0);
      expect_equal(pthread_create(&sleeper.thread, &attributes, run, &sleeper), 0,
                   "pthread_create");
    }
    pthread_attr_destroy(&attributes);
  }

  void turn() {
    for (size_t i = 0; i < std::min<size_t>(4, sleepers_.size()); ++i) {
      wake(sleepers_[next_]);
      next_ = (next_ + 1) % sleepers_.size();
    }
  }

  void end() {
    for (Sleeper& sleeper : sleepers_) {
      sleeper.stop = true;
      wake(sleeper);
      pthread_join(sleeper.thread, nullptr);
    }
  }

 private:
  static constexpr size_t kStackBytes = 64 << 10;

  struct Sleeper {
    pthread_t thread{};
    sem_t wake{};
    sem_t done{};
    bool stop = false;
    uint64_t turns = 0;  // by the thread
    uint64_t asked = 0;  // by the main thread
  };

  static void* run(void* argument) {
    auto& sleeper = *static_cast<Sleeper*>(argument);
    const long tid = syscall(SYS_gettid);
    for (;;) {
      wait(sleeper.wake);
      expect_equal(syscall(SYS_gettid), tid, "gettid of a sleeping thread");
      ++sleeper.turns;
      const bool stop = sleeper.stop;
      sem_post(&sleeper.done);
      if (stop) return nullptr;
    }
  }

  static void wait(sem_t& semaphore) {
    while (sem_wait(&semaphore) != 0) expect(errno == EINTR, "sem_wait failed");
  }

  static void wake(Sleeper& sleeper) {
    ++sleeper.asked;
    sem_post(&sleeper.wake);
    wait(sleeper.done);
    expect_equal(sleeper.turns, sleeper.asked, "turns of a thread");
  }

  std::vector<Sleeper> sleepers_;
  size_t next_ = 0;
};

// In equal parts: regular files at an offset, eventfds with a count, both ends of pipes with a byte
// in them.
class Descriptors {
 public:
  explicit Descriptors(size_t count) {
    rlimit limit{};
    must(getrlimit(RLIMIT_NOFILE, &limit), "getrlimit");
    limit.rlim_cur = limit.rlim_max;
    must(setrlimit(RLIMIT_NOFILE, &limit), "setrlimit");
    if (count > 0) make_file();
    while (fds_.size() < count) {
      add(must(open(kFile, O_RDONLY | O_CLOEXEC), "open"));
      must(lseek(fds_.back(), offset(fds_.size() - 1), SEEK_SET), "lseek");
      add(must(eventfd(static_cast<unsigned>(fds_.size()), EFD_NONBLOCK | EFD_CLOEXEC), "eventfd"));
      int ends[2];
      must(pipe2(ends, O_NONBLOCK | O_CLOEXEC), "pipe2");
      const char byte = static_cast<char>(fds_.size());
      must(write(ends[1], &byte, 1), "write to a pipe");
      add(ends[0]);
      add(ends[1]);
    }
  }

  void check() const {
    for (size_t i = 0; i + 3 < fds_.size(); i += 4) {
      expect_equal(lseek(fds_[i], 0, SEEK_CUR), offset(i), "offset of a file");
      uint64_t count = 0;
      expect(read(fds_[i + 1], &count, sizeof count) == sizeof count, "read of an eventfd");
      expect_equal(count, i + 1, "count of an eventfd");
      char byte = 0;
      expect(read(fds_[i + 2], &byte, 1) == 1, "read of a pipe");
      expect_equal(byte, static_cast<char>(i + 2), "byte in a pipe");
      expect(write(fds_[i + 3], &byte, 1) == 1 && read(fds_[i + 2], &byte, 1) == 1,
             "a pipe through both ends");
    }
    if (!fds_.empty()) unlink(kFile);
  }

 private:
  static constexpr const char* kFile = "descriptors";
  static constexpr size_t kFileBytes = 16384;

  static off_t offset(size_t index) { return static_cast<off_t>(index % kFileBytes); }

  static void make_file() {
    const int fd = must(open(kFile, O_WRONLY | O_CREAT | O_CLOEXEC, 0644), "open for writing");
    const std::string content(kFileBytes, 'g');
    must(write(fd, content.data(), content.size()), "write");
    close(fd);
  }

  void add(int fd) { fds_.push_back(fd); }

  std::vector<int> fds_;
};

// One page each, with something in it. Neighbours differ in protection, or they would be one.
class Mappings {
 public:
  explicit Mappings(size_t count) : count_(count) {
    if (count == 0) return;
    void* all = mmap(nullptr, count * kPageBytes, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    expect(all != MAP_FAILED, "mmap failed");
    words_ = static_cast<uint64_t*>(all);
    for (size_t i = 0; i < count; ++i) {
      words_[i * kPageWords] = mix(i);
      if (i % 2 != 0) {
        must(mprotect(words_ + i * kPageWords, kPageBytes, PROT_READ), "mprotect");
      }
    }
  }

  void check() const {
    for (size_t i = 0; i < count_; ++i) {
      expect_equal(words_[i * kPageWords], mix(i), "a word of a mapping");
      if (i % 2 == 0) words_[i * kPageWords] = i;
    }
  }

 private:
  size_t count_;
  uint64_t* words_ = nullptr;
};

// Random pages; some are written anew all the time, spread over all of them.
class Memory {
 public:
  Memory(size_t mib, uint64_t writes_per_s)
      : versions_((mib << 20) / kPageBytes), writes_per_s_(writes_per_s) {
    if (versions_.empty()) return;
    void* all = mmap(nullptr, mib << 20, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    expect(all != MAP_FAILED, "mmap failed");
    words_ = static_cast<uint64_t*>(all);
    for (size_t page = 0; page < versions_.size(); ++page) fill(page);
  }

  // Writes what is due since the last turn, at most a hundredth of a second's worth.
  void turn() {
    const int64_t now_ns = selfcheck::now_ns(CLOCK_MONOTONIC);
    const int64_t since_ns = std::min<int64_t>(now_ns - last_ns_, 10'000'000);
    last_ns_ = now_ns;
    due_ += static_cast<double>(writes_per_s_) * static_cast<double>(since_ns) / 1e9;
    for (; due_ >= 1 && !versions_.empty(); due_ -= 1) {
      const size_t page = mix(choice_++) % versions_.size();
      ++versions_[page];
      fill(page);
    }
  }

  void check() const {
    for (size_t page = 0; page < versions_.size(); ++page) {
      for (size_t i = 0; i < kPageWords; ++i) {
        expect_equal(words_[page * kPageWords + i], wanted(page, i), "a word of the memory");
      }
    }
  }

 private:
  uint64_t wanted(size_t page, size_t index) const {
    return mix((static_cast<uint64_t>(versions_[page]) << 48) ^ (page * kPageWords + index));
  }

  void fill(size_t page) {
    for (size_t i = 0; i < kPageWords; ++i) words_[page * kPageWords + i] = wanted(page, i);
  }

  std::vector<uint16_t> versions_;  // by page
  uint64_t writes_per_s_;
  uint64_t* words_ = nullptr;
  uint64_t choice_ = 0;
  double due_ = 0;
  int64_t last_ns_ = selfcheck::now_ns(CLOCK_MONOTONIC);
};

// Gives back what it gets, over any number of connections, on a thread of its own.
class Echo {
 public:
  Echo(const std::string& address, uint16_t port) {
    if (address.empty()) return;
    epoll_ = must(epoll_create1(EPOLL_CLOEXEC), "epoll_create1");
    listener_ = must(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), "socket");
    const int on = 1;
    must(setsockopt(listener_, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on), "SO_REUSEADDR");
    sockaddr_in local{};
    local.sin_family = AF_INET;
    local.sin_port = htons(port);
    expect(inet_pton(AF_INET, address.c_str(), &local.sin_addr) == 1, "bad address");
    must(bind(listener_, reinterpret_cast<sockaddr*>(&local), sizeof local), "bind");
    must(listen(listener_, 1024), "listen");
    watch(listener_);
    thread_ = std::thread([this] { serve(); });
  }

  void end() {
    stop_ = true;
    if (thread_.joinable()) thread_.join();
  }

 private:
  void serve() const {
    while (!stop_) {
      epoll_event events[64];
      const int count = epoll_wait(epoll_, events, 64, 50);
      expect(count >= 0 || errno == EINTR, "epoll_wait failed");
      for (int i = 0; i < count; ++i) {
        if (events[i].data.fd == listener_) {
          accept_all();
        } else {
          echo(events[i].data.fd);
        }
      }
    }
  }

  void watch(int fd) const {
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.fd = fd;
    must(epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &event), "epoll_ctl");
  }

  void accept_all() const {
    for (;;) {
      const int fd = accept4(listener_, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
      if (fd < 0) {
        expect(errno == EAGAIN || errno == EINTR || errno == ECONNABORTED, "accept4 failed");
        return;
      }
      const int on = 1;
      must(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on), "TCP_NODELAY");
      watch(fd);
    }
  }

  // What comes is short: it fits into the socket's buffer on its way back.
  static void echo(int fd) {
    char buffer[4096];
    const ssize_t got = recv(fd, buffer, sizeof buffer, 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
    expect(got >= 0, "a connection broke");
    if (got == 0) {
      close(fd);
      return;
    }
    expect_equal(send(fd, buffer, static_cast<size_t>(got), MSG_NOSIGNAL), got, "send");
  }

  int epoll_ = -1;
  int listener_ = -1;
  std::atomic<bool> stop_ = false;
  std::thread thread_;
};

std::map<std::string, std::string> read_options(int argc, char** argv) {
  std::map<std::string, std::string> found{{"--threads", "4"},
                                           {"--descriptors", "16"},
                                           {"--mappings", "16"},
                                           {"--mib", "4"},
                                           {"--writes-per-s", "1000"}};
  for (int i = 3; i + 1 < argc; i += 2) found[argv[i]] = argv[i + 1];
  return found;
}

}  // namespace

int main(int argc, char** argv) {
  auto options = read_options(argc, argv);
  const auto number = [&options](const char* name) {
    return static_cast<size_t>(std::strtoull(options[name].c_str(), nullptr, 10));
  };
  std::unique_ptr<Threads> threads;
  std::unique_ptr<Descriptors> descriptors;
  std::unique_ptr<Mappings> mappings;
  std::unique_ptr<Memory> memory;
  std::unique_ptr<Echo> echo;
  const auto set_up = [&] {
    memory = std::make_unique<Memory>(number("--mib"), number("--writes-per-s"));
    mappings = std::make_unique<Mappings>(number("--mappings"));
    descriptors = std::make_unique<Descriptors>(number("--descriptors"));
    threads = std::make_unique<Threads>(number("--threads"));
    echo = std::make_unique<Echo>(options["--address"], static_cast<uint16_t>(number("--port")));
  };
  const auto turn = [&] {
    memory->turn();
    threads->turn();
  };
  const auto final_check = [&] {
    echo->end();
    threads->end();
    memory->check();
    mappings->check();
    descriptors->check();
  };
  return selfcheck::run_workload(std::min(argc, 3), argv, set_up, turn, final_check);
}
