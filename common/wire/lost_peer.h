// Connections whose peer went without a word: its host lost power, or the network between.
#pragma once

namespace godwit {

// The kernel then ends the connection with ETIMEDOUT after about half a minute, whether data is
// underway (TCP_USER_TIMEOUT) or nothing is said (SO_KEEPALIVE); see tcp(7). For a connected TCP
// socket; what fails is left as it is.
void notice_lost_peer(int socket);

}  // namespace godwit
