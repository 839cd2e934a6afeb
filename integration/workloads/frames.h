// Numbered, checksummed messages that the network workloads exchange with their clients.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

namespace godwit::frames {

// What a TCP connection is for: its first byte.
inline constexpr char kEcho = 'E';              // every frame comes back
inline constexpr char kClientHalfCloses = 'H';  // the client shuts its side down, frames flow to it
inline constexpr char kServerHalfCloses = 'R';  // the server does, frames flow to the server

struct Head {
  uint32_t payload_bytes;
  uint32_t check;
  uint64_t number;
};

inline constexpr uint32_t kPayloadBytesMax = 1 << 20;

inline uint64_t mix(uint64_t value) {
  value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9u;
  value = (value ^ (value >> 27)) * 0x94D049BB133111EBu;
  return value ^ (value >> 31);
}

inline uint32_t check_of(uint64_t number, std::string_view payload) {
  uint64_t sum = mix(number + payload.size());
  while (payload.size() >= sizeof(uint64_t)) {
    uint64_t word;
    std::memcpy(&word, payload.data(), sizeof word);
    sum = mix(sum ^ word);
    payload.remove_prefix(sizeof word);
  }
  for (const char byte : payload) sum = mix(sum ^ static_cast<unsigned char>(byte));
  return static_cast<uint32_t>(sum);
}

inline std::string payload_of(uint64_t stream, uint64_t number, size_t bytes) {
  std::string payload(bytes, '\0');
  uint64_t state = mix(stream) ^ number;
  for (size_t at = 0; at < bytes; at += sizeof state) {
    state = mix(state + 0x9E3779B97F4A7C15u);
    std::memcpy(payload.data() + at, &state, std::min(sizeof state, bytes - at));
  }
  return payload;
}

inline void append_frame(std::string& out, uint64_t number, std::string_view payload) {
  const Head head{static_cast<uint32_t>(payload.size()), check_of(number, payload), number};
  out.append(reinterpret_cast<const char*>(&head), sizeof head);
  out.append(payload);
}

enum class Taken { kFrame, kIncomplete, kBad };

struct Frame {
  uint64_t number;
  std::string_view payload;
  size_t bytes;  // head and payload
};

// The first frame of `bytes`.
inline Taken take_frame(std::string_view bytes, Frame& frame) {
  Head head;
  if (bytes.size() < sizeof head) return Taken::kIncomplete;
  std::memcpy(&head, bytes.data(), sizeof head);
  if (head.payload_bytes > kPayloadBytesMax) return Taken::kBad;
  if (bytes.size() < sizeof head + head.payload_bytes) return Taken::kIncomplete;
  frame = {head.number, bytes.substr(sizeof head, head.payload_bytes),
           sizeof head + head.payload_bytes};
  return check_of(frame.number, frame.payload) == head.check ? Taken::kFrame : Taken::kBad;
}

// A datagram of the UDP workload, both ways.
struct Datagram {
  uint64_t client;
  uint64_t number;
  uint32_t times;  // in a reply: how often the server has seen this number from this client
  uint32_t check;  // check_of(number, payload)
  char payload[104];
};

}  // namespace godwit::frames
