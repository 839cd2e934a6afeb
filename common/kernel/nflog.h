// Packets that a `log group N` rule of nftables hands out, whole (nfnetlink_log).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/base/unique_fd.h"

namespace godwit {

// One log group of the calling thread's network namespace. Packets wait in the socket's buffer
// until they are taken; what does not fit is lost and counted.
class NflogGroup {
 public:
  // Takes the first free group from `first` on. Throws Error.
  NflogGroup(std::uint16_t first, std::size_t buffer_bytes);

  std::uint16_t number() const { return number_; }
  int fd() const { return fd_.get(); }  // readable when packets wait

  // Appends the packets that wait, from the IP header on, in the order of arrival. Never blocks.
  void take(std::vector<std::string>& packets);
  // Times that the buffer was full.
  std::uint64_t overflows() const { return overflows_; }

 private:
  bool try_bind(std::uint16_t group);
  int ask(std::uint16_t group, int attribute, const void* value, std::size_t bytes);

  UniqueFd fd_;
  std::uint16_t number_ = 0;
  std::uint64_t overflows_ = 0;
  std::string buffer_;
};

}  // namespace godwit
