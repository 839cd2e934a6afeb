// Quantities as people read them.
#pragma once

#include <cstdint>
#include <string>

namespace godwit {

// "41.0 kB", "1.1 GB": powers of 1000, as the units say.
std::string bytes_text(std::uint64_t bytes);
// "4.2 ms", "12.3 s", "2 min 05 s", "1 h 12 min".
std::string duration_text(std::int64_t ns);
// "1 round", "5 rounds".
std::string count_text(std::uint64_t count, const std::string& noun);

}  // namespace godwit
