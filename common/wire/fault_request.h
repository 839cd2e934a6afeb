// What the destination's page server asks for over the connection for page faults; the source's
// answers with page frames (page_frame.h).
//
//   u32 magic "GWFR"   u32 space   u64 address of the page, little endian
//
// The address is one of the source's: where the page was when the process stood still there.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "common/base/page_range.h"

namespace godwit {

inline constexpr std::size_t kFaultRequestBytes = 16;

struct FaultRequest {
  std::uint32_t space = 0;
  Address page = 0;
  friend bool operator==(const FaultRequest&, const FaultRequest&) = default;
};

std::array<std::byte, kFaultRequestBytes> encode_fault_request(const FaultRequest& request);
// Throws Error for anything that encode_fault_request() could not have made.
FaultRequest decode_fault_request(std::span<const std::byte, kFaultRequestBytes> bytes);

}  // namespace godwit
