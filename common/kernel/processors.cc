#include "common/kernel/processors.h"

#include "common/base/unique_fd.h"
#include "common/kernel/proc_text.h"

namespace godwit {
namespace {

constexpr std::uint32_t kProcessorsMax = 1 << 16;

}  // namespace

std::vector<std::uint32_t> processors_of_mask(std::span<const std::byte> mask) {
  std::vector<std::uint32_t> processors;
  for (std::size_t index = 0; index < mask.size(); ++index) {
    for (std::uint32_t bit = 0; bit < 8; ++bit) {
      if ((std::to_integer<unsigned>(mask[index]) >> bit & 1) == 0) continue;
      processors.push_back(static_cast<std::uint32_t>(index) * 8 + bit);
    }
  }
  return processors;
}

std::vector<std::byte> mask_of_processors(std::span<const std::uint32_t> processors) {
  std::vector<std::byte> mask(8);
  for (const std::uint32_t processor : processors) {
    if (processor >= kProcessorsMax) fail("processor {}: no such number", processor);
    while (mask.size() * 8 <= processor) mask.resize(mask.size() + 8);
    mask[processor / 8] |= std::byte(1U << processor % 8);
  }
  return mask;
}

std::vector<std::uint32_t> parse_processor_list(std::string_view text) {
  std::vector<std::uint32_t> processors;
  text = trim(text);
  while (!text.empty()) {
    const std::string_view range = text.substr(0, text.find(','));
    text.remove_prefix(range.size() < text.size() ? range.size() + 1 : range.size());
    const auto dash = range.find('-');
    const auto first = parse_number<std::uint32_t>(range.substr(0, dash), "processor list");
    const auto last = dash == std::string_view::npos
                          ? first
                          : parse_number<std::uint32_t>(range.substr(dash + 1), "processor list");
    if (last < first || last >= kProcessorsMax) fail("processor list: '{}' is no range", range);
    for (std::uint32_t processor = first; processor <= last; ++processor) {
      processors.push_back(processor);
    }
  }
  return processors;
}

std::vector<std::uint32_t> online_processors() {
  return parse_processor_list(read_file("/sys/devices/system/cpu/online"));
}

}  // namespace godwit
