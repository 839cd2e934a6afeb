// The source's half of post-copy for page faults: reads what the destination asks for, and answers
// with the page at once and with its neighbourhood after it.
#pragma once

#include <functional>

#include "common/wire/fault_request.h"
#include "common/wire/page_frame.h"
#include "common/wire/page_service_link.h"
#include "common/wire/tls_stream.h"
#include "page-server/background_turns.h"
#include "page-server/missing_pages.h"

namespace godwit {

class FaultAnswers {
 public:
  // The memory file of an address space.
  using FindMemory = std::function<int(std::uint32_t space)>;
  // Borrows the link, `missing` and `turns`, which hears of each answer.
  FaultAnswers(PageServiceLink& link, TlsStream stream, MissingPages& missing,
               BackgroundTurns& turns, FindMemory find_memory);

  // Answers until the destination closes the connection. Throws Error, also for a page that is not
  // missing there.
  void run();

 private:
  void answer(const FaultRequest& request, bool alone);
  void send(std::uint32_t space, const PageRange& range);

  PageServiceLink& link_;
  TlsStream stream_;
  MissingPages& missing_;
  BackgroundTurns& turns_;
  FindMemory find_memory_;
  PageFrame frame_;
};

}  // namespace godwit
