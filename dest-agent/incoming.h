// One migration as the destination sees it: what each message of the source makes it do.
//
//   hello -> preflight -> describe* -> take_streams* -> cut_over -> commit -> replay* -> finish
//
// Before commit() the destructor removes everything that was built; after it, nothing that runs.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/kernel/cgroup_fs.h"
#include "common/kernel/precedence.h"
#include "common/model/journal.h"
#include "common/wire/channel.h"
#include "common/wire/key_folder.h"
#include "common/wire/page_server_process.h"
#include "dest-agent/lazy_restore.h"
#include "dest-agent/network.h"
#include "dest-agent/nursery.h"
#include "dest-agent/options.h"
#include "dest-agent/post_copy.h"
#include "dest-agent/restore/huge_pages.h"
#include "dest-agent/skeleton.h"
#include "dest-agent/told_status.h"

namespace godwit {

class Incoming {
 public:
  // Answers Hello. `control` must outlive this, and `daemon`, the session's link (-1: none).
  Incoming(const DestOptions& options, const KeyFolder& keys, Channel& control,
           const proto::Hello& hello, int daemon);
  Incoming(const Incoming&) = delete;
  Incoming& operator=(const Incoming&) = delete;
  ~Incoming();

  void preflight(const proto::PreflightRequest& request);
  void start_pages(UniqueFd connection);
  // For post-copy: the connection that page faults are asked for over.
  void start_faults(UniqueFd connection);
  // A restore: pages come out of this image.
  void play(const std::vector<ImageLevel>& levels, const proto::PlayImage& order);
  // Builds the skeleton, or reconciles it. Takes the description out of the message.
  void describe(proto::Snapshot& snapshot);
  void on_page_report();
  void brace(proto::Brace& brace);
  // The blackout's half here: everything up to Prepared.
  void take_streams(proto::Streams& streams);
  void cut_over(proto::Final& final);
  void commit();
  void replay(const proto::HeldPackets& packets);
  void correct(const proto::Corrections& corrections);
  void finish();
  // The source is gone after the commit: finish without it.
  void finish_alone();

  // What of the image could not be read.
  LostImagePages& lost_pages() { return lost_; }
  bool committed() const { return committed_; }
  // It runs here and pages of it are still at the source.
  bool misses_pages() const { return committed_ && post_copy_.incomplete(); }
  PostCopy& post_copy() { return post_copy_; }
  // The source may hang up without that being a failure.
  bool ended_by_peer() const { return check_only_ || (plays_ && !skeleton_); }
  pid_t host_pid() const { return skeleton_ ? skeleton_->host_pid() : 0; }
  // -1 while there is no page server.
  int page_link_fd();
  DestNetwork& network() { return network_; }

 private:
  void build(std::shared_ptr<proto::Process> wanted);
  void publish_areas(std::uint64_t generation);
  void await_round(std::uint32_t round);
  void begin_lazily();
  void take_missing_pages(const proto::MissingPages& news);
  void handle_page_report(const proto::PageReport& report);
  void verify(const proto::Process& expected);
  void apply(const proto::Corrections& corrections);
  void write_journal(State state);
  void mark_phase(const char* name);
  // What must be done once the process runs, whether or not the source still hears it. Idempotent.
  void make_lasting();
  // One duty of many: what fails is logged.
  template <typename Duty>
  void attempt(const char* what, Duty duty) noexcept;

  const DestOptions& options_;
  const KeyFolder& keys_;
  Channel& control_;
  proto::Hello hello_;
  bool check_only_ = false;
  bool plays_ = false;  // an image
  bool prepared_ = false;
  bool committed_ = false;
  bool lasting_ = false;
  std::string pids_ = "namespace";
  std::string page_token_;
  JournalFolder journal_;
  JournalRecord record_;

  std::optional<PageServerProcess> pages_;
  DestNetwork network_;
  std::optional<FreezerGroup> group_;
  std::optional<Nursery> nursery_;
  std::optional<Skeleton> skeleton_;
  std::optional<Precedence> precedence_for_pages_;
  std::optional<Precedence> precedence_;                     // from Braced to the commit
  std::map<std::uint32_t, proto::TcpSocket> streams_ahead_;  // by file, may still move
  std::map<std::uint32_t, proto::TcpSocket> streams_;        // by file, until Final comes
  proto::Corrections early_corrections_;                     // came before Commit
  std::uint32_t round_received_ = 0;
  UniqueFd fault_connection_;  // until there is a page server
  bool lazy_ = false;          // it is to run before every page is here, until they are
  WishedHugePages huge_pages_;
  PostCopy post_copy_;
  LostImagePages lost_;
  proto::RoundReceived last_round_;
  std::int64_t phase_began_ns_ = 0;
  std::vector<proto::Phase> phases_;
  std::vector<std::string> differences_;
  ToldStatus status_;
};

}  // namespace godwit
