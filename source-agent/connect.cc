// The steps that touch nothing: everything that would stop the migration is found here, at once.
#include <ctime>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/base/printable.h"
#include "common/kernel/proc_status.h"
#include "common/model/host_features.h"
#include "common/model/snapshot.h"
#include "source-agent/destination.h"
#include "source-agent/migration.h"
#include "source-agent/preflight.h"

namespace godwit {
namespace {

constexpr std::int64_t kAnswerTimeoutNs = 60'000'000'000;

// The first of what was found stands for all in the one-line error; the report has the list.
[[noreturn]] void refuse_for(const Findings& findings) {
  for (const proto::Finding& finding : findings) {
    if (finding.warning()) continue;
    throw Refused(finding.id(), fmt::format("{}: {}", finding.object(), finding.problem()),
                  finding.way_out());
  }
  fail("nothing was found to refuse for");
}

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
  hello.set_addresses(migration.options.addresses);
  hello.set_verify(migration.options.verify);
  *hello.mutable_source() = read_host_features();
  return hello;
}

void preflight_here(Migration& migration) {
  Findings& findings = migration.report.findings;
  const pid_t pid = migration.options.pid;
  // What is no ordinary process comes alone: nothing else about it makes sense.
  findings = preflight_process(pid);
  if (refuses(findings)) refuse_for(findings);
  migration.keys = load_keys(migration.options.keys, "source");
  if (auto soon = expiry_warning(migration.keys, ::time(nullptr)))
    findings.push_back(std::move(*soon));
  preflight_process_kinds(pid, findings);
  if (const auto mark = try_mark_process(pid)) migration.record.process = *mark;
  if (const auto mark = try_mark_process(::getpid())) migration.record.agent = *mark;
  migration.report.resident_bytes = resident_bytes(pid);
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
template <typename Answer, typename Question>
Answer ask(Channel& control, Question question) {
  try {
    control.send_body(std::move(question));
    return control.receive_body<Answer>(monotonic_ns() + kAnswerTimeoutNs);
  } catch (const PeerAborted& error) {
    throw Refused("destination-refused", error.what(), error.hint());
  } catch (const Error& error) {
    throw Refused("destination-unreachable", error.what(), hint_for(error));
  }
}

void preflight_there(Migration& migration) {
  Findings& findings = migration.report.findings;
  proto::PreflightRequest request;
  proto::Snapshot& snapshot = *request.mutable_snapshot();
  snapshot.set_version(kSnapshotVersion);
  proto::Process& process = *snapshot.add_processes();
  process = migration.capture->describe_outside();
  request.set_resident_bytes(migration.report.resident_bytes);
  migration.network.emplace(migration.id, migration.options.addresses, migration.control->fd());
  migration.network->preflight(migration.options.pid, process.fd_table(), request, findings);
  auto answer = ask<proto::PreflightAnswer>(*migration.control, std::move(request));
  for (proto::Finding& finding : *answer.mutable_findings()) {
    finding.set_object(printable(finding.object()));
    finding.set_problem(printable(finding.problem()));
    finding.set_way_out(printable(finding.way_out()));
    findings.push_back(std::move(finding));
  }
  migration.report.pids = answer.pids();
}

}  // namespace

void connect_and_preflight(Migration& migration) {
  const bool check_only = migration.options.command == MigrateOptions::Command::kCheck;
  preflight_here(migration);
  const bool refused_here = refuses(migration.report.findings);
  if (refused_here && !check_only) refuse_for(migration.report.findings);
  migration.control.emplace(reach_destination(migration));
  const auto answer =
      ask<proto::HelloAnswer>(*migration.control, make_hello(migration, check_only));
  migration.page_token = answer.page_token();
  migration.machine.apply(Event::kConnected);
  preflight_thread_ids(migration.options.pid, answer.destination(), migration.report.findings);
  if (!refused_here) {
    migration.capture.emplace(migration.options.pid);
    preflight_there(migration);
  }
  if (refuses(migration.report.findings)) refuse_for(migration.report.findings);
  for (const proto::Finding& finding : migration.report.findings) {
    log_warning("{}", finding_line(finding));
  }
  migration.machine.apply(check_only ? Event::kCheckPassed : Event::kPreflightPassed);
}

}  // namespace godwit
