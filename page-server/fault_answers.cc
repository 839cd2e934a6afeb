#include "page-server/fault_answers.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "common/base/clock.h"
#include "common/base/error.h"
#include "page-server/answering_precedence.h"

namespace godwit {
namespace {

// Beside the page itself: some 60 KiB travel in the time that one more round trip takes.
constexpr std::uint64_t kNeighbourPages = 15;

void read_pages(int memory, Address from, std::span<std::byte> to) {
  while (!to.empty()) {
    const ssize_t got = ::pread(memory, to.data(), to.size(), static_cast<off_t>(from));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw_system("reading the process's memory at {:x}", from);
    if (got == 0)
      throw Error(fmt::format("reading the process's memory at {:x}: it is gone", from), ESRCH);
    from += static_cast<Address>(got);
    to = to.subspan(static_cast<std::size_t>(got));
  }
}

}  // namespace

FaultAnswers::FaultAnswers(PageServiceLink& link, TlsStream stream, MissingPages& missing,
                           BackgroundTurns& turns, FindMemory find_memory)
    : link_(link),
      stream_(std::move(stream)),
      missing_(missing),
      turns_(turns),
      find_memory_(std::move(find_memory)) {}

void FaultAnswers::run() {
  AnsweringPrecedence precedence(link_);
  std::array<std::byte, kFaultRequestBytes> bytes;
  for (;;) {
    precedence.look();
    const std::size_t first = stream_.read_some(bytes);
    if (first == 0) return;
    stream_.read(std::span(bytes).subspan(first));
    pollfd more{stream_.fd(), POLLIN, 0};
    const bool alone = !stream_.has_pending() && ::poll(&more, 1, 0) == 0;
    answer(decode_fault_request(bytes), alone);
  }
}

// `alone`: nobody else waits, so there is time for the neighbourhood.
void FaultAnswers::answer(const FaultRequest& request, bool alone) {
  if (!missing_.names(request.space, request.page)) {
    fail("the destination asks for page {:x} of address space {}, which it is not missing",
         request.page, request.space);
  }
  turns_.answered(monotonic_ns());
  const auto taken = missing_.take_at(request.space, request.page, alone ? 1 + kNeighbourPages : 1);
  // The background stream may have it, behind much else: it is sent again, since somebody waits.
  send(request.space, {request.page, request.page + kPageSize});
  if (taken && taken->pages() > 1) {
    send(request.space, {request.page + kPageSize, taken->end});
  }
}

void FaultAnswers::send(std::uint32_t space, const PageRange& range) {
  frame_.begin(PageFrame::Type::kPages, space, 0, 0);
  read_pages(find_memory_(space), range.start, frame_.data_room().first(range.bytes()));
  frame_.add_data(range.start, range.pages());
  frame_.seal();
  send_frame(stream_, frame_);
}

}  // namespace godwit
