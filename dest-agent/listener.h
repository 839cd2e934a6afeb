// The daemon: accepts connections, forks one session process per migration, hands page connections
// to the session that they belong to, and cleans up after sessions that died.
//
//   main (this, single threaded, parses 32 plaintext bytes of each connection and no more)
//    +- session of migration A  -- page-server of A
//    +- session of migration B  -- page-server of B
#pragma once

#include <sys/types.h>

#include <map>
#include <string>
#include <vector>

#include "common/base/unique_fd.h"
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
    UniqueFd link;  // page connections go over it
  };

  void accept_connection();
  // True when the connection is dealt with, one way or the other.
  bool route(Pending& pending);
  void start_session(const Preface& preface, UniqueFd socket);
  void reap_sessions();
  int poll_timeout_ms() const;

  DestOptions options_;
  UniqueFd listening_;
  UniqueFd signals_;
  std::vector<Pending> pending_;
  std::map<pid_t, Session> sessions_;
};

}  // namespace godwit
