// Addresses, interfaces and routes of this host (rtnetlink(7)), in the network namespace of the
// calling thread. Addresses are 4 or 16 bytes in network order. All throw Error naming the object.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace godwit {

struct HostAddress {
  std::string address;
  int prefix_length = 0;
  int interface = 0;        // index
  std::uint32_t flags = 0;  // IFA_F_* of <linux/if_addr.h>
};
std::vector<HostAddress> host_addresses();

// How long the kernel keeps an address that nobody prolongs.
inline constexpr std::uint32_t kForeverSeconds = 0xffffffff;

// Adds it, or changes its flags and lifetime. Without a route for its prefix, and IPv6 without
// duplicate address detection. A `preferred` of 0 seconds keeps IPv6 from choosing it as the source
// of connections that ask for none.
void put_host_address(const HostAddress& address, std::uint32_t valid_seconds,
                      std::uint32_t preferred_seconds);
// The same as the host's administrator would: with the prefix's route.
void put_host_address_with_route(const HostAddress& address);
// False if it was not there.
bool remove_host_address(const HostAddress& address);

struct HostInterface {
  int index = 0;
  std::string name;
  std::string hardware_address;  // 6 bytes on Ethernet
  bool ethernet = false;
  bool loopback = false;
  bool up = false;
};
std::vector<HostInterface> host_interfaces();

// Packets for this address are delivered on this host. IPv6 addresses come to that a moment after
// they were added.
bool is_delivered_here(const std::string& address);

// Interface that packets for this address leave by, when it is on that link itself and not behind a
// router; nullopt otherwise, and for addresses of this host.
std::optional<int> on_link_interface(const std::string& address);

}  // namespace godwit
