// Versions of what hosts say to each other.
#pragma once

#include <cstdint>

namespace godwit {

// Of proto::Snapshot. A reader accepts its own and the one before; there is none before yet.
inline constexpr std::uint32_t kSnapshotVersion = 1;
// Of the messages in proto/control.proto.
inline constexpr std::uint32_t kProtocolVersion = 1;

}  // namespace godwit
