#include "source-agent/remote_copy.h"

#include <map>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/model/ended_connections.h"

namespace godwit {
namespace {

constexpr std::int64_t kConfirmTimeoutNs = 10'000'000'000;

// As described last, by the id of their files.
std::map<std::uint32_t, const proto::TcpSocket*> connections_of(const Migration& migration) {
  std::map<std::uint32_t, const proto::TcpSocket*> connections;
  for (const proto::Envelope& message : migration.stream_messages) {
    for (const proto::OpenFile& file : message.streams().files()) {
      connections[file.id()] = &file.tcp_socket();
    }
  }
  return connections;
}

void take_committed(Migration& migration, pid_t host_pid) {
  migration.report.pid_destination = host_pid;
  migration.machine.apply(Event::kCopyComplete);
  migration.progress.enter(migration.machine.state());
}

// In a handler: the answer did not come. The copy may run, or the destination may have dropped it.
void ask_for_copy(Migration& migration, const Error& error) {
  proto::Outcome outcome;
  try {
    outcome = ask_outcome(migration.record);
  } catch (const std::exception& unanswered) {
    log_warning("asking for the copy: {}", unanswered.what());
    throw Error(fmt::format("whether the copy runs is not known: {}", error.what()), error.code(),
                "look for it at " + migration.report.destination);
  }
  if (outcome.kind() != proto::Outcome::COMMITTED) throw;
  take_committed(migration, outcome.host_pid());
}

}  // namespace

bool makes_copy(const Migration& migration) {
  return migration.options.leave_running && migration.options.image.empty();
}

proto::Envelope final_of_copy(const Migration& migration) {
  const auto connections = connections_of(migration);
  proto::Envelope message = migration.final_message;
  for (proto::Process& process :
       *message.mutable_final()->mutable_snapshot()->mutable_processes()) {
    for (proto::OpenFile& file : *process.mutable_fd_table()->mutable_files()) {
      if (file.kind_case() != proto::OpenFile::kInStreams) continue;
      const auto found = connections.find(file.id());
      if (found == connections.end()) fail("fd {}: its description was not made", file.id());
      *file.mutable_tcp_socket() = *found->second;
    }
    end_connections(*process.mutable_fd_table());
  }
  return message;
}

proto::Corrections corrections_of_copy(const Migration& migration,
                                       const proto::Corrections& corrections) {
  const auto connections = connections_of(migration);
  proto::Corrections left;
  for (const proto::SocketCorrection& correction : corrections.sockets()) {
    if (!connections.contains(correction.file())) *left.add_sockets() = correction;
  }
  return left;
}

void finish_copy(Migration& migration) {
  give_packets_back(migration);
  migration.progress.loud();
  enter_next(migration, Event::kSourceReleased);
  migration.control->send_body(proto::Commit{});
  try {
    const proto::Envelope answer =
        await_envelope(migration, proto::Envelope::kCommitted, monotonic_ns() + kConfirmTimeoutNs);
    take_committed(migration, static_cast<pid_t>(answer.committed().host_pid()));
  } catch (const Error& error) {
    ask_for_copy(migration, error);
  }
}

}  // namespace godwit
