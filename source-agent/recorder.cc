#include "source-agent/recorder.h"

#include <algorithm>

#include "common/base/clock.h"
#include "common/base/error.h"
#include "common/model/host_features.h"
#include "common/model/snapshot.h"
#include "common/wire/channel.h"

namespace godwit {
namespace {

void set_option(proto::TcpSocket& socket, const proto::SocketOption& option) {
  for (proto::SocketOption& known : *socket.mutable_options()) {
    if (known.level() != option.level() || known.name() != option.name()) continue;
    known = option;
    return;
  }
  *socket.add_options() = option;
}

}  // namespace

Recorder::Recorder(ImageTarget& target, proto::ImageManifest manifest)
    : target_(target),
      manifest_(std::move(manifest)),
      name_(fmt::format("image {}", target.path())) {
  manifest_.set_id(target.id());
  *manifest_.mutable_host() = read_host_features();
}

template <typename Body>
void Recorder::answer(Body body) {
  answers_.push_back(Channel::envelope_of(std::move(body)));
}

void Recorder::send(const proto::Envelope& envelope, std::int64_t) {
  switch (envelope.body_case()) {
    case proto::Envelope::kHello:
      return greet();
    case proto::Envelope::kPreflightRequest:
      return preflight(envelope.preflight_request());
    case proto::Envelope::kDescribe:
      return describe(envelope.describe().snapshot());
    case proto::Envelope::kClockReading:
      return read_clocks(envelope.clock_reading());
    case proto::Envelope::kBrace:
      for (const proto::Thread& thread : envelope.brace().threads()) {
        threads_[thread.tid()] = thread;
      }
      return answer(proto::Braced{});
    case proto::Envelope::kStreams:
      for (const proto::OpenFile& file : envelope.streams().files()) streams_[file.id()] = file;
      return;
    case proto::Envelope::kFinal:
      return take_final(envelope.final().snapshot());
    case proto::Envelope::kCorrections:
      return correct(envelope.corrections());
    case proto::Envelope::kCommit:
      return commit();
    case proto::Envelope::kFinish:
      return answer(proto::Finished{});
    case proto::Envelope::kHeldPackets:  // a peer sends again what nobody acknowledged
    case proto::Envelope::kAbort:
      return;
    default:
      fail("{} can't be recorded", body_name(envelope));
  }
}

std::optional<proto::Envelope> Recorder::try_receive(std::int64_t) {
  if (answers_.empty()) return std::nullopt;
  proto::Envelope envelope = std::move(answers_.front());
  answers_.pop_front();
  return envelope;
}

void Recorder::greet() {
  proto::HelloAnswer hello;
  hello.set_version(kProtocolVersion);
  *hello.mutable_destination() = manifest_.host();
  answer(std::move(hello));
}

void Recorder::preflight(const proto::PreflightRequest& request) {
  state_.set_resident_bytes(request.resident_bytes());
  proto::PreflightAnswer verdict;
  verdict.set_pids("same");
  answer(std::move(verdict));
}

void Recorder::describe(const proto::Snapshot& snapshot) {
  if (snapshot.processes_size() == 1 && snapshot.processes(0).huge_pages_size() > 0) {
    huge_pages_ = snapshot.processes(0).huge_pages();
  }
  answer(proto::ClockProbe{});
  proto::Reconciled reconciled;
  reconciled.set_generation(snapshot.generation());
  answer(std::move(reconciled));
}

// The reading was made a moment ago; the process's clock must not go back when it is restored.
void Recorder::read_clocks(const proto::ClockReading& reading) {
  monotonic_ahead_ns_ = reading.monotonic_ns() - clock_ns(CLOCK_MONOTONIC);
  boottime_ahead_ns_ = reading.boottime_ns() - clock_ns(CLOCK_BOOTTIME);
}

void Recorder::take_final(const proto::Snapshot& snapshot) {
  state_.set_monotonic_ns(clock_ns(CLOCK_MONOTONIC) + monotonic_ahead_ns_);
  state_.set_boottime_ns(clock_ns(CLOCK_BOOTTIME) + boottime_ahead_ns_);
  manifest_.set_saved_unix_ns(clock_ns(CLOCK_REALTIME));
  *state_.mutable_snapshot() = snapshot;
  proto::Process& process = *state_.mutable_snapshot()->mutable_processes(0);
  if (process.fd_table().changes_only() || process.mappings().areas().empty()) {
    fail("the last description of the process is not whole");
  }
  *process.mutable_huge_pages() = huge_pages_;
  for (proto::Thread& thread : *process.mutable_threads()) {
    if (!thread.as_before()) continue;
    const auto before = threads_.find(thread.tid());
    if (before == threads_.end()) fail("thread {} was never described", thread.tid());
    thread = before->second;
  }
  for (proto::OpenFile& file : *process.mutable_fd_table()->mutable_files()) {
    if (file.kind_case() != proto::OpenFile::kInStreams) continue;
    const auto stream = streams_.find(file.id());
    if (stream == streams_.end()) fail("fd {}: its description did not come", file.id());
    *file.mutable_tcp_socket() = stream->second.tcp_socket();
  }
  manifest_.set_pid(process.identity().pid());
  manifest_.set_executable(process.identity().executable());
  answer(proto::Prepared{});
}

void Recorder::correct(const proto::Corrections& corrections) {
  for (proto::Process& process : *state_.mutable_snapshot()->mutable_processes()) {
    for (proto::OpenFile& file : *process.mutable_fd_table()->mutable_files()) {
      for (const proto::SocketCorrection& correction : corrections.sockets()) {
        if (correction.file() != file.id() || !file.has_tcp_socket()) continue;
        for (const proto::SocketOption& option : correction.options()) {
          set_option(*file.mutable_tcp_socket(), option);
        }
        if (correction.backlog() != 0) {
          file.mutable_tcp_socket()->set_backlog(correction.backlog());
        }
      }
    }
  }
}

void Recorder::note_pages(std::uint64_t data_pages, std::uint64_t base_pages) {
  manifest_.set_data_pages(data_pages);
  manifest_.set_base_pages(base_pages);
  pages_noted_ = true;
}

void Recorder::commit() {
  if (!pages_noted_ || state_.snapshot().processes().empty()) fail("the image is not complete");

  target_.finish_files(state_, manifest_);
  target_.commit(manifest_);
  answer(proto::Committed{});
}

}  // namespace godwit
