// The other end of a checkpoint's conversation: answers the messages of a migration as a
// destination would, and keeps what they say for the image. What earlier messages said and later
// ones rely on is put together to one whole description.
//
//   Hello, PreflightRequest, Describe*, Brace, Streams*, Final -> Prepared
//   Commit -> writes what is left, gives the image its name -> Committed
//
// Answers are there at once: send() makes them. docs/decisions/0014.
#pragma once

#include <deque>
#include <map>
#include <string>

#include "common/image/image_target.h"
#include "common/wire/transport.h"

namespace godwit {

class Recorder final : public Transport {
 public:
  // Borrows `target`, whose pages the page server writes and has finished before Commit comes.
  // `manifest`: what is known beforehand (base, compression).
  Recorder(ImageTarget& target, proto::ImageManifest manifest);

  // Throws Error for what can't be recorded or written.
  void send(const proto::Envelope& envelope, std::int64_t deadline_ns) override;
  std::optional<proto::Envelope> try_receive(std::int64_t deadline_ns) override;
  int fd() const override { return -1; }
  bool pending() const override { return !answers_.empty(); }
  const std::string& peer_name() const override { return name_; }
  void close() noexcept override {}

  // The page server has finished its files.
  void note_pages(std::uint64_t data_pages, std::uint64_t base_pages);

 private:
  template <typename Body>
  void answer(Body body);
  void greet();
  void preflight(const proto::PreflightRequest& request);
  void describe(const proto::Snapshot& snapshot);
  void read_clocks(const proto::ClockReading& reading);
  void take_final(const proto::Snapshot& snapshot);
  void correct(const proto::Corrections& corrections);
  void commit();

  ImageTarget& target_;
  proto::ImageManifest manifest_;
  proto::ImageState state_;
  std::string name_;
  std::deque<proto::Envelope> answers_;
  std::map<std::int32_t, proto::Thread> threads_;  // as Brace had them
  std::map<std::uint32_t, proto::OpenFile> streams_;
  google::protobuf::RepeatedPtrField<proto::HugePages> huge_pages_;
  std::int64_t monotonic_ahead_ns_ = 0;  // the process's clocks, of this host's
  std::int64_t boottime_ahead_ns_ = 0;
  bool pages_noted_ = false;
};

}  // namespace godwit
