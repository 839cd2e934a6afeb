// Moves a table of descriptors from one test process into another, with the code of both agents.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <optional>
#include <string>

#include "common/base/clock.h"
#include "common/base/scope_exit.h"
#include "common/kernel/fd_test_process.h"
#include "dest-agent/restore/fd_table.h"
#include "source-agent/capture/fd_compare.h"
#include "source-agent/capture/fd_table.h"

namespace godwit {

inline void expect_child(bool condition, const char* what) {
  if (condition) return;
  dprintf(2, "in the child: %s: %s\n", what, strerror(errno));
  _exit(9);
}

// The source lets go of its pidfd first, since pidfds cannot be moved.
class Move {
 public:
  explicit Move(TestProcess& source)
      : source_task_(RemoteTask::attach(source.pid())),
        target_([] {}),
        target_task_(RemoteTask::attach(target_.pid())),
        capture_(source.pid()) {
    target_task_.stop();
    restorer_.emplace(target_task_, kTestPidfd);
    source_task_.stop();
    SyscallBatch batch;
    batch.add_may_fail(SYS_close, {kTestPidfd});
    source_task_.run(batch);
    source_task_.resume();
  }

  void build() { restorer_->build(capture_.describe()); }

  // Stops the source for good, moves, and describes the target.
  void finish() {
    source_task_.stop();
    std::int64_t start = monotonic_ns();
    capture_.take_copies();
    wanted_ = capture_.describe_final();
    describe_final_ms_ = to_ms(monotonic_ns() - start);
    start = monotonic_ns();
    restorer_->cut_over(wanted_);
    cut_over_ms_ = to_ms(monotonic_ns() - start);
    restorer_->finish();
    capture_.give_back();
    found_ = FdTableCapture(target_.pid()).describe_stopped(&target_task_);
  }

  // The same in the way of a migration: described ahead, and then the changes only.
  void build_ahead() {
    usleep(50'000);  // what has just been written is looked at in full
    restorer_->build(capture_.describe(FdDepth::kAhead));
    capture_.expect_stop();
  }
  void finish_changes() {
    source_task_.stop();
    std::int64_t start = monotonic_ns();
    capture_.take_copies(&source_task_);
    changes_ = capture_.describe_final();
    describe_final_ms_ = to_ms(monotonic_ns() - start);
    start = monotonic_ns();
    capture_.confirm(source_task_);
    confirm_ms_ = to_ms(monotonic_ns() - start);
    start = monotonic_ns();
    restorer_->cut_over(changes_);
    cut_over_ms_ = to_ms(monotonic_ns() - start);
    start = monotonic_ns();
    restorer_->finish();
    finish_ms_ = to_ms(monotonic_ns() - start);
    capture_.give_back();
    wanted_ = FdTableCapture(source_task_.host_pid()).describe_stopped(&source_task_);
    found_ = FdTableCapture(target_.pid()).describe_stopped(&target_task_);
  }
  const proto::FdTable& changes() const { return changes_; }
  double confirm_ms() const { return confirm_ms_; }
  double finish_ms() const { return finish_ms_; }
  double describe_final_ms() const { return describe_final_ms_; }
  double cut_over_ms() const { return cut_over_ms_; }
  std::string differences() const {
    std::string out;
    for (const auto& line : compare_fd_tables(wanted_, found_)) out += line + "\n";
    return out;
  }
  const proto::FdTable& wanted() const { return wanted_; }
  const proto::FdTable& found() const { return found_; }
  UniqueFd copy(int fd) { return target_task_.copy_fd(fd); }
  RemoteTask& source_task() { return source_task_; }
  FdTableCapture& capture() { return capture_; }
  FdTableRestorer& restorer() { return *restorer_; }

 private:
  RemoteTask source_task_;
  TestProcess target_;
  RemoteTask target_task_;
  FdTableCapture capture_;
  std::optional<FdTableRestorer> restorer_;
  proto::FdTable wanted_;
  proto::FdTable found_;
  proto::FdTable changes_;
  double confirm_ms_ = 0;
  double finish_ms_ = 0;
  double describe_final_ms_ = 0;
  double cut_over_ms_ = 0;
};

class FdTableMove : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/godwit-fd-test-XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    directory_ = name;
    write_file_at(path(), "0123456789");
  }
  void TearDown() override {
    unlink(path().c_str());
    rmdir(directory_.c_str());
  }
  static void write_file_at(const std::string& where, const std::string& text) {
    UniqueFd file(open(where.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644));
    ASSERT_EQ(write(file.get(), text.data(), text.size()), static_cast<ssize_t>(text.size()));
  }
  std::string path() const { return directory_ + "/file"; }
  std::string directory() const { return directory_; }

 private:
  std::string directory_;
};

}  // namespace godwit
