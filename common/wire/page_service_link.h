// The link between an agent and its page server: proto/page_service.proto over a private socket
// pair (unix(7)), descriptors alongside as SCM_RIGHTS.
//
// A stream with lengths in front, not SOCK_SEQPACKET: the areas of a process with tens of thousands
// of mappings are larger than the kernel lets one packet be. Descriptors travel with the first byte
// of their message.
//
// A page server that is busy with a round reads its next order after it: send orders between rounds
// (the socket buffers hold an order of some 100,000 areas, so that send() does not wait even then).
//
// Thread: sending is safe from several threads, receiving is one thread's.
#pragma once

#include <google/protobuf/message_lite.h>
#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <mutex>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "common/base/unique_fd.h"
#include "common/wire/tls_stream.h"
#include "proto/page_service.pb.h"

namespace godwit {

class PageServiceLink {
 public:
  struct Order {
    proto::PageOrder order;
    std::vector<UniqueFd> fds;  // in the order that the message names them
  };

  static std::pair<UniqueFd, UniqueFd> make_sockets();
  explicit PageServiceLink(UniqueFd socket) : socket_(std::move(socket)) {}

  // --- The agent's end. `server` gets the precedence that its threads ask for (AnsweringThread)
  // when such a report is received; nobody else has to do anything about it.
  void lend_precedence_to(pid_t server) { server_ = server; }
  // Errors: ETIMEDOUT; ECONNRESET: the page server is gone without a word; the
  // story of its Failed report.
  //
  // The descriptors are duplicated; the caller keeps its own.
  void send(const proto::PageOrder& order, std::span<const int> fds = {},
            std::int64_t deadline_ns = kNoDeadline);
  // The next report; a Failed one is thrown as an Error that tells its story.
  // `fds`: takes the descriptors that came along.
  proto::PageReport receive(std::int64_t deadline_ns, std::vector<UniqueFd>* fds = nullptr);
  // The same; nothing when none has come by then.
  std::optional<proto::PageReport> try_receive(std::int64_t deadline_ns,
                                               std::vector<UniqueFd>* fds = nullptr);

  // --- The page server's end
  // ------------------------------------------------------------------------
  void send(const proto::PageReport& report, std::span<const int> fds = {});
  // True from when a Failed report is on its way.
  bool has_failed() const { return failed_; }
  // Nothing when the agent closed its end. Waits as long as it takes.
  std::optional<Order> receive_order();

  // For poll(2): readable means that a report (an order) is there or the peer is gone.
  int fd() const { return socket_.get(); }

 private:
  void send_message(const google::protobuf::MessageLite& message, std::span<const int> fds,
                    std::int64_t deadline_ns);
  bool wait(short events, std::int64_t deadline_ns) const;
  // False at the end of the stream before the first byte.
  bool receive_message(google::protobuf::MessageLite& message, std::vector<UniqueFd>* fds);
  bool receive_header(std::uint64_t& bytes, std::vector<UniqueFd>* fds);

  pid_t server_ = -1;
  UniqueFd socket_;
  std::mutex sending_;
  std::atomic<bool> failed_{false};
};

}  // namespace godwit
