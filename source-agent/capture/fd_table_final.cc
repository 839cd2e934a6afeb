// The blackout of FdTableCapture: what is not as describe() saw it.
#include <fcntl.h>
#include <sys/syscall.h>

#include <algorithm>
#include <functional>
#include <tuple>
#include <unordered_set>
#include <utility>

#include "common/kernel/kcmp.h"
#include "common/kernel/tcp_repair.h"
#include "source-agent/capture/epolls.h"
#include "source-agent/capture/fd_table_files.h"
#include "source-agent/capture/tcp_sockets.h"

namespace godwit {

namespace {

bool was_sent_ahead(const FdFacts& facts) {
  return facts.known != nullptr && facts.known->ahead && facts.known->segments_in;
}

std::size_t share_key(const FdFacts& facts) {
  const auto mixed = [](std::size_t key, std::uint64_t value) {
    return (key ^ value) * 0x9E3779B97F4A7C15U;
  };
  std::size_t key = std::hash<std::string>()(facts.link);
  key = mixed(key, facts.info.flags & ~static_cast<std::uint32_t>(O_CLOEXEC));
  key = mixed(key, is_pipe(facts) ? 0 : static_cast<std::uint64_t>(facts.info.offset));
  return mixed(key, facts.info.eventfd_id);
}

}  // namespace

void FdTableCapture::expect_stop() {
  if (!shape_is_ahead_) return;
  keys_.clear();
  alike_.clear();
  for (FdFacts& facts : shape_) {
    if (facts.is_socket()) continue;
    facts.share_key = share_key(facts);
    keys_.emplace_back(facts.share_key, facts.fd);
  }
  std::ranges::sort(keys_);
  for (std::size_t i = 1; i < keys_.size(); ++i) {
    if (keys_[i].first == keys_[i - 1].first) alike_.push_back(keys_[i].first);
  }
  constexpr std::ptrdiff_t kManyPipes = 64;  // fewer take less time than to wake up a helper
  const auto full = std::ranges::count_if(
      shape_, [](const FdFacts& facts) { return facts.pipe && !facts.pipe->contents().empty(); });
  same_contents_ = full > kManyPipes ? SharedList<char>::try_make() : nullptr;
  glance_.prepare(shape_, directory_, shape_began_ns_);
}

void FdTableCapture::take_copies(RemoteTask* task) {
  asked_.clear();
  closed_.clear();
  changed_pipes_.clear();
  full_pipes_.clear();
  changed_contents_.clear();
  changes_only_ = task != nullptr && glance_.prepared();
  if (changes_only_) {
    look_again(*task);
  } else {
    kept_ = read_stopped();
  }
}

void FdTableCapture::note_change(const FdFacts& facts) {
  if (is_pipe(facts)) changed_pipes_.insert(facts.stamp.inode);
}

void FdTableCapture::look_again(RemoteTask& task) {
  glance_.look(task);
  kept_ = std::exchange(shape_, {});
  for (FdFacts& entry : kept_) {
    if (!entry.same) {
      note_change(entry);
      auto now = entry.closed ? std::nullopt : try_read_stopped(entry.fd);
      shape_.push_back(std::move(entry));
      entry = now ? std::move(*now) : FdFacts();
      entry.closed = !now;
      if (now) {
        note_change(entry);
      } else {
        closed_.push_back(shape_.back().fd);
      }
    } else if (entry.is_socket()) {
      entry.copy = copy_fd(entry.fd);
      if (!entry.copy.valid()) fail("{} of process {} vanished", entry.name(), host_pid_);
      if (find_known(entry) != nullptr) entry.before_hold = tcp_facts(entry.copy.get());
    }
  }
  std::erase_if(kept_, [](const FdFacts& entry) { return entry.closed; });
  // When as many are open as are known, these are all.
  if (directory_.count() != kept_.size()) add_new();
}

// What it was before look_again().
void FdTableCapture::forget_changes() {
  for (FdFacts& entry : kept_) {
    if (!entry.same) continue;
    entry.copy.reset();
    shape_.push_back(std::move(entry));
  }
  std::ranges::sort(shape_, {}, &FdFacts::fd);
}

void FdTableCapture::add_new() {
  std::vector<FdFacts> fresh;
  for (const int fd : directory_.list()) {
    if (std::ranges::binary_search(kept_, fd, {}, &FdFacts::fd)) continue;
    auto facts = try_read_stopped(fd);
    if (!facts) fail("fd {} of process {} vanished", fd, host_pid_);
    note_change(*facts);
    std::erase(closed_, fd);
    fresh.push_back(std::move(*facts));
  }
  for (FdFacts& facts : fresh) kept_.push_back(std::move(facts));
  std::ranges::sort(kept_, {}, &FdFacts::fd);
}

void FdTableCapture::ask_close_on_exec(SyscallBatch& batch) {
  asked_.clear();
  for (FdFacts& entry : kept_) {
    if (entry.same || (!entry.is_socket() && !is_pipe(entry))) continue;
    entry.asked = true;
    asked_.emplace_back(&entry, batch.add(SYS_fcntl, {entry.fd, F_GETFD}, entry.name()));
  }
}

void FdTableCapture::read_close_on_exec(const BatchOutcome& outcome) {
  for (auto& [entry, row] : asked_) {
    const int flags = fcntl(entry->copy.get(), F_GETFL);
    if (flags < 0) throw_system("F_GETFL of {}", entry->name());
    entry->info.flags = static_cast<std::uint32_t>(flags);
    if ((outcome[row] & FD_CLOEXEC) != 0) entry->info.flags |= O_CLOEXEC;
  }
}

void FdTableCapture::read_infos(std::vector<FdFacts>& facts) const {
  for (FdFacts& entry : facts) {
    if (!entry.asked) read_info(entry);
  }
}

void FdTableCapture::read_info(FdFacts& facts) const {
  if (facts.told) return;
  auto info = directory_.info(facts.fd);
  if (!info) fail("{} of process {} vanished", facts.name(), host_pid_);
  facts.info = std::move(*info);
  facts.told = true;
}

// Of some descriptors that could share an open file, in kcmp's order as far as that is known.
void FdTableCapture::sort_out(std::span<FdFacts*> alike) {
  std::vector<std::vector<FdFacts*>> found;  // each one open file, in kcmp's order
  for (FdFacts* entry : alike) {
    const auto compare = [&](const std::vector<FdFacts*>& have) {
      return compare_open_files(host_pid_, have.front()->fd, host_pid_, entry->fd);
    };
    // Mostly it belongs behind the last.
    std::size_t low = 0;
    std::size_t high = found.size();
    for (std::size_t at = high - 1; low < high; at = (low + high) / 2) {
      const int order = compare(found[at]);
      if (order == 0) {
        found[at].push_back(entry);
        break;
      }
      (order < 0 ? low : high) = order < 0 ? at + 1 : at;
    }
    if (low == high) found.insert(found.begin() + static_cast<std::ptrdiff_t>(low), {entry});
  }
  for (const auto& shared : found) {
    const int leader = (*std::ranges::min_element(shared, {}, &FdFacts::fd))->fd;
    for (FdFacts* entry : shared) entry->leader = leader;
  }
}

void FdTableCapture::group_sockets() {
  std::map<std::uint64_t, int> leaders;
  for (FdFacts& entry : kept_) {
    if (!entry.is_socket()) continue;
    entry.leader = leaders.try_emplace(entry.stamp.inode, entry.fd).first->second;
  }
}

// Who shares an open file, of a process that stands still: what differs in flags or offset doesn't.
// What is the only one of its key now as before is left alone.
void FdTableCapture::group_again() {
  group_sockets();
  std::vector<std::pair<std::size_t, int>> changed;
  for (FdFacts& entry : kept_) {
    if (entry.same || entry.is_socket()) continue;
    entry.share_key = share_key(entry);
    entry.leader = entry.fd;
    changed.emplace_back(entry.share_key, entry.fd);
  }
  std::ranges::sort(changed);
  std::set<std::size_t> keys(alike_.begin(), alike_.end());
  for (const auto& [key, fd] : changed) keys.insert(key);
  for (const std::size_t key : keys) {
    std::vector<FdFacts*> alike;
    const auto add = [&](const std::vector<std::pair<std::size_t, int>>& entries, bool same) {
      for (auto at = std::ranges::lower_bound(entries, std::pair(key, -1));
           at != entries.end() && at->first == key; ++at) {
        const auto entry = std::ranges::lower_bound(kept_, at->second, {}, &FdFacts::fd);
        if (entry == kept_.end() || entry->fd != at->second || entry->same != same) continue;
        alike.push_back(&*entry);
      }
    };
    add(keys_, true);
    add(changed, false);
    std::ranges::stable_sort(alike, {}, &FdFacts::rank);
    sort_out(alike);
  }
}

// As much is in it as was described.
bool FdTableCapture::has_to_be_compared(const FdFacts& facts) const {
  return facts.same && is_pipe(facts) && facts.pipe && facts.pipe->tells_contents() &&
         facts.waiting > 0 &&
         static_cast<std::size_t>(facts.waiting) == facts.pipe->contents().size();
}

bool FdTableCapture::has_same_contents(const FdFacts& facts, PipeReader& reader) const {
  const UniqueFd copy = copy_fd(facts.fd);
  if (!copy.valid()) fail("{} of process {} vanished", facts.name(), host_pid_);
  proto::PipeEnd now;
  if (reader.read(copy.get(), facts.name(), now) != facts.waiting) return false;
  return now.contents() == facts.pipe->contents() &&
         std::ranges::equal(now.packets(), facts.pipe->packets());
}

void FdTableCapture::begin_to_compare() {
  if (!changes_only_ || !same_contents_) return;
  for (const FdFacts& entry : kept_) {
    if (has_to_be_compared(entry)) full_pipes_.push_back(&entry);
  }
  same_contents_->begin(full_pipes_.size(), [this](std::size_t at, SharedList<char>::Party who) {
    const bool helper = who == SharedList<char>::Party::kHelper;
    PipeReader& reader = helper ? helpers_pipe_reader_ : pipe_reader_;
    return static_cast<char>(has_same_contents(*full_pipes_[at], reader));
  });
}

void FdTableCapture::end_comparing() {
  if (full_pipes_.empty()) return;
  const std::vector<char> same = same_contents_->finish();
  for (std::size_t i = 0; i < same.size(); ++i) {
    if (same[i] == 0) changed_contents_.push_back(full_pipes_[i]->fd);
  }
}

bool FdTableCapture::pipe_is_as_described(const FdFacts& facts) {
  if (!facts.pipe || !facts.pipe->tells_contents()) return true;
  if (static_cast<std::size_t>(facts.waiting) != facts.pipe->contents().size()) return false;
  if (facts.waiting == 0) return true;
  if (full_pipes_.empty()) return has_same_contents(facts, pipe_reader_);
  return !std::ranges::binary_search(changed_contents_, facts.fd);
}

// Every descriptor of each open file that has to be described again.
std::vector<FdFacts*> FdTableCapture::find_changes() {
  std::vector<int> leaders;
  leaders.reserve(kept_.size());
  for (const FdFacts& entry : kept_) leaders.push_back(entry.leader);
  group_again();
  end_comparing();
  std::set<int> changed;
  for (std::size_t i = 0; i < kept_.size(); ++i) {
    const FdFacts& entry = kept_[i];
    const bool as_described =
        entry.same && entry.leader == leaders[i] && (!entry.is_socket() || was_sent_ahead(entry));
    if (as_described && !is_pipe(entry)) continue;
    if (as_described && changed_pipes_.count(entry.stamp.inode) == 0 &&
        pipe_is_as_described(entry)) {
      continue;
    }
    changed.insert(entry.leader);
  }
  std::vector<FdFacts*> out;
  for (FdFacts& entry : kept_) {
    if (changed.count(entry.leader) > 0) out.push_back(&entry);
  }
  return out;
}

proto::FdTable FdTableCapture::describe_final() {
  read_infos(kept_);
  Files files;
  std::vector<FdFacts*> changes;
  if (changes_only_) {
    changes = find_changes();
    files.all = &kept_;
    for (FdFacts* entry : changes) {
      if (!entry->copy.valid()) entry->copy = copy_fd(entry->fd);
      if (!entry->copy.valid()) fail("{} of process {} vanished", entry->name(), host_pid_);
      if (entry->is_socket()) files.own_sockets.insert(entry->stamp.inode);
      if (is_pipe(*entry)) files.add_pipe(*entry);
    }
  } else {
    files = group(kept_);
    changes = pointers_to(kept_);
  }
  std::vector<FdFacts*> unknown;
  std::ranges::copy_if(changes, std::back_inserter(unknown),
                       [](const FdFacts* entry) { return !entry->same; });
  holders_.look_for(unknown, FdHolders::Sockets::kKnown);
  Findings findings;
  auto out = assemble(changes, files, FdDepth::kFinal, findings);
  throw_first_refusal(findings);
  out.set_changes_only(changes_only_);
  for (const int fd : closed_) out.add_closed(fd);
  return out;
}

void FdTableCapture::confirm(RemoteTask& task) {
  if (!changes_only_) return;
  glance_.confirm(task);
  Files files;
  files.all = &kept_;
  Findings findings;
  for (const FdFacts& entry : kept_) {
    if (!entry.same || !is_epoll(entry)) continue;
    capture_epoll(
        entry, [&](int fd) { return files.find(fd); }, findings);
  }
  throw_first_refusal(findings);
}

void FdTableCapture::give_back() {
  if (same_contents_) same_contents_->withdraw();  // it looks at kept_
  full_pipes_.clear();
  asked_.clear();
  if (changes_only_) forget_changes();
  changes_only_ = false;
  kept_.clear();
  glance_.clear();
}

std::vector<SocketCopy> FdTableCapture::sockets() const {
  std::vector<SocketCopy> out;
  std::unordered_set<std::uint64_t> seen;
  for (const FdFacts& facts : kept_) {
    if (!facts.is_socket() || !seen.insert(facts.stamp.inode).second) continue;
    const SocketType type = socket_type(facts, facts.copy.get());
    const SocketKind kind = type.is_tcp()   ? SocketKind::kTcp
                            : type.is_udp() ? SocketKind::kUdp
                                            : SocketKind::kUnix;
    const KnownSocket* known = find_known(facts);
    out.push_back({facts.fd, facts.copy.get(), facts.stamp.inode, kind,
                   known != nullptr ? known->segments_in : std::nullopt});
  }
  return out;
}

}  // namespace godwit
