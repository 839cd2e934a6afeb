#include "dest-agent/told_status.h"

#include <unistd.h>

#include "common/base/clock.h"
#include "common/base/log.h"

namespace godwit {

void ToldStatus::open(const JournalFolder& folder, const JournalRecord& record) noexcept try {
  const std::string path = folder.status_path_of(record);
  if (const auto before = try_read_status(path)) {
    status_ = *before;
    meter_ = PostCopyMeter(before->post_copy);
  }
  status_.pid = record.process.pid;
  if (const auto mark = try_mark_process(::getpid())) status_.agent = *mark;
  page_ = std::make_unique<StatusPage>(path);
  tell();
} catch (const std::exception& error) {
  log_warning("migration={} `migrate status` will not know: {}", record.migration_id, error.what());
}

void ToldStatus::tell() noexcept {
  status_.post_copy = meter_.report();
  if (page_) page_->tell(status_);
}

void ToldStatus::enter(State state) noexcept {
  status_.state = state;
  tell();
}

void ToldStatus::placed(std::uint32_t round) noexcept {
  status_.round = round;
  enter(State::kPreCopy);
}

void ToldStatus::take(const proto::MissingPages& news) noexcept {
  meter_.take(news, monotonic_ns());
  tell();
}

void ToldStatus::go_on() noexcept {
  meter_.begin_again();
  enter(State::kPostCopy);
}

void ToldStatus::source_away(bool away) noexcept {
  status_.source_away = away;
  tell();
}

}  // namespace godwit
