// The page server of a process that runs here with pages missing, whose first one is gone: it goes
// on with what a session holds (post_copy.h), with or without a source. Throws Error when it can't,
// or when it ends; start() makes another one.
#pragma once

#include <optional>

#include "common/wire/page_server_process.h"
#include "dest-agent/post_copy.h"

namespace godwit {

class ResumedPages {
 public:
  explicit ResumedPages(PostCopy& post_copy) : post_copy_(post_copy) {}

  bool running() const { return pages_.has_value(); }
  void start();
  void reset() { pages_.reset(); }
  // For poll(2); -1 while there is none.
  int fd() { return pages_ ? pages_->link().fd() : -1; }
  PageServiceLink& link() { return pages_->link(); }

  // The next report: news of missing pages are handed out, children that were forked are held.
  std::optional<proto::MissingPages> take_report();
  proto::StillMissing name_missing();
  proto::MissingPoisoned poison();

 private:
  proto::PageReport receive(std::int64_t deadline_ns);
  // The first report of which `is_it` says so.
  template <typename IsIt>
  proto::PageReport await(IsIt is_it);

  PostCopy& post_copy_;
  std::optional<PageServerProcess> pages_;
};

}  // namespace godwit
