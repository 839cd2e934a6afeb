// Frames that tell a link where an address is now: gratuitous ARP (RFC 5227, 826), unsolicited
// neighbour advertisement (RFC 4861).
#pragma once

#include <string>
#include <vector>

#include "common/network/socket_address.h"

namespace godwit {

// Whole Ethernet frames, to be sent in this order. `hardware_address`: 6 bytes.
std::vector<std::string> announcement_frames(const IpAddress& address,
                                             const std::string& hardware_address);

}  // namespace godwit
