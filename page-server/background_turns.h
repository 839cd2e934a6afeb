// When the background stream of post-copy takes its turn. Page faults that follow each other
// closely are a program that makes its way to its working set: the stream would take processors and
// the link from them. It stands back then, but not for long in all: it is what ends them.
//
// Thread: any; the stream's is the one that waits.
#pragma once

#include <atomic>
#include <cstdint>

namespace godwit {

class BackgroundTurns {
 public:
  // Of what followed a fault, this long ago, the next one is still expected. ns.
  static constexpr std::int64_t kCloseNs = 300'000;
  // The stream stands back for so long at most, and for this part of its time. ns.
  static constexpr std::int64_t kStandBackNs = 30'000'000;
  static constexpr std::int64_t kStandBackPart = 16;

  // A fault has been answered.
  void answered(std::int64_t now_ns) { answered_ns_ = now_ns; }

  // How long the stream has to stand back before it looks again; 0: its turn. It is told how long
  // it stood back by the next call.
  std::int64_t wait_ns(std::int64_t now_ns);

  // Stands back until it is its turn.
  void take();

 private:
  std::atomic<std::int64_t> answered_ns_{0};
  std::int64_t began_ns_ = 0;  // the stream's own, as the next two
  std::int64_t stands_back_since_ns_ = 0;
  std::int64_t stood_back_ns_ = 0;
};

}  // namespace godwit
