#include "page-server/image_answers.h"

#include <tuple>

namespace godwit {
namespace {

// Of what was read and checked for one page anyway: a block.
constexpr std::uint64_t kNeighbourBytes = (kBlockPagesMax - 1) * kPageSize;

}  // namespace

void ImageAnswers::answer(const FaultRequest& request, const Sinks& sinks) {
  const PageRange page{request.page, request.page + kPageSize};
  const std::optional<StoredPages> place = image_.place_of(request.space, page.start);
  if (!place || place->zero) {
    sinks.place(page, nullptr);
    return;
  }
  const PageRange around{page.start - std::min(page.start, kNeighbourBytes),
                         page.end + kNeighbourBytes};
  std::vector<StoredPages> block = image_.pages_in(request.space, around);
  std::erase_if(block, [&](const StoredPages& each) {
    return each.zero || std::tie(each.level, each.block) != std::tie(place->level, place->block);
  });
  try {
    if (!sinks.place(page, image_.read(*place))) return;
  } catch (const Error& error) {
    for (const StoredPages& each : block) sinks.lose(each.range, error);
    return;
  }
  for (const StoredPages& each : block) {
    if (!sinks.place(each.range, image_.read(each))) return;
  }
}

}  // namespace godwit
