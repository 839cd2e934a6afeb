#include "page-server/in_flight_limit.h"

#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <ctime>

namespace godwit {
namespace {

// Two round trips keep the link busy; shorter ones than this are lost in the time of a wakeup.
constexpr std::int64_t kRoundTripNsMin = 500'000;
constexpr std::uint64_t kInFlightMin = 64 << 10;
constexpr std::int64_t kWaitNsMin = 50'000;
constexpr std::int64_t kWaitNsMax = 20'000'000;

}  // namespace

std::uint64_t in_flight_max(std::uint64_t bytes_per_s, std::int64_t round_trip_ns) {
  const auto seconds = static_cast<double>(std::max(round_trip_ns, kRoundTripNsMin)) / 1e9;
  const double bytes = 2 * static_cast<double>(bytes_per_s) * seconds;
  return std::max(kInFlightMin, static_cast<std::uint64_t>(bytes));
}

void await_little_in_flight(int socket) {
  for (;;) {
    tcp_info info{};
    socklen_t bytes = sizeof(info);
    int queued = 0;
    if (::getsockopt(socket, IPPROTO_TCP, TCP_INFO, &info, &bytes) != 0) return;
    // Nothing was acknowledged yet: nothing is known.
    if (info.tcpi_delivery_rate == 0 || ::ioctl(socket, SIOCOUTQ, &queued) != 0) return;
    const std::uint64_t max = in_flight_max(info.tcpi_delivery_rate, info.tcpi_min_rtt * 1000LL);
    if (static_cast<std::uint64_t>(queued) <= max) return;
    const double over = static_cast<double>(static_cast<std::uint64_t>(queued) - max);
    const auto wait_ns = std::clamp(
        static_cast<std::int64_t>(over * 1e9 / static_cast<double>(info.tcpi_delivery_rate)),
        kWaitNsMin, kWaitNsMax);
    const timespec wait{0, wait_ns};
    clock_nanosleep(CLOCK_MONOTONIC, 0, &wait, nullptr);
  }
}

}  // namespace godwit
