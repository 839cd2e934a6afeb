// What `migrate recover` is told, and may choose, about a process that misses pages while its
// source is away (proto/recovery.proto).
#pragma once

#include <cstdint>

#include "dest-agent/family.h"
#include "dest-agent/resumed_pages.h"
#include "proto/recovery.pb.h"

namespace godwit {

class LostPages {
 public:
  // `pages` must outlive this, and run whenever answer() is called.
  LostPages(const ProcessMark& process, ResumedPages& pages)
      : process_(process), family_(process), pages_(pages) {}

  // Does what is asked and says what came of it. After POISON and KILL without a problem nothing is
  // missing any more. Throws Error when the page server can't go on.
  proto::RecoveryAnswer answer(const proto::RecoveryRequest& request);

 private:
  void describe(const proto::StillMissing& missing, proto::RecoveryAnswer& answer) const;
  void describe_tasks(const proto::MissingSpace& space, pid_t pid,
                      proto::RecoveryAnswer& answer) const;
  pid_t process_of(const proto::MissingSpace& space) const;
  bool poison(proto::RecoveryAnswer& answer);

  ProcessMark process_;
  Family family_;
  ResumedPages& pages_;
};

}  // namespace godwit
