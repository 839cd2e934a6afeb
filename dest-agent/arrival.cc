#include "dest-agent/arrival.h"

#include <algorithm>

#include "common/base/error.h"
#include "common/network/socket_address.h"

namespace godwit {
namespace {

constexpr int kOptionsMax = 64;
constexpr std::size_t kTextCharactersMax = 256;

void check_travelling(const proto::TravellingWorkload& travels) {
  if (!is_workload_name(travels.name())) fail("a workload with a name that can't be one");
  const auto is_short = [](const std::string& text) { return text.size() <= kTextCharactersMax; };
  const bool fits = travels.options_size() <= kOptionsMax && is_short(travels.program()) &&
                    is_short(travels.home_address()) &&
                    std::all_of(travels.options().begin(), travels.options().end(), is_short);
  if (!fits) fail("workload {}: its registration is too large", travels.name());
}

// The source's dest-agent, as far as can be guessed: on the port that this host's own is on.
std::string expected_address(const Channel& source) {
  const auto here = SocketAddress::local_of(source.fd());
  const auto there = SocketAddress::remote_of(source.fd());
  if (!here || !there) return {};
  return SocketAddress(there->ip().unmapped(), here->port()).text();
}

}  // namespace

std::string preflight_arrival(const WorkloadFolder& folder,
                              const proto::TravellingWorkload& travels, const Channel& source,
                              Findings& findings) {
  check_travelling(travels);
  const std::optional<Workload> known = folder.find(travels.name());
  if (known && whereabouts_of(*known) == Whereabouts::kHere) {
    refuse(findings, "workload-name-taken", fmt::format("workload {}", travels.name()),
           fmt::format("the destination has another one of this name: pid {} ({})",
                       known->process.pid, known->program),
           "register one of them under another name");
  }
  const std::string home_address =
      travels.home_address().empty() ? expected_address(source) : travels.home_address();
  return workload_json(arrived_workload(travels, source.peer_name(), home_address, known));
}

}  // namespace godwit
