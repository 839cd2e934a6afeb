// A page server as a child of its agent: started, linked, ended.
//
// The child gets no environment, /dev/null as standard input and output, the agent's standard
// error, and the link as descriptor 3. It is in a session of its own (a terminal's Ctrl-C is the
// agent's to handle) and dies with the thread that spawned it (PR_SET_PDEATHSIG).
#pragma once

#include <sys/types.h>

#include <memory>
#include <string>
#include <string_view>

#include "common/wire/page_service_link.h"

namespace godwit {

class PageServerProcess {
 public:
  // `role` is source or destination; the program is the page-server next to /proc/self/exe unless
  // `program` names one. Throws Error when it cannot be started.
  static PageServerProcess spawn(std::string_view role, const std::string& program = {});

  PageServerProcess(PageServerProcess&& other) noexcept;
  PageServerProcess& operator=(PageServerProcess&&) = delete;
  ~PageServerProcess();  // kills it if it still runs, and reaps it

  PageServiceLink& link() { return *link_; }
  pid_t pid() const { return pid_; }

  // Orders it to finish and waits; returns its exit code, or -1 when a signal ended it. Killed at
  // the deadline (CLOCK_MONOTONIC, nanoseconds).
  int quit(std::int64_t deadline_ns);

 private:
  PageServerProcess(pid_t pid, UniqueFd link);

  pid_t pid_ = -1;
  std::unique_ptr<PageServiceLink> link_;
};

}  // namespace godwit
