// Precedence for the thread that answers page faults: somebody stands still until it has. As long
// as it mostly waits, that is; when it works most of the time it is one among others.
//
// The page server has no right to take it, so its agent gives it (proto AnsweringThread).
#pragma once

#include <cstdint>

#include "common/wire/page_service_link.h"

namespace godwit {

class AnsweringPrecedence {
 public:
  // For the calling thread, which must be the one that calls look(). Borrows the link.
  explicit AnsweringPrecedence(PageServiceLink& link);
  // Between two answers. Throws Error when the agent is gone.
  void look();

 private:
  void ask(bool precedence);

  PageServiceLink& link_;
  bool asked_ = false;
  std::int64_t since_ns_ = 0;
  std::int64_t worked_ns_ = 0;  // the thread's time on a processor at `since_ns_`
};

}  // namespace godwit
