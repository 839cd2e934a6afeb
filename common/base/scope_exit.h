// Runs a duty when the scope ends, unless dismissed.
#pragma once

#include <utility>

namespace godwit {

template <typename Duty>
class ScopeExit {
 public:
  explicit ScopeExit(Duty duty) : duty_(std::move(duty)) {}
  ScopeExit(const ScopeExit&) = delete;
  ScopeExit& operator=(const ScopeExit&) = delete;
  ~ScopeExit() {
    if (armed_) duty_();
  }
  void dismiss() { armed_ = false; }

 private:
  Duty duty_;
  bool armed_ = true;
};

}  // namespace godwit
