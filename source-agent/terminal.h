// The terminal that standard error leads to, written to without ever waiting for it: a terminal
// that was stopped (Ctrl-S), is slow or has gone away must not hold up a migration.
//
// Rests on tty_ioctl(4), tcgetpgrp(3), and on opening /proc/self/fd/N (proc(5)), which gives an
// open file of its own, so that O_NONBLOCK does not concern the shell.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "common/base/unique_fd.h"

namespace godwit {

class Terminal {
 public:
  // Nothing when `fd` is no terminal or can't be opened again.
  static std::optional<Terminal> try_open(int fd);

  // To be written in order, as far as the terminal takes it now; the rest goes with what comes
  // later. False: it was left out, because too much has piled up or nobody is there any more.
  bool put(std::string_view text);
  // The same if all that came before has been taken; otherwise this is left out. Returns whether it
  // was taken over.
  bool offer(std::string_view text);
  // Waits for the rest to be taken, at most until the deadline (CLOCK_MONOTONIC).
  void drain(std::int64_t deadline_ns);

  // As of now; 80 and 24 when it does not tell.
  int columns() const;
  int rows() const;
  // A shell has put this program into the background: it should be modest then.
  bool in_background() const;
  // Writing has failed for good (hung up).
  bool gone() const { return gone_; }

 private:
  explicit Terminal(UniqueFd fd) : fd_(std::move(fd)) {}
  void flush();

  UniqueFd fd_;
  std::string pending_;
  bool gone_ = false;
};

}  // namespace godwit
