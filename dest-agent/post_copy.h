// What holds a process that runs before its pages are there: the userfaultfds of its address space
// and of children that it forked, and the ledger of what is missing. The page server works with
// duplicates; when it dies, another one goes on with these.
//
// As long as somebody holds a descriptor, whoever touches a missing page waits. With the last one
// closed the kernel would give out zeros instead, so the daemon holds them as well.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "common/base/unique_fd.h"
#include "common/kernel/fd_passing.h"
#include "common/wire/page_service_link.h"

namespace godwit {

class PostCopy {
 public:
  // What goes to the daemon over a session's link, each with its descriptor but the last.
  static constexpr char kLedger = 'L';
  static constexpr char kSpace = 'U';
  static constexpr char kComplete = 'E';

  // `daemon`: a session's link, which must outlive this.
  explicit PostCopy(int daemon) : daemon_(daemon) {}
  // Out of what the daemon holds for a session that died.
  PostCopy(int daemon, std::vector<Passed> held);

  bool incomplete() const { return ledger_.valid(); }
  // The first page server serves faults on `uffd` from here on.
  void begin(PageServiceLink& pages, UniqueFd uffd);
  // Another one: its answer is StillMissing.
  void resume(PageServiceLink& pages) const;
  void hold_child(std::uint32_t parent, UniqueFd uffd);
  // Every page is there: memory that is touched for the first time is the kernel's again.
  void end();

 private:
  void tell_daemon(int fd, char kind) const noexcept;

  struct Held {
    std::uint32_t parent = 0;
    UniqueFd uffd;
  };
  int daemon_;
  UniqueFd ledger_;
  std::vector<Held> spaces_;  // in the order in which they began
};

}  // namespace godwit
