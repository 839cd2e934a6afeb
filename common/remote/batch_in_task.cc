// A batch on its way: scratch area, rows with their references, results, errors.
#include <fmt/format.h>
#include <linux/prctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cstring>
#include <exception>
#include <optional>
#include <span>

#include "common/base/error.h"
#include "common/base/scope_exit.h"
#include "common/kernel/proc_maps.h"
#include "common/remote/remote_task_state.h"

namespace godwit {
namespace {

using arch::StubRow;

constexpr std::uint64_t kScratchBytes = 256 << 10;
constexpr std::uint64_t kChunkRowsMin = 256;

std::uint64_t round_up(std::uint64_t value, std::uint64_t to) { return (value + to - 1) / to * to; }

// Rows stand behind the data, aligned.
std::uint64_t rows_offset(const SyscallBatch& batch) { return round_up(batch.data().size(), 16); }

// Data, and rows enough that a chunk is worth its round trip.
std::uint64_t scratch_needed(const SyscallBatch& batch) {
  return kScratchHeaderBytes + rows_offset(batch) + sizeof(StubRow) * kChunkRowsMin;
}

std::string show_value(std::uint64_t value) {
  const auto number = static_cast<std::int64_t>(value);
  return number > -4096 && number < 65536 ? fmt::format("{}", number) : fmt::format("{:#x}", value);
}

// The text at a place in the batch's data, if it is one.
std::string show_text(const std::vector<std::byte>& data, std::uint64_t offset) {
  std::string text;
  for (; offset < data.size() && text.size() < 200; ++offset) {
    const char c = static_cast<char>(data[offset]);
    if (c == '\0') return text.empty() ? text : fmt::format(" \"{}\"", text);
    if (c < ' ' || c > '~') return {};
    text += c;
  }
  return {};
}

void add_results(std::span<const std::byte> rows, std::size_t count,
                 std::vector<std::int64_t>& results) {
  for (std::size_t i = 0; i < count; ++i) {
    StubRow row;
    std::memcpy(&row, rows.data() + i * sizeof(StubRow), sizeof row);
    results.push_back(row.result);
  }
}

bool last_has_failed(const SyscallBatch& batch, const std::vector<std::int64_t>& results) {
  return !batch.rows()[results.size() - 1].may_fail && results.back() < 0 &&
         results.back() >= -4095;
}

bool is_complete(const SyscallBatch& batch, const std::vector<std::int64_t>& results) {
  return results.size() == batch.rows().size() && !last_has_failed(batch, results);
}

// Of the scratch area for one of several threads that make the same calls.
std::uint64_t part_bytes(const SyscallBatch& batch) {
  return round_up(rows_offset(batch) + sizeof(StubRow) * batch.rows().size(), 64);
}

}  // namespace

void RemoteTask::State::prepare(Tracee& thread) {
  if (!stopped) fail("process {} runs: no batch can be run in it", pid);
  if (runner.code() != 0 && !site_checked && !site_is_intact(memory, runner.code())) {
    memory = TaskMemory(pid);  // it has called execve(2) since
    record = {};
    runner.set_code(0);
  }
  if (runner.code() == 0) {
    const Address room = find_room_for_site(memory, read_maps(pid));
    record = {};
    write_site(memory, room, record);
    runner.set_code(room);
  }
  site_checked = true;
  if (runner.owner() == thread.tid() || expendable) return;
  // The save area is for one thread: nobody else may stand in the stub.
  const bool known = lent < threads.size() && threads[lent].tid() == lent_tid;
  for (Tracee& other : known ? std::span(threads).subspan(lent, 1) : std::span(threads)) {
    if (&other != &thread) other.give_back();
  }
  lent = static_cast<std::size_t>(&thread - threads.data());
  lent_tid = thread.tid();
}

std::int64_t RemoteTask::State::call(Tracee& thread, long number,
                                     std::initializer_list<std::uint64_t> arguments) {
  prepare(thread);
  return runner.call(thread, number, arguments);
}

void RemoteTask::State::map_scratch(Tracee& thread, std::uint64_t bytes) {
  std::vector<PageRange> taken;
  for (const MapsLine& line : read_maps(pid)) taken.push_back(line.range);
  const PageRange hole = find_hole({taken}, bytes);
  // On record before it exists, so that no instant leaves it unknown.
  record.scratch_start = hole.start;
  record.scratch_bytes = hole.bytes();
  write_site_record(memory, runner.code(), record);
  const std::int64_t got = call(
      thread, SYS_mmap,
      {hole.start, hole.bytes(), PROT_READ | PROT_WRITE,
       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, ~std::uint64_t{0}, 0});
  if (got < 0) {
    record.scratch_start = record.scratch_bytes = 0;
    write_site_record(memory, runner.code(), record);
    throw_errno(static_cast<int>(-got),
                fmt::format("map a scratch area of {} bytes in process {}", bytes, pid));
  }
  std::vector<std::byte> header(kScratchHeaderBytes);
  std::ranges::copy(arch::stub_code().first(arch::kStubMarkerBytes), header.begin());
  constexpr std::string_view kName = "godwit";
  std::memcpy(header.data() + arch::kStubMarkerBytes, kName.data(), kName.size());
  memory.write(hole.start, header);
  if (!skeleton) {
    // A child of the running process does not get it; a skeleton's copies need it.
    call(thread, SYS_madvise, {hole.start, hole.bytes(), MADV_DONTFORK});
  }
  // For whoever reads maps; a kernel without CONFIG_ANON_VMA_NAME refuses.
  call(thread, SYS_prctl,
       {PR_SET_VMA, PR_SET_VMA_ANON_NAME, hole.start, hole.bytes(),
        hole.start + arch::kStubMarkerBytes});
}

void RemoteTask::State::unmap_scratch(Tracee& thread) {
  const std::int64_t got = call(thread, SYS_munmap, {record.scratch_start, record.scratch_bytes});
  if (got < 0) {
    throw_errno(static_cast<int>(-got), fmt::format("unmap the scratch area of process {}", pid));
  }
  record.scratch_start = record.scratch_bytes = 0;
  write_site_record(memory, runner.code(), record);
}

void RemoteTask::State::need_scratch(Tracee& thread, std::uint64_t bytes) {
  if (has_scratch() && record.scratch_bytes >= bytes) return;
  if (has_home()) {
    fail("a batch with {} bytes of data does not fit into the home of process {}", bytes, pid);
  }
  if (has_scratch()) unmap_scratch(thread);
  map_scratch(thread, std::max(kScratchBytes, round_up(bytes, kPageSize)));
}

std::uint64_t RemoteTask::State::rows_that_fit(const SyscallBatch& batch) const {
  const std::uint64_t room = record.scratch_bytes - kScratchHeaderBytes - rows_offset(batch);
  return room / sizeof(StubRow);
}

// Lays out `count` rows from `first` on, behind the data at `data`.
void RemoteTask::State::write_chunk(const SyscallBatch& batch, Address data, std::size_t first,
                                    std::size_t count, const std::vector<std::int64_t>& results) {
  const std::uint64_t offset = rows_offset(batch);
  buffer.resize(offset + count * sizeof(StubRow));
  if (first == 0) std::ranges::copy(batch.data(), buffer.begin());
  for (std::size_t i = 0; i < count; ++i) {
    const SyscallBatch::Row& row = batch.rows()[first + i];
    StubRow out{row.number, {}, 0, row.may_fail ? 1u : 0u, 0};
    const std::span<const Argument> arguments = batch.arguments(row);
    for (std::size_t a = 0; a < arguments.size(); ++a) {
      const Argument& argument = arguments[a];
      std::uint64_t value = argument.value();
      if (argument.kind() == Argument::Kind::kData) {
        value += data;
      } else if (argument.kind() == Argument::Kind::kRow && value >= first) {
        value = (value - first) * sizeof(StubRow) + offsetof(StubRow, result);
        out.references |= 1u << a;
      } else if (argument.kind() == Argument::Kind::kRow) {
        value = static_cast<std::uint64_t>(results[value]);  // of an earlier chunk
      }
      out.arguments[a] = value;
    }
    std::memcpy(buffer.data() + offset + i * sizeof(StubRow), &out, sizeof out);
  }
  // The data go along with the first rows; later they are the task's.
  const std::uint64_t skip = first == 0 ? 0 : offset;
  memory.write(data + skip, std::span(buffer).subspan(skip));
}

Address RemoteTask::data_address(const SyscallBatch& batch) {
  Tracee& thread = leader();
  state_->prepare(thread);
  state_->need_scratch(thread, scratch_needed(batch));
  return state_->record.scratch_start + kScratchHeaderBytes;
}

BatchOutcome RemoteTask::State::run(Tracee& thread, const SyscallBatch& batch) {
  if (batch.empty()) return BatchOutcome({}, batch.data(), true);
  prepare(thread);
  const std::uint64_t offset = rows_offset(batch);
  need_scratch(thread, scratch_needed(batch));
  const Address data = record.scratch_start + kScratchHeaderBytes;
  std::vector<std::int64_t> results;
  results.reserve(batch.rows().size());
  while (results.size() < batch.rows().size()) {
    const std::size_t first = results.size();
    const std::size_t count =
        std::min<std::size_t>(batch.rows().size() - first, rows_that_fit(batch));
    write_chunk(batch, data, first, count, results);
    const std::size_t done = runner.walk(thread, data + offset, count);
    // One row beyond those done, if it stopped there, has the failure.
    memory.read(data + offset, std::span(buffer).subspan(offset, done * sizeof(StubRow)));
    add_results(std::span(buffer).subspan(offset), done, results);
    if (done < count || last_has_failed(batch, results)) break;
  }
  std::vector<std::byte> content(batch.data().size());
  memory.read(data, content);
  const bool complete = is_complete(batch, results);
  return BatchOutcome(std::move(results), std::move(content), complete);
}

std::size_t RemoteTask::State::parts_at_once(const SyscallBatch& batch) {
  const std::uint64_t room = record.scratch_bytes - kScratchHeaderBytes;
  return std::min<std::uint64_t>(save_areas(runner.code()), room / part_bytes(batch));
}

Address RemoteTask::State::part_address(std::size_t part, const SyscallBatch& batch) const {
  return record.scratch_start + kScratchHeaderBytes + part * part_bytes(batch);
}

void RemoteTask::State::begin_part(Tracee& thread, std::size_t part, const SyscallBatch& batch) {
  const Address data = part_address(part, batch);
  write_chunk(batch, data, 0, batch.rows().size(), {});
  runner.begin_walk(thread, part, data + rows_offset(batch), batch.rows().size());
}

BatchOutcome RemoteTask::State::end_part(Tracee& thread, std::size_t part,
                                         const SyscallBatch& batch) {
  const std::size_t done = runner.end_walk(thread);
  const std::uint64_t offset = rows_offset(batch);
  std::vector<std::byte> content(offset + done * sizeof(StubRow));
  memory.read(part_address(part, batch), content);
  std::vector<std::int64_t> results;
  results.reserve(done);
  add_results(std::span(content).subspan(offset), done, results);
  content.resize(batch.data().size());
  const bool complete = is_complete(batch, results);
  return BatchOutcome(std::move(results), std::move(content), complete);
}

void RemoteTask::State::run_at_once(std::span<Tracee* const> some, const SyscallBatch& batch,
                                    const TakeOutcome& take) {
  std::exception_ptr failure;
  const auto attempt = [&](const auto& step) {
    try {
      step();
      return true;
    } catch (...) {
      failure = std::current_exception();
      return false;
    }
  };
  std::size_t begun = 0;
  while (begun < some.size() && attempt([&] { begin_part(*some[begun], begun, batch); })) ++begun;
  std::vector<std::optional<BatchOutcome>> outcomes(begun);
  // When the last one is done the others are too, most of the time: we wait but once.
  for (std::size_t i = begun; i-- > 0;) {
    attempt([&] { outcomes[i] = end_part(*some[i], i, batch); });
  }
  for (std::size_t i = 0; i < begun && !failure; ++i) {
    attempt([&] {
      if (!outcomes[i]->complete()) throw_failed_row(*some[i], batch, *outcomes[i]);
      take(*some[i], *outcomes[i]);
    });
  }
  for (Tracee* thread : some) attempt([&] { thread->give_back(); });
  if (failure) std::rethrow_exception(failure);
}

void RemoteTask::run_on_each(std::span<Tracee* const> threads, const SyscallBatch& batch,
                             const TakeOutcome& take) {
  State& state = *state_;
  if (threads.empty() || batch.empty()) return;
  state.prepare(*threads.front());
  state.need_scratch(*threads.front(), scratch_needed(batch));
  const std::size_t at_once = state.parts_at_once(batch);
  if (at_once < 2) {
    for (Tracee* thread : threads) take(*thread, run_on(*thread, batch));
    return;
  }
  threads.front()->give_back();
  // All are given back, or one could not be: the next batch looks at every thread.
  const ScopeExit nobody([&] {
    state.lent = SIZE_MAX;
    state.runner.forget_owner();
  });
  for (std::size_t at = 0; at < threads.size(); at += at_once) {
    state.run_at_once(threads.subspan(at, std::min(at_once, threads.size() - at)), batch, take);
  }
}

void RemoteTask::State::throw_failed_row(const Tracee& thread, const SyscallBatch& batch,
                                         const BatchOutcome& outcome) const {
  const std::size_t index = outcome.results().size() - 1;
  const SyscallBatch::Row& row = batch.rows()[index];
  std::string text = syscall_name(row.number) + "(";
  for (bool first = true; const Argument& argument : batch.arguments(row)) {
    if (!std::exchange(first, false)) text += ", ";
    switch (argument.kind()) {
      case Argument::Kind::kValue:
        text += show_value(argument.value());
        break;
      case Argument::Kind::kRow:
        text += show_value(static_cast<std::uint64_t>(outcome.results()[argument.value()]));
        break;
      case Argument::Kind::kData:
        text +=
            fmt::format("data+{}{}", argument.value(), show_text(batch.data(), argument.value()));
        break;
    }
  }
  text += fmt::format(") in process {}", pid);
  if (thread.tid() != pid) text += fmt::format(" thread {}", thread.tid());
  text += fmt::format(", row {} of {}", index, batch.rows().size());
  if (row.object != 0) text = fmt::format("{}: {}", batch.object(row), text);
  throw_errno(static_cast<int>(-outcome.results().back()), text);
}

}  // namespace godwit
