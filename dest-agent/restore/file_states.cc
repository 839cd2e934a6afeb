#include "dest-agent/restore/file_states.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/syscall.h>

#include "dest-agent/restore/fd_plan.h"
#include "dest-agent/restore/regular_files.h"

namespace godwit {
namespace {

constexpr std::size_t kRowsPerBatch = 16'000;

std::string name_of(const proto::OpenFile& file) { return fmt::format("fd {}", file.id()); }

bool same_owner(const proto::FileOwner& a, const proto::FileOwner& b) {
  return a.type() == b.type() && a.pid() == b.pid() && a.signal() == b.signal();
}

bool has_offset(const proto::OpenFile& file) {
  return file.has_regular_file() && !S_ISCHR(file.regular_file().mode()) &&
         (file.status_flags() & O_PATH) == 0;
}

bool is_socket(const proto::OpenFile& file) {
  return file.has_tcp_socket() || file.has_udp_socket() || file.has_unix_socket();
}

}  // namespace

void FileStates::made(const proto::OpenFile& file, const struct stat* found) {
  State& state = states_[file.id()] = {};
  if (!file.has_regular_file()) return;
  state.flags = file.status_flags() & kSettableFlags;
  if (found != nullptr) state.bytes = found->st_size;
}

void FileStates::append_flags_and_owner(SyscallBatch& batch, const proto::OpenFile& file,
                                        State& state, StateTime time) {
  if ((file.status_flags() & O_PATH) != 0) return;
  if (!same_owner(state.owner, file.owner())) {
    const f_owner_ex owner{static_cast<__pid_type>(file.owner().type()), file.owner().pid()};
    const DataAt at = batch.put_value(owner);
    batch.add(SYS_fcntl, {file.id(), F_SETOWN_EX, at}, name_of(file));
    batch.add(SYS_fcntl, {file.id(), F_SETSIG, file.owner().signal()}, name_of(file));
    state.owner = file.owner();
  }
  const std::uint32_t allowed = kSettableFlags | (time == StateTime::kSwitch ? O_ASYNC : 0);
  const std::uint32_t flags = file.status_flags() & allowed;
  if (state.flags == flags) return;
  batch.add(SYS_fcntl, {file.id(), F_SETFL, flags}, name_of(file));
  state.flags = flags;
}

// A counter's write adds, and its read takes all there is.
void FileStates::append_count(SyscallBatch& batch, const proto::OpenFile& file, State& state) {
  const std::uint64_t want = file.eventfd().count();
  if (want == state.count) return;
  if (want < state.count) {
    const DataAt taken = batch.reserve(sizeof(std::uint64_t));
    batch.add(SYS_read, {file.id(), taken, sizeof(std::uint64_t)}, name_of(file) + ": eventfd");
    state.count = 0;
  }
  if (want > state.count) {
    const DataAt more = batch.put_value<std::uint64_t>(want - state.count);
    batch.add(SYS_write, {file.id(), more, sizeof(std::uint64_t)}, name_of(file) + ": eventfd");
  }
  state.count = want;
}

bool FileStates::must_wait(const proto::OpenFile& file, const State& state) {
  if ((file.status_flags() & (O_ASYNC | O_PATH)) == O_ASYNC) return true;
  if (file.has_eventfd()) return file.eventfd().count() != state.count;
  return file.has_regular_file() && S_ISREG(file.regular_file().mode()) &&
         static_cast<std::int64_t>(file.regular_file().bytes()) != state.bytes;
}

void FileStates::apply(RemoteTask& task, const std::vector<const proto::OpenFile*>& files,
                       StateTime time) {
  SyscallBatch batch;
  std::vector<std::pair<const proto::OpenFile*, DataAt>> statuses;
  const auto run = [&](std::size_t rows) {
    if (batch.rows().size() < rows || batch.empty()) return;
    const BatchOutcome outcome = task.run(batch);
    for (const auto& [file, at] : statuses) {
      check_regular_file(*file, outcome.value<struct stat>(at), FileCheck::kFinal);
    }
    statuses.clear();
    batch = SyscallBatch();
  };
  if (time == StateTime::kAhead) waiting_.clear();
  for (const proto::OpenFile* file : files) {
    State& state = states_[file->id()];
    if (has_offset(*file) && file->regular_file().offset() != state.offset) {
      append_offset(batch, static_cast<int>(file->id()), *file);
      state.offset = file->regular_file().offset();
    }
    if (file->has_eventfd() && (time == StateTime::kSwitch || !file->eventfd().semaphore())) {
      append_count(batch, *file, state);
    }
    // The flags of a socket count for the agent's copy, which is still at work.
    if (time == StateTime::kSwitch || !is_socket(*file)) {
      append_flags_and_owner(batch, *file, state, time);
    }
    if (must_wait(*file, state)) {
      if (time == StateTime::kAhead) {
        waiting_.insert(file->id());
      } else if (file->has_regular_file() && S_ISREG(file->regular_file().mode())) {
        statuses.emplace_back(file, batch.reserve(sizeof(struct stat)));
        batch.add(SYS_fstat, {file->id(), statuses.back().second}, file->regular_file().path());
      }
    }
    run(kRowsPerBatch);
  }
  run(0);
}

}  // namespace godwit
