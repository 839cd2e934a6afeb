#include "source-agent/capture/fd_glance.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include "common/base/clock.h"
#include "common/base/error.h"
#include "common/kernel/fd_limit.h"
#include "source-agent/capture/epolls.h"
#include "source-agent/capture/eventfds.h"
#include "source-agent/capture/pipes.h"
#include "source-agent/capture/regular_files.h"
#include "source-agent/capture/signalfds.h"

namespace godwit {
namespace {

constexpr std::size_t kAskedPerPart = 600;
constexpr std::size_t kFew = 200;
constexpr std::size_t kTextsOpenMax = 16'384;
constexpr std::size_t kOwnDescriptors = 256;
// A clock tick of the kernel: what changed so shortly before it was looked at may have changed once
// more within the same one.
constexpr std::int64_t kTickNs = 20'000'000;

// The link and the status were read one after the other.
bool names_inode(const FdFacts& facts) {
  return facts.link.ends_with(fmt::format(":[{}]", facts.stamp.inode));
}

bool has_text(const FdFacts& facts) {
  if (facts.info_text.empty() || facts.info.inode == 0) return false;
  if (is_path_file(facts)) return true;
  return (is_eventfd(facts) || is_epoll(facts) || is_signalfd(facts)) &&
         facts.info.inode == facts.stamp.inode;
}

}  // namespace

void FdGlance::add_part(std::vector<Part>& parts) {
  if (!parts.empty()) parts.back().fit();
  parts.emplace_back();
}

void FdGlance::Part::fit() {
  batch.fit();
  asked.shrink_to_fit();
  taken.shrink_to_fit();
}

void FdGlance::ask(FdFacts& facts) {
  if (parts_.empty() || parts_.back().asked.size() == kAskedPerPart) add_part(parts_);
  Part& part = parts_.back();
  Asked asked;
  asked.facts = &facts;
  asked.status = part.batch.reserve(sizeof(struct stat));
  asked.status_row = part.batch.add_may_fail(SYS_fstat, {facts.fd, asked.status});
  if (!is_path_file(facts)) {
    asked.descriptor_flags = part.batch.add_may_fail(SYS_fcntl, {facts.fd, F_GETFD});
    asked.status_flags = part.batch.add_may_fail(SYS_fcntl, {facts.fd, F_GETFL});
  }
  if (is_pipe(facts) && (facts.info.flags & O_ACCMODE) != O_WRONLY) {
    asked.waiting = part.batch.reserve(sizeof(int));
    asked.waiting_row = part.batch.add_may_fail(SYS_ioctl, {facts.fd, FIONREAD, asked.waiting});
  }
  part.asked.push_back(asked);
}

void FdGlance::ask_taken(FdFacts& facts, Part& part) {
  Taken taken;
  taken.facts = &facts;
  taken.fd = facts.fd;
  taken.owner = facts.owner;
  taken.capacity = facts.pipe ? facts.pipe->capacity() : 0;
  taken.owner_at = part.batch.reserve(sizeof(f_owner_ex));
  taken.owner_row = part.batch.add_may_fail(SYS_fcntl, {facts.fd, F_GETOWN_EX, taken.owner_at});
  taken.signal_row = part.batch.add_may_fail(SYS_fcntl, {facts.fd, F_GETSIG});
  if (taken.capacity != 0) {
    taken.capacity_row = part.batch.add_may_fail(SYS_fcntl, {facts.fd, F_GETPIPE_SZ});
  }
  part.taken.push_back(std::move(taken));
}

void FdGlance::prepare(std::vector<FdFacts>& described, const ProcFdDirectory& directory,
                       std::int64_t looked_ns) {
  clear();
  directory_ = &directory;
  trusted_before_ns_ = looked_ns - kTickNs;
  // Duplicates of all of them must still find room.
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  const std::size_t taken = described.size() + kOwnDescriptors + descriptors_for_watches();
  const std::size_t texts_open_max =
      limit.rlim_cur > taken ? std::min<std::size_t>(limit.rlim_cur - taken, kTextsOpenMax) : 0;
  std::vector<FdFacts*> taken_for_same;
  for (FdFacts& facts : described) {
    facts.same = facts.closed = false;
    facts.doubts = is_path_file(facts) ? 2 : 1;
    if (facts.torn) continue;
    if (!has_text(facts)) std::string().swap(facts.info_text);
    if (has_text(facts)) {
      texts_.push_back({&facts, {}});
      UniqueFd& info = texts_.back().info;
      if (texts_.size() <= texts_open_max) info = directory.open_info(facts.fd);
      // The first time takes longer: the kernel makes room.
      if (info.valid()) ProcFdDirectory::read_info_again(info, block_);
      if (is_path_file(facts)) ask(facts);
    } else if ((is_pipe(facts) || facts.is_socket()) && names_inode(facts)) {
      ask(facts);
    }
    const bool has_owner = (facts.info.flags & O_PATH) == 0;
    if (facts.leader == facts.fd && !facts.is_socket() && has_owner) {
      taken_for_same.push_back(&facts);
    }
  }
  std::vector<Part>& parts = described.size() <= kFew ? parts_ : later_;
  for (FdFacts* facts : taken_for_same) {
    if (parts.empty() || parts.back().taken.size() == kAskedPerPart) add_part(parts);
    ask_taken(*facts, parts.back());
  }
  prepared_ = true;
}

void FdGlance::read(const Asked& asked, const BatchOutcome& outcome) const {
  FdFacts& facts = *asked.facts;
  if (outcome[asked.status_row] != 0) {
    facts.closed = true;
    return;
  }
  const FileStamp now = stamp_of(outcome.value<struct stat>(asked.status));
  if (is_path_file(facts)) {
    if (now == facts.stamp && now.changed_ns < trusted_before_ns_) settle(facts);
    return;
  }
  auto flags = static_cast<std::uint32_t>(outcome[asked.status_flags]);
  if ((outcome[asked.descriptor_flags] & FD_CLOEXEC) != 0) flags |= O_CLOEXEC;
  if (now.is_same_file(facts.stamp) && now.mode == facts.stamp.mode && flags == facts.info.flags) {
    settle(facts);
  }
  if (asked.waiting.offset != 0) facts.waiting = outcome.value<int>(asked.waiting);
}

void FdGlance::read(const Text& text) {
  FdFacts& facts = *text.facts;
  bool open = false;
  if (text.info.valid()) {
    open = ProcFdDirectory::read_info_again(text.info, block_);
  } else if (auto read = directory_->info_text(facts.fd)) {
    block_ = std::move(*read);
    open = true;
  }
  if (!open) facts.closed = true;
  if (open && block_ == facts.info_text) settle(facts);
}

// One of the questions about it has the answer it had.
void FdGlance::settle(FdFacts& facts) { facts.same = --facts.doubts == 0; }

void FdGlance::look(RemoteTask& task) {
  std::size_t at = 0;
  const std::size_t texts_per_part = parts_.empty() ? 0 : texts_.size() / parts_.size();
  for (Part& part : parts_) {
    const std::size_t end = at + texts_per_part;
    BatchOutcome outcome = task.run(part.batch, [&] {
      for (; at < end; ++at) read(texts_[at]);
    });
    for (const Asked& asked : part.asked) read(asked, outcome);
    if (!part.taken.empty()) part.outcome = std::move(outcome);
  }
  for (; at < texts_.size(); ++at) read(texts_[at]);
  for (std::vector<Part>* parts : {&parts_, &later_}) {
    for (Part& part : *parts) {
      for (Taken& taken : part.taken) taken.same = taken.facts->same;
    }
  }
}

void FdGlance::confirm(const Taken& taken, const BatchOutcome& outcome) {
  const auto owner = outcome.value<f_owner_ex>(taken.owner_at);
  const bool same_owner = outcome[taken.owner_row] == 0 && owner.pid == taken.owner.pid() &&
                          (owner.pid == 0 || owner.type == taken.owner.type()) &&
                          outcome[taken.signal_row] == taken.owner.signal();
  if (!same_owner) {
    throw Error(fmt::format("the owner of fd {} (F_SETOWN, F_SETSIG) changed in the last instant",
                            taken.fd),
                EAGAIN, "begin the migration again");
  }
  if (taken.capacity != 0 && outcome[taken.capacity_row] != taken.capacity) {
    throw Error(
        fmt::format("the capacity of the pipe at fd {} changed in the last instant", taken.fd),
        EAGAIN, "begin the migration again");
  }
}

void FdGlance::confirm(RemoteTask& task) {
  for (std::vector<Part>* parts : {&parts_, &later_}) {
    for (Part& part : *parts) {
      if (part.taken.empty()) continue;
      if (!part.outcome) part.outcome = task.run(part.batch);
      for (const Taken& taken : part.taken) {
        if (taken.same) confirm(taken, *part.outcome);
      }
    }
  }
}

void FdGlance::clear() {
  prepared_ = false;
  parts_.clear();
  texts_.clear();
  later_.clear();
}

}  // namespace godwit
