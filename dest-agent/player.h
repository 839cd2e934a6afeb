// The other end of a restore's conversation: says what a source would say in a migration, out of an
// image.
//
//   Hello, PreflightRequest, Describe -> RoundPlaced, Brace, Final -> Prepared, Commit, Finish
//
// A lazy one says Finish when no page is missing.
//
// What comes next is made when the answer to the last is taken: send() takes it.
// docs/decisions/0014.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <string>
#include <vector>

#include "common/base/page_range.h"
#include "common/image/image.h"
#include "common/model/findings.h"
#include "common/wire/transport.h"

namespace godwit {

enum class TcpChoice {
  kKeep,   // connections go on where they stopped
  kClose,  // they are over, as if their peers had vanished
};

class Player final : public Transport {
 public:
  // The round and the generation in which the image's pages come.
  static constexpr std::uint32_t kRound = 1;
  static constexpr std::uint64_t kGeneration = 1;

  struct Choices {
    std::string pids = "auto";  // as in Hello
    TcpChoice tcp = TcpChoice::kClose;
    bool ignore_processor = false;
    bool lazy = false;  // it runs before its pages are there: the restore is over when they are
  };

  // Throws Error for a state that no process can be made from.
  Player(const Image& image, const std::string& migration_id, const Choices& choices);

  void send(const proto::Envelope& envelope, std::int64_t deadline_ns) override;
  std::optional<proto::Envelope> try_receive(std::int64_t deadline_ns) override;
  int fd() const override { return -1; }
  // Also true when all has been said: the next receive tells the end.
  bool pending() const override { return !messages_.empty() || over_; }
  const std::string& peer_name() const override { return name_; }
  void close() noexcept override {}

  // What preflight said; nothing is built when it refuses.
  const Findings& findings() const { return findings_; }
  // With `lazy`: pages that must be there before it runs.
  std::vector<PageRange> eager_pages() const;
  // Called just before the moment from which on it may run, and as soon as it does.
  struct Hooks {
    std::function<void()> about_to_run = [] {};
    std::function<void()> runs = [] {};
  };
  void set_hooks(Hooks hooks) { hooks_ = std::move(hooks); }
  std::string pids() const { return pids_; }
  pid_t host_pid() const { return host_pid_; }
  std::int64_t committed_ns() const { return committed_ns_; }  // CLOCK_MONOTONIC; 0: it is not

 private:
  template <typename Body>
  void say(Body body);
  void ask_preflight();
  void take_verdict(const proto::PreflightAnswer& verdict);
  void describe();
  void tell_clocks(std::uint32_t number);
  void brace();
  void say_final();
  void finish();

  std::string name_;
  proto::ImageState state_;
  proto::Hello hello_;
  std::deque<proto::Envelope> messages_;
  Findings findings_;
  std::string pids_;
  std::int64_t first_probe_ns_ = 0;
  std::int64_t committed_ns_ = 0;
  pid_t host_pid_ = 0;
  bool reconciled_ = false;
  bool placed_ = false;
  bool over_ = false;
  bool lazy_ = false;
  bool complete_ = false;  // no page is missing
  Hooks hooks_;
};

}  // namespace godwit
