// Messages of the blackout are on every client's clock: nothing of the kernel's may hold them back.
// Both for TCP sockets, see tcp(7); what fails is left as it is.
#pragma once

namespace godwit {

// A congestion control that does not pace. The host's own may be BBR, which learns from a quiet
// connection that nothing needs to be fast, and leaves a socket paced even when it is exchanged
// later: so before the socket is connected, or listens (its connections inherit it).
void do_not_pace(int socket);

// Room for a message of some hundred KiB: writing it waits for nobody.
void give_room_for_messages(int socket);

}  // namespace godwit
