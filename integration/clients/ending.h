// When a client ends: after some seconds, or at SIGTERM or SIGINT, whichever comes first.
#pragma once

#include <fmt/format.h>
#include <signal.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>

namespace godwit::client {

inline sigset_t ending_signals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  return signals;
}

// Keeps them for wait_for_end() or a signalfd. Before the first thread, which inherits the mask.
inline void block_ending_signals() {
  const sigset_t signals = ending_signals();
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
}

// What whoever started the client waits for.
inline void say_running() {
  fmt::print("running\n");
  std::fflush(stdout);
}

inline void wait_for_end(int64_t seconds) {
  const sigset_t signals = ending_signals();
  const timespec limit{seconds, 0};
  while (sigtimedwait(&signals, nullptr, &limit) < 0 && errno == EINTR) {
  }
}

}  // namespace godwit::client
