#include "common/wire/fault_request.h"

#include <bit>
#include <cstring>

#include "common/base/error.h"

namespace godwit {
namespace {

static_assert(std::endian::native == std::endian::little);

constexpr std::uint32_t kMagic = 0x52465747;  // "GWFR"

struct WireRequest {
  std::uint32_t magic;
  std::uint32_t space;
  std::uint64_t page;
};
static_assert(sizeof(WireRequest) == kFaultRequestBytes);

}  // namespace

std::array<std::byte, kFaultRequestBytes> encode_fault_request(const FaultRequest& request) {
  return std::bit_cast<std::array<std::byte, kFaultRequestBytes>>(
      WireRequest{kMagic, request.space, request.page});
}

FaultRequest decode_fault_request(std::span<const std::byte, kFaultRequestBytes> bytes) {
  WireRequest wire{};
  std::memcpy(&wire, bytes.data(), sizeof(wire));
  if (wire.magic != kMagic) fail("page request: not one (magic {:#x})", wire.magic);
  if (wire.page % kPageSize != 0) fail("page request: {:x} is no page's address", wire.page);
  return {wire.space, wire.page};
}

}  // namespace godwit
