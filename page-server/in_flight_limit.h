// Keeps what the background stream has on its way small: where the link is slow, a queue of it that
// stands at the bottleneck is one that page faults stand behind, on another connection or not.
#pragma once

#include <cstdint>

namespace godwit {

// What may be on its way at this rate and round trip time. Bytes.
std::uint64_t in_flight_max(std::uint64_t bytes_per_s, std::int64_t round_trip_ns);

// Waits until at most so much of what was written to the TCP socket is not acknowledged (tcp(7):
// TCP_INFO, SIOCOUTQ). Returns at once when the socket does not tell.
void await_little_in_flight(int socket);

}  // namespace godwit
