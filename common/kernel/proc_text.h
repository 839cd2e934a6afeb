// Small helpers for the line-by-line texts of procfs.
#pragma once

#include <charconv>
#include <cstdint>
#include <string_view>

#include "common/base/error.h"

namespace godwit {

inline std::string_view trim(std::string_view text) {
  constexpr std::string_view kBlank = " \t\n";
  const auto from = text.find_first_not_of(kBlank);
  if (from == std::string_view::npos) return {};
  return text.substr(from, text.find_last_not_of(kBlank) - from + 1);
}

// A whole number that fills `text`; throws Error naming `what`.
template <typename T>
T parse_number(std::string_view text, std::string_view what, int base = 10) {
  T value{};
  const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (code != std::errc{} || end != text.data() + text.size()) {
    fail("{}: '{}' is not a number", what, text);
  }
  return value;
}

// Takes the next word off the front of `text`; empty at the end.
inline std::string_view next_word(std::string_view& text) {
  text = trim(text);
  const std::string_view word = text.substr(0, text.find_first_of(" \t\n"));
  text.remove_prefix(word.size());
  return word;
}

// Takes the next line off the front of `text`, without its newline.
inline std::string_view next_line(std::string_view& text) {
  const std::string_view line = text.substr(0, text.find('\n'));
  text.remove_prefix(line.size() < text.size() ? line.size() + 1 : line.size());
  return line;
}

}  // namespace godwit
