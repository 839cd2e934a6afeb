// The socket at which a session answers `migrate recover` on its own host (proto/recovery.proto,
// unix(7)). Only the owner of the state folder reaches it. Thread: one at a time. Throws Error.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "common/base/unique_fd.h"
#include "proto/recovery.pb.h"

namespace godwit {

std::string recovery_socket_path(const std::string& state_dir, const std::string& migration_id);

class RecoverySocket {
 public:
  // In place of one that a killed session has left.
  explicit RecoverySocket(std::string path);
  RecoverySocket(const RecoverySocket&) = delete;
  RecoverySocket& operator=(const RecoverySocket&) = delete;
  ~RecoverySocket();  // and its name is gone

  int fd() const { return listening_.get(); }  // for poll(2)
  // One request; an Error that `answer` throws is the problem that it tells. Whoever is slow gets
  // no answer.
  using Answer = std::function<proto::RecoveryAnswer(const proto::RecoveryRequest&)>;
  void serve(const Answer& answer);

 private:
  std::string path_;
  UniqueFd listening_;
};

// Nothing when nobody listens there.
std::optional<proto::RecoveryAnswer> ask_recovery(const std::string& path,
                                                  const proto::RecoveryRequest& request,
                                                  std::int64_t timeout_ns);

}  // namespace godwit
