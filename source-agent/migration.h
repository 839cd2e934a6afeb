// One migration as the source sees it: what it holds, and the steps it takes.
//
//   connect -> preflight -> build -> precopy -> hand_over -> complete
//
// Each step is one file. A step that throws leaves everything to roll_back(), which brings the task
// back to running on this host whatever had been reached.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "common/image/image_target.h"
#include "common/kernel/cgroup_fs.h"
#include "common/model/journal.h"
#include "common/model/phase.h"
#include "common/model/report.h"
#include "common/remote/remote_task.h"
#include "common/wire/channel.h"
#include "common/wire/key_folder.h"
#include "common/wire/page_server_process.h"
#include "source-agent/calm_streams.h"
#include "source-agent/cancel.h"
#include "source-agent/capture/process.h"
#include "source-agent/network.h"
#include "source-agent/options.h"
#include "source-agent/progress.h"
#include "source-agent/shared_objects.h"
#include "source-agent/tracked_memory.h"

namespace godwit {

class Recorder;

struct Migration {
  Migration(const MigrateOptions& options, Progress& progress);

  const MigrateOptions& options;
  Progress& progress;
  std::string id;
  MigrationReport report;
  PhaseMachine machine;
  JournalFolder journal;
  JournalRecord record;
  KeyFolder keys;
  std::int64_t began_ns = 0;

  std::optional<ImageTarget> image;  // of a checkpoint: what takes the destination's place
  Recorder* recorder = nullptr;      // part of its control
  std::optional<proto::ImageWritten> image_written;
  std::optional<Channel> control;
  std::string page_token;
  std::optional<PageServerProcess> pages;
  int page_connections = 0;  // that were begun, and that stand
  int page_connections_ready = 0;
  bool pages_complete = false;  // the destination hangs up: what becomes of `pages` is all the same
  TrackerKind tracker = TrackerKind::kWriteProtect;
  std::optional<ProcessCapture> capture;
  std::optional<RemoteTask> task;
  std::optional<FreezerGroup> group;
  std::optional<TrackedMemory> memory;
  std::optional<SharedObjects> shared_objects;
  std::optional<SourceNetwork> network;
  std::optional<CalmStreams> calm;  // from shortly before the blackout

  bool copy_on_write = false;    // it runs on here before the last of its pages are saved
  bool takes_little = false;     // what is left after the rounds must be little, or it begins again
  bool lazy = false;             // it runs there before all pages are there
  std::uint64_t generation = 0;  // of the last description sent
  std::uint32_t round = 0;
  std::vector<PageRange>
      eager;  // sorted; in post-copy these pages travel in the blackout all the same
  std::string described_fd_table;  // serialized, as last sent
  std::optional<Error> error;      // why it does not go on
  bool peer_aborted = false;       // the destination said so itself
  sigset_t wait_mask;              // in waits that may be given up

  // The last description, kept for the way back.
  std::vector<proto::Envelope> stream_messages;
  proto::Envelope final_message;

  // What the page server and the destination said about a round, as it comes.
  proto::Scanned scanned;
  proto::RoundSent sent;
  std::uint32_t placed_round = 0;
  std::optional<proto::MissingPages> missing;  // what is still missing there, as last heard

  void write_journal();
};

// --- The steps, in order -------------------------------------------------------------------------
// Throws Refused: nothing has been touched.
void connect_and_preflight(Migration& migration);
// The destination has a skeleton, the task is tracked; it was stopped for some milliseconds.
void build(Migration& migration);
// Rounds until the rest fits into the wanted downtime.
void precopy(Migration& migration);
// The blackout. When it returns the task runs on the destination.
void hand_over(Migration& migration);
// Stragglers are forwarded, pages that are missing there are served, the source's copy is gone,
// nothing is left.
void complete(Migration& migration);
// Serves missing pages until the destination has all of them. Throws Error when that can't go on:
// the copy here must stay.
void serve_pages(Migration& migration);

// The task runs on here, its sockets with it; the first part of the way back.
void let_source_run(Migration& migration) noexcept;
// The second: what was held for it comes in, and nothing is held any more.
void give_packets_back(Migration& migration) noexcept;
// From any point before the commit: the task runs on here.
void roll_back(Migration& migration) noexcept;
// Commit was sent and no answer came: asks until it is known, for a minute. Leaves the machine in
// Completed, RollingBack, or, with the task frozen and the journal written, in InDoubt.
void settle_doubt(Migration& migration) noexcept;
// What became of a migration; throws Error when the destination can't be asked.
// `settled`: the source has acted on COMMITTED, the destination may forget it.
proto::Outcome ask_outcome(const HostPort& peer, const KeyFolder& keys, const std::string& id,
                           bool settled = false);
// The same by what the journal has: an image is looked at.
proto::Outcome ask_outcome(const JournalRecord& record, bool settled = false);

// --- Shared by the steps -------------------------------------------------------------------------
// Every description is to be whole: it is compared, or kept.
bool describes_whole(const Migration& migration);
// Applies the event and shows the state that it leads to.
void enter_next(Migration& migration, Event event);

// Waits for one message of the page server or the destination and takes it into `migration`; Failed
// and Abort are thrown. Returns an envelope that is none of the running reports.
std::optional<proto::Envelope> take_event(Migration& migration, std::int64_t deadline_ns);
// Until the destination has this kind of message.
proto::Envelope await_envelope(Migration& migration, proto::Envelope::BodyCase kind,
                               std::int64_t deadline_ns);

// Sends a later description, `process` with the areas as last described, and waits until the
// destination has reconciled its skeleton. migration.memory must have these areas.
void describe_again(Migration& migration, proto::Process& process);
// Sends `process` as the description of this generation.
void send_description(Migration& migration, proto::Process& process);
// One round while the task runs, until the destination has placed it.
RoundReport run_round(Migration& migration);
// Sends the areas as of now to the page server, under the current generation.
void publish_areas(Migration& migration);
// The same areas under the next generation, whose pages the destination holds back until it has the
// description of that generation.
void begin_generation(Migration& migration);
// The next round, to be filled in further and ordered with order_round().
proto::PageOrder next_round(Migration& migration);
void order_round(Migration& migration);
// Clocks as the task sees them, for the destination's time namespace.
void answer_clock_probe(Migration& migration, const proto::ClockProbe& probe);

}  // namespace godwit
