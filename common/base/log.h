// The log: one line per event on stderr, key=value fields, a level for the whole program.
// spdlog stands behind it and stays out of every other header. Thread-safe.
#pragma once

#include <fmt/format.h>

#include <functional>
#include <string_view>
#include <utility>

namespace godwit {

enum class LogLevel { kDebug, kInfo, kWarning, kError, kOff };

// Called once by main. `program` stands in front of every line.
void set_up_log(std::string_view program, LogLevel level);
LogLevel log_level();
// From now on `writer` gets every line, with its line break, in place of stderr; an empty one:
// stderr again. It may not throw or log. After set_up_log().
void set_log_writer(std::function<void(std::string_view)> writer);
void log_text(LogLevel level, std::string_view text);

template <typename... Args>
void log_at(LogLevel level, fmt::format_string<Args...> format, Args&&... args) {
  if (level < log_level()) return;
  log_text(level, fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
void log_debug(fmt::format_string<Args...> format, Args&&... args) {
  log_at(LogLevel::kDebug, format, std::forward<Args>(args)...);
}
template <typename... Args>
void log_info(fmt::format_string<Args...> format, Args&&... args) {
  log_at(LogLevel::kInfo, format, std::forward<Args>(args)...);
}
template <typename... Args>
void log_warning(fmt::format_string<Args...> format, Args&&... args) {
  log_at(LogLevel::kWarning, format, std::forward<Args>(args)...);
}
template <typename... Args>
void log_error(fmt::format_string<Args...> format, Args&&... args) {
  log_at(LogLevel::kError, format, std::forward<Args>(args)...);
}

}  // namespace godwit
