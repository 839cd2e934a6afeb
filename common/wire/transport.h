// What carries the messages of a Channel: a connection to another agent, or something in this very
// program that answers as one (an image that is recorded or played).
//
// Deadlines, errors and threads as for Channel.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "proto/control.pb.h"

namespace godwit {

class Transport {
 public:
  Transport() = default;
  Transport(const Transport&) = delete;
  Transport& operator=(const Transport&) = delete;
  virtual ~Transport() = default;

  virtual void send(const proto::Envelope& envelope, std::int64_t deadline_ns) = 0;
  // Nothing when the other side has ended the conversation in an orderly way.
  virtual std::optional<proto::Envelope> try_receive(std::int64_t deadline_ns) = 0;
  // For poll(2); -1: there is nothing to wait for, pending() tells all.
  virtual int fd() const = 0;
  virtual bool pending() const = 0;
  virtual const std::string& peer_name() const = 0;
  virtual void close() noexcept = 0;
};

}  // namespace godwit
