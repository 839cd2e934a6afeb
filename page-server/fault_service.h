// The destination's half of post-copy: page faults of the restored process are asked for over a
// connection of their own, and what comes over either connection is placed. Or both come out of an
// image.
//
// One thread waits for faults and answers; the receiver of the page connection, or the reader of
// the image, places what comes there. Both go through one lock, held for a piece of a frame at a
// time.
//
// Without a connection for faults, after resume(), it does what needs no source: memory that is
// touched for the first time, and changes of the layout.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <optional>

#include "common/base/unique_fd.h"
#include "common/wire/page_frame.h"
#include "common/wire/page_service_link.h"
#include "common/wire/tls_stream.h"
#include "page-server/background_turns.h"
#include "page-server/image_answers.h"
#include "page-server/lazy_memory.h"

namespace godwit {

class FaultService {
 public:
  // `link` must outlive this, which never ends: its thread ends with the process.
  explicit FaultService(PageServiceLink& link);

  // The connection for faults, accepted and shown to belong to this migration.
  void connect(TlsStream stream);
  // Instead of a connection, before anything is served: faults are answered out of this image.
  void answer_from(const ImagePages& image);
  // Goes on for another page server.
  void resume(std::vector<LazyMemory::Held> held, MissingLedger ledger);
  // What is missing now: the answer to ResumeSpaces and NameMissing.
  proto::StillMissing name_missing() const;
  // The answer to PoisonMissing; when nothing is missing any more the thread says so and ends.
  proto::MissingPoisoned poison();
  // From now on faults of this address space are served.
  void serve(std::uint32_t space, UniqueFd uffd, PageBitmap missing, MissingLedger ledger);
  // Frames of the page connection are for it.
  bool serves(std::uint32_t space) const;
  // From the thread that receives the page connection.
  void place(const PageFrame& frame);
  // From the one that reads an image: whether some of these pages are missing; pages that it read;
  // pages that it can't read, of which the agent is told.
  bool misses(std::uint32_t space, const PageRange& range) const;
  void place(std::uint32_t space, const PageRange& range, const std::byte* data);
  void lose(std::uint32_t space, const PageRange& range, const Error& why);
  // Faults that follow each other closely go first, within limits.
  void await_background_turn() { turns_.take(); }

 private:
  void open_signal();
  void start();
  void wake_thread();
  // A connection that has come since.
  void take_connection();
  void tell_child(std::uint32_t parent, int uffd);
  void run();
  // Waits for a fault, an event, an answer, or somebody who has placed pages.
  bool wait_for_answer();
  void ask();
  void answer_from_image(const FaultRequest& request);
  // Placed by another thread: this one may have something to do, or be done.
  void tell_placed();
  void place_piecewise(std::uint32_t space, const PageRange& range, const std::byte* data);
  std::unique_lock<std::mutex> take_turn();
  void place_pieces(const PageFrame& frame);
  void report();
  bool is_done();

  PageServiceLink& link_;
  UniqueFd placed_;  // an eventfd, once there is something to serve: the receiver has read events
                     // too, or placed the last page
  std::optional<TlsStream> stream_;    // the thread's
  std::optional<ImageAnswers> image_;  // instead
  BackgroundTurns turns_;              // of who reads the image
  PageFrame answer_;
  std::mutex next_;  // held while waiting for the other one
  mutable std::mutex mutex_;
  std::optional<TlsStream> arrived_;    // until the thread takes it; guarded by mutex_
  LazyMemory memory_;                   // guarded by mutex_
  bool running_ = false;                // guarded by mutex_
  bool complete_ = false;               // guarded by mutex_
  std::size_t polled_ = 0;              // address spaces; guarded by mutex_
  std::uint64_t faults_ = 0;            // guarded by mutex_
  std::uint64_t fault_bytes_ = 0;       // guarded by mutex_
  std::uint64_t background_bytes_ = 0;  // guarded by mutex_
  bool connected_ = false;              // by whoever gives orders
  std::int64_t reported_ns_ = 0;
};

}  // namespace godwit
