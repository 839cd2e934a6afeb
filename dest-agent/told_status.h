// What `migrate status` of a destination hears (common/model/status_page.h). A file that can't be
// made is logged, and nothing is told. Nothing here throws. Thread: the session's.
#pragma once

#include <memory>

#include "common/model/journal.h"
#include "common/model/post_copy_meter.h"
#include "common/model/status_page.h"

namespace godwit {

class ToldStatus {
 public:
  // Goes on where another session of this migration has stopped.
  void open(const JournalFolder& folder, const JournalRecord& record) noexcept;

  void enter(State state) noexcept;
  void placed(std::uint32_t round) noexcept;
  void take(const proto::MissingPages& news) noexcept;
  // Another page server goes on, which counts from zero.
  void go_on() noexcept;
  void source_away(bool away) noexcept;

 private:
  void tell() noexcept;

  MigrationStatus status_;
  PostCopyMeter meter_;
  std::unique_ptr<StatusPage> page_;
};

}  // namespace godwit
