// The daemon: accepts connections, forks one session process per migration, hands page connections
// to the session that they belong to, and cleans up after sessions that died.
//
//   main (this, single threaded, parses 32 plaintext bytes of each connection and no more)
//    +- session of migration A  -- page-server of A
//    +- session of migration B  -- page-server of B
//
// Whoever reaches the port can open connections, send a preface and never finish a handshake. What
// strangers hold is bounded, and they make room for each other, the oldest first: who has a
// certificate shows it within milliseconds. A session tells over its link that its peer has.
#pragma once

#include <poll.h>
#include <sys/types.h>

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "common/base/unique_fd.h"
#include "common/kernel/fd_passing.h"
#include "common/wire/preface.h"
#include "dest-agent/options.h"

namespace godwit {

class Listener {
 public:
  // Listens; throws Error naming the address. `keys` have been checked by the caller.
  explicit Listener(const DestOptions& options);

  // Serves until SIGTERM or SIGINT. Running sessions are left to finish.
  void run();

 private:
  struct Pending {
    UniqueFd socket;
    std::int64_t deadline_ns;
  };
  struct Session {
    std::string migration_id;
    UniqueFd link;  // page connections go over it, one of a kind, and kPeerKnown comes back
    std::int64_t began_ns = 0;
    bool peer_known = false;
    std::string passed;        // kinds of connections that it has
    std::vector<Passed> held;  // while pages are missing: see dest-agent/post_copy.h
    bool ending = false;       // killed to make room
  };

  void accept_connection();
  // `ready` is what poll(2) said of each.
  void serve_pending(std::span<const pollfd> ready);
  // True when the connection is dealt with, one way or the other.
  bool route(Pending& pending, short events);
  void start_session(const Preface& preface, UniqueFd socket);
  // False when as many migrations as there may be are in course.
  bool make_room();
  void pass_pages(const Preface& preface, UniqueFd socket);
  void reap_sessions();
  // In place of one that was killed while its process missed pages.
  void replace_session(Session session);
  void hear_sessions();
  void close_all();
  int poll_timeout_ms() const;
  // What strangers do is told once a second at most: they must not fill the log.
  void complain(const std::string& what);

  DestOptions options_;
  UniqueFd listening_;
  UniqueFd signals_;
  std::vector<Pending> pending_;
  std::map<pid_t, Session> sessions_;
  std::int64_t complained_ns_ = 0;
  std::uint64_t untold_ = 0;  // complaints since then
};

}  // namespace godwit
