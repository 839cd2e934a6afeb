// The whole handover of connections under load, with everything that takes part in it: packets held
// on both sides, addresses moved, stragglers forwarded. Clients check every byte in both
// directions.
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include <atomic>
#include <chrono>
#include <mutex>
#include <thread>

#include "common/base/clock.h"
#include "common/kernel/tcp_repair.h"
#include "common/network/addresses.h"
#include "common/network/network_fixture.h"
#include "common/network/packet_hold.h"
#include "dest-agent/restore/tcp_sockets.h"
#include "source-agent/capture/tcp_sockets.h"

namespace godwit {
namespace {

// The byte at a place of an endless stream that differs for each connection and direction.
char stream_byte(std::uint64_t at, std::uint64_t seed) {
  const std::uint64_t mixed = (at / 8 + seed) * 0x9e3779b97f4a7c15ULL;
  return static_cast<char>(mixed >> (8 * (at % 8)));
}

// One end of a connection: sends its stream and checks the other's, a step at a time.
struct End {
  UniqueFd fd;
  std::uint64_t own_seed = 0;
  std::uint64_t other_seed = 0;
  std::uint64_t sent = 0;
  std::uint64_t received = 0;
  std::uint64_t wrong = 0;
  bool failed = false;

  void step(std::size_t bytes) {
    std::string out(bytes, '\0');
    for (std::size_t index = 0; index < bytes; ++index)
      out[index] = stream_byte(sent + index, own_seed);
    const ssize_t taken = send(fd.get(), out.data(), out.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (taken > 0) sent += static_cast<std::uint64_t>(taken);
    if (taken < 0 && errno != EAGAIN) failed = true;
    drain();
  }
  void drain() {
    char in[65536];
    ssize_t got = 0;
    while ((got = recv(fd.get(), in, sizeof in, MSG_DONTWAIT)) > 0) {
      for (ssize_t index = 0; index < got; ++index) {
        if (in[index] != stream_byte(received++, other_seed)) ++wrong;
      }
    }
    if (got == 0 || (got < 0 && errno != EAGAIN)) failed = true;
  }
};

// Steps all ends until it is stopped, and can be paused like a frozen process.
class Worker {
 public:
  Worker(std::vector<End>& ends, std::size_t bytes)
      : thread_([this, &ends, bytes] {
          while (!over_) {
            {
              const std::lock_guard lock(mutex_);
              for (End& end : ends) end.step(bytes);
            }
            std::this_thread::sleep_for(std::chrono::microseconds(500));
          }
        }) {}
  ~Worker() {
    over_ = true;
    thread_.join();
  }
  std::mutex& mutex() { return mutex_; }

 private:
  std::mutex mutex_;
  std::atomic<bool> over_ = false;
  std::thread thread_;
};

class Handover : public testing::TestWithParam<const char*> {
 protected:
  static constexpr int kConnections = 20;

  void connect_all() {
    const SocketAddress service(*IpAddress::from_text(GetParam()), 6379);
    network_.in("source", [&] {
      listener_ = UniqueFd(socket(service.family(), SOCK_STREAM | SOCK_CLOEXEC, 0));
      const int on = 1;
      setsockopt(listener_.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
      ASSERT_EQ(bind(listener_.get(), service.get(), service.size()), 0);
      ASSERT_EQ(listen(listener_.get(), 100), 0);
    });
    network_.in("client", [&] {
      for (std::uint64_t number = 0; number < kConnections; ++number) {
        End& client = clients_.emplace_back();
        client.fd = UniqueFd(socket(service.family(), SOCK_STREAM | SOCK_CLOEXEC, 0));
        ASSERT_EQ(connect(client.fd.get(), service.get(), service.size()), 0);
        End& server = servers_.emplace_back();
        server.fd = UniqueFd(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
        client.own_seed = server.other_seed = 2 * number;
        server.own_seed = client.other_seed = 2 * number + 1;
      }
    });
  }

  // Describes and captures everything; the "process" is paused.
  void capture(PacketHold& hold) {
    std::vector<proto::TcpSocket> described;
    EndpointSet endpoints;
    for (const End& server : servers_) described.push_back(capture_tcp_socket(server.fd.get()));
    described.push_back(capture_tcp_socket(listener_.get()));
    for (const proto::TcpSocket& socket : described) endpoints.add(socket);
    hold.activate(endpoints);
    for (std::size_t index = 0; index < servers_.size(); ++index) {
      do {
        capture_tcp_stream(servers_[index].fd.get(), described[index]);
      } while (tcp_stream_changed(servers_[index].fd.get(), described[index]));
    }
    sockets_ = std::move(described);
    endpoints_ = endpoints;
  }

  // What takes part at the destination, made before the blackout.
  struct Destination {
    explicit Destination(const std::string& id) : hold(id), incoming(id) { hold.prepare({}); }
    PacketHold hold;
    PacketReplay replay;
    IncomingAddresses incoming;
  };

  // As it may have been a moment before, and then taken back.
  static void finish_ahead(int fd, proto::TcpSocket socket) {
    if (!socket.has_stream()) return;
    constexpr std::uint32_t kBytesSince = 5000;
    proto::TcpStream& stream = *socket.mutable_stream();
    for (proto::TcpQueue* queue : {stream.mutable_receive(), stream.mutable_send()}) {
      queue->set_sequence(queue->sequence() - kBytesSince);
      queue->clear_bytes();
    }
    stream.set_unsent_bytes(0);
    stream.set_window_send_seq(stream.receive().sequence());
    stream.set_window_receive_update(stream.receive().sequence());
    finish_tcp_socket(fd, socket);
    EXPECT_EQ(tcp_facts(fd).state, TcpState::kEstablished);
    reset_tcp_socket(fd, socket);
    EXPECT_EQ(tcp_facts(fd).state, TcpState::kClose);
  }

  // The sockets of sockets_ at the destination, released, with the packets that came meanwhile.
  std::vector<UniqueFd> restore(Destination& dest,
                                const std::vector<proto::MovedAddress>& addresses,
                                PacketHold& source_hold) {
    std::vector<UniqueFd> moved;
    const std::int64_t start = monotonic_ns();
    for (const proto::TcpSocket& socket : sockets_) moved.push_back(prepare_tcp_socket(socket));
    const std::int64_t prepared = monotonic_ns();
    dest.hold.activate(endpoints_);
    const std::int64_t held = monotonic_ns();
    dest.incoming.add_silently(addresses, 60);
    for (std::size_t index = 0; index < moved.size(); ++index) {
      if (index % 2 == 0) finish_ahead(moved[index].get(), sockets_[index]);
      finish_tcp_socket(moved[index].get(), sockets_[index]);
    }
    const std::int64_t finished = monotonic_ns();
    dest.incoming.announce();
    dest.hold.let_out();
    const std::int64_t announced = monotonic_ns();
    for (std::size_t index = 0; index < moved.size(); ++index) {
      release_tcp_socket(moved[index].get(), sockets_[index], dest.replay);
    }
    const std::int64_t released = monotonic_ns();
    dest.hold.deactivate(dest.replay, source_hold.take());
    dest.incoming.keep();
    fmt::print(
        "prepare {:.2f} hold {:.2f} address+finish {:.2f} announce {:.2f} release {:.2f} ms\n",
        to_ms(prepared - start), to_ms(held - prepared), to_ms(finished - held),
        to_ms(announced - finished), to_ms(released - announced));
    return moved;
  }

  // The source's sockets are closed, and the servers go on with those of the destination.
  void go_on_with(std::vector<UniqueFd> moved) {
    for (End& server : servers_) server.fd.reset();
    listener_.reset();
    for (std::size_t index = 0; index < servers_.size(); ++index) {
      servers_[index].fd = std::move(moved[index]);
    }
    listener_ = std::move(moved.back());
  }

  // A client that connects in the blackout.
  UniqueFd connect_late(const IpAddress& address) {
    UniqueFd late;
    network_.in("client", [&] {
      late = UniqueFd(socket(address.family, SOCK_STREAM | SOCK_CLOEXEC, 0));
      const SocketAddress service(address, 6379);
      EXPECT_EQ(connect(late.get(), service.get(), service.size()), 0);
    });
    return late;
  }

  // Packets that still come to the source are taken to the destination.
  void forward_stragglers(PacketHold& source_hold, PacketReplay& replay) {
    for (int time = 0; time < 20; ++time) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
      const auto stragglers = source_hold.take();
      network_.in("dest", [&] { replay.inject_all(stragglers); });
    }
  }

  void expect_all_received() {
    for (std::size_t index = 0; index < servers_.size(); ++index) {
      EXPECT_EQ(servers_[index].wrong + clients_[index].wrong, 0U) << index;
      EXPECT_FALSE(servers_[index].failed || clients_[index].failed) << index;
      EXPECT_GT(servers_[index].received, 100000U) << index;
    }
    EXPECT_EQ(network_.run("dest", "nft list tables"), "");
    EXPECT_EQ(network_.run("source", "nft list tables"), "");
  }

  TestNetwork network_;
  UniqueFd listener_;
  std::vector<End> clients_;
  std::vector<End> servers_;
  std::vector<proto::TcpSocket> sockets_;
  EndpointSet endpoints_;
};

TEST_P(Handover, UnderLoadLosesNothingAndNobodyTimesOut) {
  connect_all();
  const std::string id = fmt::format("{:x}load", static_cast<unsigned>(getpid()));
  const IpAddress address = *IpAddress::from_text(GetParam());
  std::int64_t blackout = 0;
  UniqueFd late;
  const long before = network_.counter("client", "TcpExt", "TCPTimeouts");
  Worker clients(clients_, 1000);
  std::optional<Worker> servers(std::in_place, servers_, 1500);
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  network_.in("source", [&] {
    PacketHold source_hold(id + "s");
    source_hold.prepare({});
    OutgoingAddresses outgoing(id + "s");
    const auto addresses = describe_addresses({&address, 1});
    ASSERT_EQ(addresses.size(), 1U);
    std::optional<Destination> dest;
    network_.in("dest", [&] { dest.emplace(id + "d"); });
    servers->mutex().lock();  // the process is frozen
    const std::int64_t start = monotonic_ns();
    capture(source_hold);
    for (const End& server : servers_) freeze_tcp_stream(server.fd.get(), SocketBlock());
    freeze_tcp_stream(listener_.get(), SocketBlock());
    std::thread newcomer([&] { late = connect_late(address); });
    const std::int64_t captured = monotonic_ns();
    std::this_thread::sleep_for(std::chrono::milliseconds(20));  // what a long blackout would be
    std::vector<UniqueFd> moved;
    network_.in("dest", [&] { moved = restore(*dest, addresses, source_hold); });
    source_hold.activate_stragglers({&address, 1});
    outgoing.release(addresses);
    go_on_with(std::move(moved));
    servers->mutex().unlock();
    blackout = monotonic_ns() - start;
    fmt::print("{} connections, capture {:.2f} ms, blackout {:.2f} ms, 20 of them a pause\n",
               kConnections, to_ms(captured - start), to_ms(blackout));
    forward_stragglers(source_hold, dest->replay);
    newcomer.join();
    outgoing.finish();
    EXPECT_EQ(source_hold.overflows(), 0U);
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  const UniqueFd accepted(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  EXPECT_TRUE(accepted.valid()) << "the connection made during the blackout";
  servers.reset();
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  EXPECT_EQ(network_.counter("client", "TcpExt", "TCPTimeouts"), before);
  expect_all_received();
}

TEST_P(Handover, RollbackUnderLoadLosesNothing) {
  connect_all();
  const std::string id = fmt::format("{:x}roll", static_cast<unsigned>(getpid()));
  {
    Worker clients(clients_, 1000);
    Worker servers(servers_, 1500);
    network_.in("source", [&] {
      for (int time = 0; time < 5; ++time) {
        std::this_thread::sleep_for(std::chrono::milliseconds(50));
        PacketHold hold(id);
        hold.prepare({});
        PacketReplay replay;
        const std::lock_guard frozen(servers.mutex());
        capture(hold);
        if (time % 2 == 0) {  // it may fail before that, too
          for (const End& server : servers_) freeze_tcp_stream(server.fd.get(), SocketBlock());
        }
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
        const auto taken = hold.take();
        hold.let_out();
        for (std::size_t index = 0; index < servers_.size(); ++index) {
          thaw_tcp_stream(servers_[index].fd.get(), sockets_[index], replay);
        }
        hold.deactivate(replay, taken);
      }
    });
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  EXPECT_EQ(network_.counter("client", "TcpExt", "TCPTimeouts"), 0)
      << network_.run("client", "nstat -as | grep -E 'Tcp'");
  for (std::size_t index = 0; index < servers_.size(); ++index) {
    EXPECT_EQ(servers_[index].wrong + clients_[index].wrong, 0U) << index;
    EXPECT_FALSE(servers_[index].failed || clients_[index].failed) << index;
    EXPECT_GT(servers_[index].received, 100000U) << index;
  }
}

INSTANTIATE_TEST_SUITE_P(Families, Handover, testing::Values("10.77.0.5", "fd77::5"),
                         [](const auto& info) {
                           return std::string(info.param).find(':') == std::string::npos ? "v4"
                                                                                         : "v6";
                         });

}  // namespace
}  // namespace godwit
