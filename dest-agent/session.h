// One migration on the destination, in a process of its own.
#pragma once

#include <string>
#include <vector>

#include "common/base/unique_fd.h"
#include "common/kernel/fd_passing.h"
#include "common/wire/channel.h"
#include "dest-agent/lazy_restore.h"
#include "dest-agent/options.h"

namespace godwit {

// What a session writes to its link once the peer has shown a certificate that is accepted.
inline constexpr char kPeerKnown = 'K';

// Serves a control connection until it has ended, one way or the other. `link`: a socket to the
// daemon, which passes this migration's page connection over it and reads kPeerKnown. Returns the
// process's exit status; throws nothing. What is left behind when it is killed is removed by
// recover_destination().
int run_session(const DestOptions& options, const std::string& migration_id, UniqueFd control,
                UniqueFd link);
// In place of a session that was killed while pages were missing: `held` is what it had passed to
// the daemon (post_copy.h).
int run_orphan_session(const DestOptions& options, const std::string& migration_id,
                       std::vector<Passed> held, UniqueFd link);

// A restore: the control channel leads to a Player of the image. `link`: to the keeper of a lazy
// one (lazy_restore.h), else -1. Returns when the Player has said all it has to say, and every page
// is there; throws Error for what failed, with everything removed that was built.
void play_session(const DestOptions& options, const std::vector<ImageLevel>& levels,
                  const proto::PlayImage& order, Channel& control, int link, LostImagePages& lost);

}  // namespace godwit
