#include "common/kernel/proc_schedstat.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <string>

#include "common/kernel/proc_text.h"

namespace godwit {

std::optional<RunCount> parse_schedstat(std::string_view text) {
  RunCount count;
  count.ran_ns = parse_number<std::int64_t>(next_word(text), "schedstat");
  parse_number<std::uint64_t>(next_word(text), "schedstat");
  count.slices = parse_number<std::uint64_t>(next_word(text), "schedstat");
  if (count.slices == 0) return std::nullopt;
  return count;
}

RunCounter::RunCounter(pid_t host_pid, pid_t host_tid) {
  const std::string directory = fmt::format("/proc/{}/task/{}", host_pid, host_tid);
  schedstat_ = try_open_file(directory + "/schedstat", O_RDONLY);
  status_ = try_open_file(directory + "/status", O_RDONLY);
}

std::optional<RunCount> RunCounter::read() const {
  std::array<char, 80> text;
  const auto bytes = ::pread(schedstat_.get(), text.data(), text.size(), 0);
  if (bytes <= 0) return std::nullopt;
  return parse_schedstat(std::string_view(text.data(), static_cast<std::size_t>(bytes)));
}

std::optional<std::uint64_t> RunCounter::sleeps() const {
  std::array<char, 4096> memory;
  const auto bytes = ::pread(status_.get(), memory.data(), memory.size(), 0);
  if (bytes <= 0) return std::nullopt;
  constexpr std::string_view kName = "\nvoluntary_ctxt_switches:";
  std::string_view text(memory.data(), static_cast<std::size_t>(bytes));
  const auto at = text.find(kName);
  if (at == std::string_view::npos) return std::nullopt;
  text.remove_prefix(at + kName.size());
  return parse_number<std::uint64_t>(next_word(text), "voluntary_ctxt_switches");
}

}  // namespace godwit
