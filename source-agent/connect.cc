// The steps that touch nothing: everything that would stop the migration is found here, at once.
#include <unistd.h>

#include <ctime>
#include <optional>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/base/printable.h"
#include "common/kernel/cgroup_fs.h"
#include "common/kernel/proc_fdinfo.h"
#include "common/kernel/proc_status.h"
#include "common/model/ended_connections.h"
#include "common/model/host_features.h"
#include "common/model/report_text.h"
#include "common/model/snapshot.h"
#include "source-agent/checkpoint.h"
#include "source-agent/destination.h"
#include "source-agent/migration.h"
#include "source-agent/preflight.h"
#include "source-agent/remote_copy.h"
#include "source-agent/session.h"
#include "source-agent/workloads.h"

namespace godwit {
namespace {

constexpr std::int64_t kAnswerTimeoutNs = 60'000'000'000;

std::uint64_t resident_bytes(pid_t pid) {
  const std::string text = read_file(fmt::format("/proc/{}/statm", pid));
  const size_t second = text.find(' ') + 1;
  return std::stoull(text.substr(second)) * kPageSize;
}

proto::Hello make_hello(const Migration& migration, bool check_only) {
  proto::Hello hello;
  hello.set_version(kProtocolVersion);
  hello.set_migration_id(migration.id);
  hello.set_check_only(check_only);
  hello.set_pids(migration.options.pids);
  hello.set_addresses(makes_copy(migration) ? "alone" : migration.options.addresses);
  hello.set_verify(migration.options.verify);
  hello.set_ignore_processor(migration.options.cpu == "ignore");
  *hello.mutable_source() = read_host_features();
  return hello;
}

// What a step refuses is one finding among others; false then.
template <typename Step>
bool gather(Findings& findings, const std::string& object, Step step) {
  try {
    step();
    return true;
  } catch (const Refused& refused) {
    refuse(findings, refused.id(), object, refused.what(), refused.hint());
    return false;
  }
}

void preflight_tracker(Migration& migration, Findings& findings) {
  const std::optional<TrackerKind> asked = tracker_by_name(migration.options.tracker);
  std::optional<TrackerKind> tracker = asked;
  if (!asked) tracker = probe_tracker();
  if (asked && !probe_tracker(*asked)) tracker.reset();
  if (tracker) {
    migration.tracker = *tracker;
    migration.report.tracker = tracker_name(*tracker);
  } else if (asked) {
    refuse(findings, "no-tracker", fmt::format("--tracker {}", migration.options.tracker),
           "the kernel of the source does not have it", "use --tracker auto");
  } else {
    refuse(findings, "no-tracker", "kernel of the source",
           "it can't tell which pages a task writes",
           "boot a kernel with userfaultfd write-protect (6.7 or later) or CONFIG_MEM_SOFT_DIRTY");
  }
}

// Of this host, whatever the process is.
void preflight_host(Migration& migration, Findings& findings) {
  if (migration.options.image.empty()) {
    gather(findings, "key folder",
           [&] { migration.keys = load_keys(migration.options.keys, "source"); });
  }
  if (!migration.keys.certificate_pem.empty()) {
    if (auto soon = expiry_warning(migration.keys, ::time(nullptr))) {
      findings.push_back(std::move(*soon));
    }
  }
  preflight_tracker(migration, findings);
}

// Of a process that can be looked at.
void preflight_kinds(Migration& migration, Findings& findings) {
  const pid_t pid = migration.options.pid;
  preflight_process_kinds(pid, findings);
  try {
    find_group_of(pid);
  } catch (const Error& error) {
    refuse(
        findings, "no-cgroup2", "cgroup2 of the source", error.what(),
        error.hint().empty() ? "run migrate where the whole hierarchy is mounted" : error.hint());
  }
  if (const auto mark = try_mark_process(pid)) migration.record.process = *mark;
  if (const auto mark = try_mark_process(::getpid())) migration.record.agent = *mark;
  migration.report.resident_bytes = resident_bytes(pid);
}

// True when the process is one that more can be said about.
bool preflight_here(Migration& migration, bool check_only) {
  Findings& findings = migration.report.findings;
  findings = preflight_process(migration.options.pid);
  const bool ordinary = !stands_alone(findings);
  if (!check_only) throw_first_refusal(findings);
  preflight_host(migration, findings);
  if (check_only) find_unsettled(migration.options, findings);
  if (ordinary) preflight_kinds(migration, findings);
  return ordinary;
}

// Whoever can't be sure yet who the other side is closes without a word.
std::string hint_for(const Error& error) {
  const bool wordless = error.hint().empty() && error.code() == ECONNRESET;
  return wordless ? "the log of dest-agent says why" : error.hint();
}

// Nothing has been touched yet: a destination that can't be talked to is a refusal.
Channel reach_destination(const Migration& migration) {
  try {
    return connect_control(migration.options.to, migration.keys, migration.id);
  } catch (const Error& error) {
    const char* id = "destination-unreachable";
    if (error.code() == EACCES) id = "certificate-refused";
    if (error.code() == EPROTO) id = "destination-not-godwit";
    throw Refused(id, error.what(), hint_for(error));
  }
}

// Nothing was touched yet: without an answer the migration is refused, not rolled back.
template <typename Question>
proto::Envelope ask(Migration& migration, proto::Envelope::BodyCase answer,
                    const Question& question) {
  try {
    migration.control->send_body(question);
    return await_envelope(migration, answer, monotonic_ns() + kAnswerTimeoutNs);
  } catch (const Cancelled&) {
    throw;
  } catch (const PeerAborted& error) {
    throw Refused("destination-refused", error.what(), error.hint());
  } catch (const Error& error) {
    throw Refused("destination-unreachable", error.what(), hint_for(error));
  }
}

bool connect(Migration& migration, bool check_only) {
  Findings& findings = migration.report.findings;
  const bool to_image = !migration.options.image.empty();
  // Which is one of the findings.
  if (!to_image && migration.keys.certificate_pem.empty()) return false;
  const bool reached = gather(findings, migration.options.target(), [&] {
    if (to_image) return open_image(migration);
    migration.control.emplace(reach_destination(migration));
  });
  if (!reached) return false;
  const proto::HelloAnswer answer =
      ask(migration, proto::Envelope::kHelloAnswer, make_hello(migration, check_only))
          .hello_answer();
  migration.page_token = answer.page_token();
  enter_next(migration, Event::kConnected);
  preflight_thread_ids(migration.options.pid, answer.destination(), findings);
  return true;
}

// A file that the process has closed since, a journal of a transaction say, is not missed.
void forget_closed(pid_t pid, const proto::FdTable& asked, Findings& findings) {
  const ProcFdDirectory directory(pid);
  for (const proto::OpenFile& file : asked.files()) {
    if (!file.has_regular_file()) continue;
    const std::string& path = file.regular_file().path();
    if (directory.link(static_cast<int>(file.id())) == path) continue;
    const std::string object = fmt::format("fd {}, {}", file.id(), path);
    std::erase_if(findings,
                  [&](const proto::Finding& finding) { return finding.object() == object; });
  }
}

void preflight_there(Migration& migration) {
  Findings& findings = migration.report.findings;
  proto::PreflightRequest request;
  proto::Snapshot& snapshot = *request.mutable_snapshot();
  snapshot.set_version(kSnapshotVersion);
  proto::Process& process = *snapshot.add_processes();
  process = migration.capture->describe_outside(refuses(findings) ? Unmovable::kLeaveOut
                                                                  : Unmovable::kRefuse);
  request.set_resident_bytes(migration.report.resident_bytes);
  if (migration.options.registered && !migration.options.leave_running) {
    *request.mutable_workload() = travelling_workload(migration.options);
  }
  migration.network.emplace(migration.id, migration.options.addresses, migration.control->fd());
  migration.network->preflight(migration.options.pid, process.fd_table(), request, findings);
  if (makes_copy(migration)) end_connections(*process.mutable_fd_table());
  request.set_realtime_ns(clock_ns(CLOCK_REALTIME));
  const proto::Envelope envelope = ask(migration, proto::Envelope::kPreflightAnswer, request);
  Findings there;
  for (const proto::Finding& told : envelope.preflight_answer().findings()) {
    proto::Finding& finding = there.emplace_back(told);
    finding.set_object(printable(told.object()));
    finding.set_problem(printable(told.problem()));
    finding.set_way_out(printable(told.way_out()));
  }
  const proto::PreflightAnswer& answer = envelope.preflight_answer();
  forget_closed(migration.options.pid, process.fd_table(), there);
  findings.insert(findings.end(), there.begin(), there.end());
  migration.report.pids = answer.pids();
}

// A process that is refused may not even be describable; what has been found stands all the same.
void preflight_there_if_possible(Migration& migration) {
  Findings& findings = migration.report.findings;
  try {
    preflight_there(migration);
  } catch (const Cancelled&) {
    throw;
  } catch (const Error& error) {
    if (!refuses(findings)) throw;
    warn(findings, "destination-not-asked", migration.options.target(),
         fmt::format("it could not be asked about this process: {}", error.what()),
         "settle the others and check again");
  }
}

}  // namespace

void connect_and_preflight(Migration& migration) {
  const bool check_only = migration.options.command == MigrateOptions::Command::kCheck;
  const Findings& findings = migration.report.findings;
  check_still_registered(migration.options);
  const bool ordinary = preflight_here(migration, check_only);
  // A check is a whole verdict; a migration that is refused already asks nobody else.
  if (!check_only) throw_first_refusal(findings);
  if (connect(migration, check_only) && ordinary) {
    migration.capture.emplace(migration.options.pid);
    preflight_there_if_possible(migration);
  }
  throw_first_refusal(findings);
  for (const proto::Finding& finding : findings) {
    if (!check_only) log_warning("{}", finding_line(finding));
  }
  enter_next(migration, check_only ? Event::kCheckPassed : Event::kPreflightPassed);
}

}  // namespace godwit
