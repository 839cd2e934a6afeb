// One `migrate` that moves, or checks, one workload of a drain: a process of its own, since each
// needs a thread that traces, and what befalls one must not befall the others.
//
// It is in a process group of its own, so that Ctrl-C reaches it through the drain only, and gets
// SIGTERM when the drain dies (prctl(2), PR_SET_PDEATHSIG): before its commit it is rolled back.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "common/base/unique_fd.h"

namespace godwit {

class DrainJob {
 public:
  // `words`: of the command line, behind the program's name. Throws Error.
  explicit DrainJob(const std::vector<std::string>& words);
  DrainJob(const DrainJob&) = delete;
  DrainJob& operator=(const DrainJob&) = delete;
  ~DrainJob();  // waits for its end, which SIGTERM brings about

  pid_t pid() const { return pid_; }
  // To be polled: what it writes to standard output and to standard error, -1 at their end.
  int out_fd() const { return out_.get(); }
  int err_fd() const { return err_.get(); }
  // Takes what has come. True: it has ended.
  bool take();
  // Once it has ended: its exit code, or minus the signal that killed it.
  int exit_code() const { return exit_code_; }
  const std::string& out() const { return out_text_; }  // its report
  // What it has said since the last call, whole lines.
  std::string take_lines();
  // As Ctrl-C does. Harmless any number of times.
  void ask_to_stop() const;

 private:
  pid_t pid_ = -1;
  UniqueFd out_;
  UniqueFd err_;
  std::string out_text_;
  std::string err_text_;
  int exit_code_ = 0;
};

}  // namespace godwit
