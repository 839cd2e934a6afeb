#include "source-agent/progress_text.h"

#include <fmt/format.h>

#include <algorithm>

#include "common/base/human_text.h"

namespace godwit {
namespace {

constexpr std::size_t kGap = 3;          // between two fields of a line
constexpr std::size_t kBarColumns = 20;  // without its brackets
constexpr std::size_t kLinesMax = 5;

// What stands in a line with others. Of the least important (the highest rank) is left out first.
struct Field {
  StyledLine text;
  int rank = 0;
  bool begins_line = false;
};

// With whole tenths of a second, so that it stays where it is.
std::string elapsed_text(std::int64_t ns) {
  constexpr std::int64_t kNsPerS = 1'000'000'000;
  return ns < kNsPerS ? fmt::format("{:.1f} s", static_cast<double>(ns) / kNsPerS)
                      : duration_text(ns);
}

std::string printable(const std::string& text) {
  std::string out = text;
  std::replace_if(
      out.begin(), out.end(), [](char each) { return each < ' ' || each > '~'; }, '?');
  return out;
}

StyledLine cut(const StyledLine& line, std::size_t columns) {
  StyledLine out;
  std::size_t used = 0;
  for (const StyledText& part : line) {
    if (used >= columns) break;
    out.push_back({part.text.substr(0, columns - used), part.style});
    used += out.back().text.size();
  }
  return out;
}

std::vector<StyledLine> pack(const std::vector<Field>& fields, std::size_t columns) {
  std::vector<StyledLine> lines;
  for (const Field& field : fields) {
    const std::size_t width = width_of(field.text);
    const bool fits =
        !lines.empty() && !field.begins_line && width_of(lines.back()) + kGap + width <= columns;
    if (!fits) {
      lines.push_back(cut(field.text, columns));
      continue;
    }
    lines.back().push_back({std::string(kGap, ' '), TextStyle::kPlain});
    lines.back().insert(lines.back().end(), field.text.begin(), field.text.end());
  }
  return lines;
}

StyledLine labelled(const std::string& label, const std::string& value) {
  return {{label + " ", TextStyle::kFaint}, {value}};
}

std::string estimate_text(const SwitchEstimate& estimate) {
  switch (estimate.kind) {
    case SwitchEstimate::Kind::kAbout:
      return "in about " + duration_text(estimate.ns);
    case SwitchEstimate::Kind::kAtLeast:
      return "in " + duration_text(estimate.ns) + " or more";
    case SwitchEstimate::Kind::kNever:
      return "not in sight: it writes faster than is sent";
    case SwitchEstimate::Kind::kUnknown:
      break;
  }
  return "?";
}

StyledLine bar(std::uint64_t left, std::uint64_t all) {
  const double done = all == 0 ? 1 : 1 - static_cast<double>(left) / static_cast<double>(all);
  const auto full = static_cast<std::size_t>(done * kBarColumns);
  return {{"["},
          {std::string(full, '#'), TextStyle::kDone},
          {std::string(kBarColumns - full, '.'), TextStyle::kFaint},
          {fmt::format("] {:3.0f} %", done * 100)}};
}

void add_round(const ProgressFacts& facts, std::vector<Field>& fields) {
  fields.push_back({labelled("round", fmt::format("{}", facts.round)), 1, true});
  if (!facts.round_pages) {
    fields.push_back({{{"looking for written pages", TextStyle::kFaint}}, 3});
    return;
  }
  fields.push_back({bar(facts.pages_left, *facts.round_pages), 7});
  const std::string all = fmt::format("{}", *facts.round_pages);
  fields.push_back(
      {{{fmt::format("{:>{}} of {} pages left", facts.pages_left, all.size(), all)}}, 3});
}

void add_rates(const ProgressFacts& facts, std::vector<Field>& fields) {
  const std::string written =
      facts.dirty_pages_per_s ? fmt::format("{} pages/s", *facts.dirty_pages_per_s) : "?";
  const std::string sent =
      facts.bandwidth_bytes_per_s ? bytes_text(*facts.bandwidth_bytes_per_s) + "/s" : "?";
  const std::string pause = facts.pause_ns ? duration_text(*facts.pause_ns) : "?";
  const std::string wanted = duration_text(facts.pause_ns_max) + " wanted";
  fields.push_back({labelled("writes", written), 5, true});
  fields.push_back({labelled("sends", sent), 6});
  fields.push_back({labelled("pause", fmt::format("{} ({})", pause, wanted)), 4});
  fields.push_back({labelled("switch", estimate_text(facts.switch_in)), 2});
}

void add_missing_pages(const ProgressFacts& facts, std::vector<Field>& fields) {
  const PostCopyReport& report = *facts.post_copy;
  const std::string all = fmt::format("{}", report.pages);
  fields.push_back({bar(std::min(report.missing_pages, report.pages), report.pages), 7, true});
  fields.push_back(
      {{{fmt::format("{:>{}} of {} pages missing", report.missing_pages, all.size(), all)}}, 3});
  fields.push_back({labelled("faults", fmt::format("{}", report.faults)), 4, true});
  fields.push_back({labelled("wait", fmt::format("{} (99 % {}, longest {})",
                                                 duration_text(report.latency_p50_ns),
                                                 duration_text(report.latency_p99_ns),
                                                 duration_text(report.latency_max_ns))),
                    5});
  const std::string rest =
      facts.complete_in_ns ? "in about " + duration_text(*facts.complete_in_ns) : "?";
  fields.push_back({labelled("complete", rest), 2});
}

}  // namespace

std::size_t width_of(const StyledLine& line) {
  std::size_t width = 0;
  for (const StyledText& part : line) width += part.text.size();
  return width;
}

std::string activity_text(const ProgressFacts& facts) {
  if (facts.switching) return "the switch";
  switch (facts.state) {
    case State::kConnecting:
      return "connecting";
    case State::kPreflight:
      return "checking both hosts";
    case State::kBuilding:
      return "building it there";
    case State::kPreCopy:
      return "copying while it runs";
    case State::kFreezing:
      return "making ready for the switch";
    case State::kPostCopy:
      return "it runs there, pages follow";
    case State::kInDoubt:
      return "asking whether it has moved";
    case State::kCompleted:
      return "it has moved; cleaning up";
    case State::kRollingBack:
      return "rolling back";
    default:
      return "";
  }
}

std::vector<StyledLine> progress_lines(const ProgressFacts& facts, int columns, int rows) {
  const bool good = facts.state != State::kRollingBack && facts.state != State::kInDoubt;
  std::vector<Field> fields;
  fields.push_back({{{fmt::format("pid {} to {}", facts.pid, printable(facts.destination))}}, 8});
  fields.push_back({{{elapsed_text(facts.elapsed_ns), TextStyle::kFaint}}, 9});
  StyledLine state{
      {std::string(name_of(facts.state)), good ? TextStyle::kStrong : TextStyle::kWarning}};
  const std::string activity = activity_text(facts);
  if (!activity.empty()) state.push_back({": " + activity});
  fields.push_back({state, 0, true});
  if (facts.round > 0 && facts.state == State::kPreCopy) {
    add_round(facts, fields);
    add_rates(facts, fields);
  }
  if (facts.post_copy && facts.state == State::kPostCopy) add_missing_pages(facts, fields);
  const auto width = static_cast<std::size_t>(std::max(columns, 1));
  const auto height = std::min(kLinesMax, static_cast<std::size_t>(std::max(rows, 1)));
  for (;;) {
    std::vector<StyledLine> lines = pack(fields, width);
    if (lines.size() <= height) return lines;
    fields.erase(std::max_element(
        fields.begin(), fields.end(),
        [](const Field& one, const Field& other) { return one.rank < other.rank; }));
  }
}

}  // namespace godwit
