#include "source-agent/screen_block.h"

#include <fmt/format.h>

#include <algorithm>

namespace godwit {
namespace {

constexpr std::string_view kHideCursor = "\x1b[?25l";
constexpr std::string_view kShowCursor = "\x1b[?25h";
constexpr std::string_view kEraseRestOfLine = "\x1b[K";
constexpr std::string_view kEraseBelow = "\x1b[J";
constexpr std::string_view kPlainAgain = "\x1b[0m";

std::string_view colour_of(TextStyle style) {
  switch (style) {
    case TextStyle::kStrong:
      return "\x1b[1m";
    case TextStyle::kDone:
      return "\x1b[32m";
    case TextStyle::kFaint:
      return "\x1b[2m";
    case TextStyle::kWarning:
      return "\x1b[33m";
    case TextStyle::kPlain:
      break;
  }
  return "";
}

}  // namespace

// A terminal that has become narrower has broken the lines, and they take more rows.
std::string ScreenBlock::to_top(int columns) const {
  const auto width = static_cast<std::size_t>(std::max(columns, 1));
  std::size_t rows = 0;
  for (const std::size_t each : widths_)
    rows += std::max<std::size_t>(1, (each + width - 1) / width);
  if (rows <= 1) return "\r";
  return fmt::format("\r\x1b[{}A", rows - 1);
}

void ScreenBlock::append(std::string& out, const StyledLine& line) const {
  for (const StyledText& part : line) {
    const std::string_view colour = colours_ ? colour_of(part.style) : "";
    out += colour;
    out += part.text;
    if (!colour.empty()) out += kPlainAgain;
  }
  out += kEraseRestOfLine;
}

std::string ScreenBlock::draw(const std::vector<StyledLine>& lines, int columns) {
  std::string out(kHideCursor);
  if (shown()) out += to_top(columns);
  for (std::size_t i = 0; i < lines.size(); ++i) {
    if (i > 0) out += "\r\n";
    append(out, lines[i]);
  }
  if (shown()) out += kEraseBelow;
  out += kShowCursor;
  widths_.clear();
  for (const StyledLine& line : lines) widths_.push_back(width_of(line));
  return out;
}

std::string ScreenBlock::draw_below(std::string_view above, const std::vector<StyledLine>& lines,
                                    int columns) {
  std::string out = erase(columns);
  for (const char each : above) {
    if (each == '\n') out += '\r';
    out += each;
  }
  return out + draw(lines, columns);
}

std::string ScreenBlock::erase(int columns) {
  if (!shown()) return "";
  std::string out = to_top(columns);
  out += kEraseBelow;
  widths_.clear();
  return out;
}

}  // namespace godwit
