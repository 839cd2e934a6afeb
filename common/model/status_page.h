// What a running agent tells of its migration: one struct in a file of the state folder that it has
// mapped. Telling is a copy of some KiB, without a system call; readers (`migrate status`) look
// again when they met a writer. Times are nanoseconds, CLOCK_MONOTONIC.
//
// The writer is one thread. The file goes with its writer, or, when that was killed, with the
// journal of the migration (JournalFolder::remove).
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>

#include "common/base/unique_fd.h"
#include "common/model/journal.h"
#include "common/model/report.h"

namespace godwit {

// What is not known is kUnknown.
struct MigrationStatus {
  static constexpr std::int64_t kUnknown = -1;

  ProcessMark agent;  // who writes
  pid_t pid = 0;      // the process, as this host sees it
  State state = State::kConnecting;
  bool source_away = false;  // destination: pages are missing, and nobody sends them
  std::int64_t told_ns = 0;
  // Pre-copy.
  std::uint32_t round = 0;
  std::int64_t pages_left = kUnknown;  // of the round; source only
  std::int64_t dirty_pages_per_s = kUnknown;
  std::int64_t bandwidth_bytes_per_s = kUnknown;
  std::int64_t switch_in_ns = kUnknown;
  // Post-copy, from the switch on.
  PostCopyReport post_copy;
};

class StatusPage {
 public:
  // A file of its own, with room for all that will be told. Throws Error naming it.
  explicit StatusPage(std::string path);
  StatusPage(const StatusPage&) = delete;
  StatusPage& operator=(const StatusPage&) = delete;
  ~StatusPage();

  void tell(const MigrationStatus& status) noexcept;

 private:
  struct Page;
  std::string path_;
  Page* page_ = nullptr;
};

// Nothing when there is no such file, or none that this release wrote.
std::optional<MigrationStatus> try_read_status(const std::string& path);

}  // namespace godwit
