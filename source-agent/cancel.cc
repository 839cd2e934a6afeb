#include "source-agent/cancel.h"

#include <array>
#include <atomic>

namespace godwit {
namespace {

constexpr std::array kCancelling{SIGINT, SIGTERM, SIGHUP};
constexpr std::array kStopping{SIGTSTP, SIGTTOU, SIGTTIN};

std::atomic<int>& noted_signal() {
  static std::atomic<int> noted{0};
  return noted;
}

void note(int number) { noted_signal() = number; }

}  // namespace

CancelSignals::CancelSignals() {
  noted_signal() = 0;
  struct sigaction action {};
  sigset_t blocked;
  sigemptyset(&blocked);
  for (const int number : kCancelling) {
    ::sigaction(number, nullptr, &old_actions_[number]);
    if (number == SIGHUP && old_actions_[number].sa_handler == SIG_IGN) continue;
    action.sa_handler = note;
    ::sigaction(number, &action, nullptr);
    sigaddset(&blocked, number);
  }
  for (const int number : kStopping) {
    action.sa_handler = SIG_IGN;
    ::sigaction(number, &action, &old_actions_[number]);
  }
  ::pthread_sigmask(SIG_BLOCK, &blocked, &old_mask_);
}

CancelSignals::~CancelSignals() {
  // What has come too late is noted now, and so doesn't end the program.
  ::pthread_sigmask(SIG_SETMASK, &old_mask_, nullptr);
  for (const int number : kCancelling) ::sigaction(number, &old_actions_[number], nullptr);
  for (const int number : kStopping) ::sigaction(number, &old_actions_[number], nullptr);
}

sigset_t cancel_wait_mask() {
  sigset_t mask;
  ::pthread_sigmask(SIG_BLOCK, nullptr, &mask);
  for (const int number : kCancelling) sigdelset(&mask, number);
  return mask;
}

int cancel_requested() {
  if (const int noted = noted_signal()) return noted;
  sigset_t pending;
  if (::sigpending(&pending) != 0) return 0;
  for (const int number : kCancelling) {
    if (sigismember(&pending, number) == 1) return number;
  }
  return 0;
}

void throw_if_cancelled() {
  const int number = cancel_requested();
  if (number == 0) return;
  if (number == SIGHUP) {
    throw Cancelled("cancelled: the terminal went away (SIGHUP)", 0,
                    "start it with nohup to let it outlive its terminal");
  }
  throw Cancelled(number == SIGTERM ? "cancelled by SIGTERM" : "cancelled by the operator");
}

}  // namespace godwit
