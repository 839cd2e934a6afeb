// A redis load that believes nothing: every value read is compared, every counter must go up by
// one.
//   client_redis_load --host H --port P --clients 50 --rate 10000 --write-share 0.25 --seconds S
//                     --json FILE [--value-bytes 64] [--keys 100] [--only paced|continuous]
//                     [--samples FILE]
// The clients share the rate, each with one command under way; one more client, on a thread of its
// own, sends as soon as the reply is there: its gaps are those of the service. --only runs one of
// the two sorts, so that each can have a process of its own. Ends after S seconds or at SIGTERM and
// writes its figures; --samples has a line for every reply.
#include <fmt/format.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/prctl.h>

#include <atomic>
#include <cstdio>
#include <exception>
#include <memory>
#include <queue>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "integration/clients/ending.h"
#include "integration/clients/resp.h"
#include "integration/clients/timeline.h"

namespace godwit::client {
namespace {

constexpr int64_t kDrainNs = 10'000'000'000;

struct Load {
  std::string host;
  std::string port;
  int64_t clients = 0;
  double rate = 0;  // commands a second of all paced clients
  double write_share = 0;
  int64_t seconds = 0;
  size_t value_bytes = 0;
  size_t keys = 0;         // of each client
  bool paced = true;       // the clients that share the rate run
  bool continuous = true;  // the one that makes no pauses runs
  std::string samples;     // a file, or empty
};

struct Counts {
  uint64_t operations = 0;
  uint64_t failed_commands = 0;
  uint64_t wrong_replies = 0;
  uint64_t counter_errors = 0;
  uint64_t reconnects = 0;
};

// One connection with keys of its own. Used by one thread at a time.
class Client {
 public:
  Client(const Load& load, uint64_t number)
      : load_(load), number_(number), choice_(number + 1), versions_(load.keys) {
    fd_ = connect_to(load_.host, load_.port);
    prepare();
  }
  ~Client() {
    if (fd_ >= 0) close(fd_);
  }
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  int fd() const { return fd_; }
  const Counts& counts() const { return counts_; }
  bool waiting() const { return command_ != Command::kNone; }
  uint32_t largest_gap_ns() const { return largest_gap_ns_; }
  uint32_t largest_latency_ns() const { return largest_latency_ns_; }
  const Samples& samples() const { return samples_; }

  void send_command() {
    key_ = choice_.next() % load_.keys;
    const double dice = static_cast<double>(choice_.next() >> 11) * 0x1p-53;
    out_.clear();
    if (dice < load_.write_share / 2) {
      command_ = Command::kIncrement;
      append_command(out_, {"INCR", counter_name()});
    } else if (dice < load_.write_share) {
      command_ = Command::kSet;
      value_of(key_, ++versions_[key_]);
      append_command(out_, {"SET", key_name(key_), value_});
    } else {
      command_ = Command::kGet;
      append_command(out_, {"GET", key_name(key_)});
    }
    sent_ns_ = monotonic_ns();
    if (!send_all(fd_, out_)) disconnected();
  }

  // Reads what is there and judges the reply, if it is whole. True: the command is answered.
  // `continuous`: gaps between replies are the service's, the client makes no pauses.
  bool receive(int flags, bool continuous) {
    if (!reader_.feed(fd_, flags)) {
      disconnected();
      return true;
    }
    const auto reply = reader_.try_next();
    if (!reply) return false;
    const int64_t now_ns = monotonic_ns();
    judge(*reply);
    record(now_ns, continuous);
    command_ = Command::kNone;
    ++counts_.operations;
    return true;
  }

  // A reply that never came counts as a failed command, and for as long as it was waited for.
  void give_up() {
    if (!waiting()) return;
    ++counts_.failed_commands;
    record(monotonic_ns(), true);
    command_ = Command::kNone;
  }

  // After the last reply: what the server has must be what this client counted.
  void check_counter() {
    out_.clear();
    append_command(out_, {"GET", counter_name()});
    if (!send_all(fd_, out_)) return disconnected();
    const auto reply = wait_reply();
    if (!reply || reply->text != std::to_string(counter_)) ++counts_.counter_errors;
  }

 private:
  enum class Command { kNone, kGet, kSet, kIncrement };

  std::string key_name(size_t key) const { return fmt::format("load:{}:{}", number_, key); }
  std::string counter_name() const { return fmt::format("count:{}", number_); }

  void value_of(size_t key, uint64_t version) {
    Pattern((number_ << 40) ^ (key << 24) ^ version).fill(value_, load_.value_bytes);
  }

  // Sets the first value of every key and the counter.
  void prepare() {
    out_.clear();
    append_command(out_, {"SET", counter_name(), "0"});
    for (size_t key = 0; key < load_.keys; ++key) {
      value_of(key, 0);
      append_command(out_, {"SET", key_name(key), value_});
    }
    if (!send_all(fd_, out_)) throw std::runtime_error("redis closed the connection");
    for (size_t i = 0; i <= load_.keys; ++i) {
      const auto reply = wait_reply();
      if (!reply || reply->type != '+') throw std::runtime_error("redis refused a SET");
    }
  }

  std::optional<Reply> wait_reply() {
    for (;;) {
      if (const auto reply = reader_.try_next()) return reply;
      if (!reader_.feed(fd_, 0)) return std::nullopt;
    }
  }

  void judge(const Reply& reply) {
    if (reply.type == '-') {
      ++counts_.failed_commands;
      return;
    }
    switch (command_) {
      case Command::kGet:
        value_of(key_, versions_[key_]);
        if (reply.type != '$' || reply.missing || reply.text != value_) ++counts_.wrong_replies;
        break;
      case Command::kSet:
        if (reply.type != '+') ++counts_.wrong_replies;
        break;
      case Command::kIncrement:
        if (reply.type != ':' || reply.number != counter_ + 1) ++counts_.counter_errors;
        counter_ = reply.number;
        break;
      case Command::kNone:
        ++counts_.wrong_replies;
        break;
    }
  }

  void record(int64_t now_ns, bool continuous) {
    const uint32_t latency_ns = saturated_ns(now_ns - sent_ns_);
    const uint32_t gap_ns = last_reply_ns_ == 0 ? 0 : saturated_ns(now_ns - last_reply_ns_);
    last_reply_ns_ = now_ns;
    largest_gap_ns_ = std::max(largest_gap_ns_, gap_ns);
    largest_latency_ns_ = std::max(largest_latency_ns_, latency_ns);
    samples_.push_back({now_ns, latency_ns, continuous ? gap_ns : 0});
  }

  // Any end of the connection is a failure; the client goes on with a new one, if it gets one.
  void disconnected() {
    ++counts_.reconnects;
    if (waiting()) ++counts_.failed_commands;
    command_ = Command::kNone;
    const int fresh = connect_to(load_.host, load_.port);
    dup3(fresh, fd_, O_CLOEXEC);
    close(fresh);
    reader_ = {};
  }

  const Load& load_;
  uint64_t number_;
  Pattern choice_;
  std::vector<uint64_t> versions_;  // by key
  int fd_ = -1;
  ReplyReader reader_;
  std::string out_;
  std::string value_;
  Command command_ = Command::kNone;
  size_t key_ = 0;
  int64_t counter_ = 0;
  int64_t sent_ns_ = 0;
  int64_t last_reply_ns_ = 0;
  uint32_t largest_gap_ns_ = 0;
  uint32_t largest_latency_ns_ = 0;
  Counts counts_;
  Samples samples_;
};

using Clients = std::vector<std::unique_ptr<Client>>;

// The clients that share the rate, on one thread.
class PacedClients {
 public:
  PacedClients(Clients& clients, double rate, const std::atomic<bool>& stop)
      : clients_(clients),
        period_ns_(static_cast<int64_t>(1e9 * static_cast<double>(clients.size()) / rate)),
        stop_(stop),
        epoll_(epoll_create1(EPOLL_CLOEXEC)) {
    const int64_t now_ns = monotonic_ns();
    for (size_t i = 0; i < clients_.size(); ++i) {
      epoll_event event{.events = EPOLLIN, .data = {.u64 = i}};
      if (epoll_ctl(epoll_, EPOLL_CTL_ADD, clients_[i]->fd(), &event) < 0) {
        throw std::system_error(errno, std::generic_category(), "epoll_ctl");
      }
      due_.emplace(
          now_ns + period_ns_ * static_cast<int64_t>(i) / static_cast<int64_t>(clients_.size()), i);
    }
    due_of_.resize(clients_.size());
  }
  ~PacedClients() { close(epoll_); }
  PacedClients(const PacedClients&) = delete;
  PacedClients& operator=(const PacedClients&) = delete;

  void run() {
    int64_t stopped_ns = 0;
    for (;;) {
      const int64_t now_ns = monotonic_ns();
      if (stop_ && stopped_ns == 0) stopped_ns = now_ns;
      if (stopped_ns == 0) {
        send_due(now_ns);
      } else if (waiting_ == 0 || now_ns > stopped_ns + kDrainNs) {
        break;
      }
      receive(wait_ns(now_ns, stopped_ns != 0));
    }
    for (auto& client : clients_) client->give_up();
  }

 private:
  using Due = std::pair<int64_t, size_t>;

  void send_due(int64_t now_ns) {
    while (!due_.empty() && due_.top().first <= now_ns) {
      const auto [at_ns, index] = due_.top();
      due_.pop();
      due_of_[index] = at_ns;
      clients_[index]->send_command();
      ++waiting_;
    }
  }

  int64_t wait_ns(int64_t now_ns, bool stopping) const {
    constexpr int64_t kLongestNs = 20'000'000;
    if (stopping || due_.empty()) return kLongestNs;
    return std::clamp<int64_t>(due_.top().first - now_ns, 0, kLongestNs);
  }

  void receive(int64_t wait_ns) {
    epoll_event events[64];
    const timespec timeout{wait_ns / 1'000'000'000, wait_ns % 1'000'000'000};
    const int count = epoll_pwait2(epoll_, events, 64, &timeout, nullptr);
    for (int i = 0; i < count; ++i) {
      const size_t index = events[i].data.u64;
      Client& client = *clients_[index];
      const bool waited = client.waiting();
      if (!client.receive(MSG_DONTWAIT, false) || !waited) continue;
      --waiting_;
      // Late ones catch up, but no further back than 50 ms.
      due_.emplace(std::max(due_of_[index] + period_ns_, monotonic_ns() - 50'000'000), index);
    }
  }

  Clients& clients_;
  int64_t period_ns_;  // of one client
  const std::atomic<bool>& stop_;
  int epoll_;
  std::priority_queue<Due, std::vector<Due>, std::greater<>> due_;
  std::vector<int64_t> due_of_;  // when the command under way was due
  size_t waiting_ = 0;
};

// Sends soon after the reply is there: a pause far below what a gap is measured in, so that this
// client is not the greater part of the load.
void run_continuous(Client& client, const std::atomic<bool>& stop) {
  const timeval timeout{.tv_sec = 0, .tv_usec = 100'000};
  setsockopt(client.fd(), SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
  int64_t stopped_ns = 0;
  while (!stop) {
    client.send_command();
    while (client.waiting() && !client.receive(0, true)) {
      if (stop && stopped_ns == 0) stopped_ns = monotonic_ns();
      if (stopped_ns != 0 && monotonic_ns() > stopped_ns + kDrainNs) return client.give_up();
    }
    constexpr useconds_t kPauseUs = 200;
    usleep(kPauseUs);
  }
}

std::string report(const Clients& clients, Timeline& timeline, double seconds) {
  Counts sum;
  std::vector<uint32_t> latencies_ns;
  std::string each;
  for (const auto& client : clients) {
    const Counts& counts = client->counts();
    sum.operations += counts.operations;
    sum.failed_commands += counts.failed_commands;
    sum.wrong_replies += counts.wrong_replies;
    sum.counter_errors += counts.counter_errors;
    sum.reconnects += counts.reconnects;
    timeline.add(client->samples());
    for (const Sample& sample : client->samples()) latencies_ns.push_back(sample.latency_ns);
    fmt::format_to(std::back_inserter(each),
                   "{}{{\"ops\":{},\"gap_max_ms\":{:.3f},\"latency_max_ms\":{:.3f}}}",
                   each.empty() ? "" : ",", counts.operations, client->largest_gap_ns() / 1e6,
                   client->largest_latency_ns() / 1e6);
  }
  const double p50_ms = percentile_ms(latencies_ns, 0.50);
  const double p99_ms = percentile_ms(latencies_ns, 0.99);
  const double max_ms = percentile_ms(latencies_ns, 1.0);
  return fmt::format(
      "{{\"failed_commands\":{},\"wrong_replies\":{},\"reconnects\":{},\"counter_errors\":{},"
      "\"ops\":{},\"seconds\":{:.3f},\"ops_per_s\":{:.0f},\"latency_p50_ms\":{:.3f},"
      "\"latency_p99_ms\":{:.3f},\"latency_max_ms\":{:.3f},\"gap_max_ms\":{:.3f},"
      "\"clients\":[{}],\"timeline\":{}}}",
      sum.failed_commands, sum.wrong_replies, sum.reconnects, sum.counter_errors, sum.operations,
      seconds, static_cast<double>(sum.operations) / seconds, p50_ms, p99_ms, max_ms,
      clients.empty() ? 0 : clients.back()->largest_gap_ns() / 1e6, each, timeline.json());
}

void write_samples(const Clients& clients, int64_t unix_ns, const std::string& file) {
  std::string text = "client,sent_unix_ns,latency_ns\n";
  for (size_t i = 0; i < clients.size(); ++i) append_csv(text, i, clients[i]->samples(), unix_ns);
  fmt::output_file(file).print("{}", text);
}

int run(const Load& load, const std::string& file) {
  block_ending_signals();
  prctl(PR_SET_TIMERSLACK, 1);

  Clients paced;
  for (int64_t i = 0; load.paced && i < load.clients; ++i) {
    paced.push_back(std::make_unique<Client>(load, i));
  }
  std::unique_ptr<Client> continuous;
  if (load.continuous) continuous = std::make_unique<Client>(load, load.clients);
  std::atomic<bool> stop = false;
  std::exception_ptr failure;
  const auto guarded = [&](auto body) {
    return [&, body] {
      try {
        body();
      } catch (...) {
        failure = std::current_exception();
        kill(getpid(), SIGTERM);
      }
    };
  };
  const int64_t start_ns = monotonic_ns();
  const int64_t start_unix_ns = clock_ns(CLOCK_REALTIME);
  std::thread paced_thread(guarded([&] {
    if (!paced.empty()) PacedClients(paced, load.rate, stop).run();
  }));
  std::thread continuous_thread(guarded([&] {
    if (continuous) run_continuous(*continuous, stop);
  }));
  say_running();
  wait_for_end(load.seconds);
  stop = true;
  paced_thread.join();
  continuous_thread.join();
  const int64_t end_ns = monotonic_ns();
  if (failure) std::rethrow_exception(failure);

  if (continuous) paced.push_back(std::move(continuous));
  for (auto& client : paced) client->check_counter();
  Timeline timeline(start_ns, start_unix_ns, end_ns);
  const std::string text = report(paced, timeline, static_cast<double>(end_ns - start_ns) / 1e9);
  write_report(file, text);
  if (!load.samples.empty()) write_samples(paced, start_unix_ns - start_ns, load.samples);
  return 0;
}

}  // namespace
}  // namespace godwit::client

int main(int argc, char** argv) {
  try {
    const godwit::client::Options options(argc, argv);
    godwit::client::Load load;
    load.host = options.text("host", "127.0.0.1");
    load.port = options.text("port", "6379");
    load.clients = options.number("clients", 50);
    load.rate = options.fraction("rate", 10000);
    load.write_share = options.fraction("write-share", 0.25);
    load.seconds = options.number("seconds", 3600);
    load.value_bytes = static_cast<size_t>(options.number("value-bytes", 64));
    load.keys = static_cast<size_t>(options.number("keys", 100));
    load.samples = options.text("samples", "");
    load.paced = options.text("only", "paced") == "paced";
    load.continuous = options.text("only", "continuous") == "continuous";
    return godwit::client::run(load, options.text("json", ""));
  } catch (const std::exception& error) {
    fmt::print(stderr, "client_redis_load: {}\n", error.what());
    return 2;
  }
}
