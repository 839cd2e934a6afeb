// A pair of page servers as real processes, between the memories of two test children; never used
// outside *_test.cc.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <array>
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "common/base/clock.h"
#include "common/base/unique_fd.h"
#include "common/tracking/test_child.h"
#include "common/tracking/tracker_probe.h"
#include "common/tracking/write_protect_arm.h"
#include "common/wire/page_frame.h"
#include "common/wire/page_server_process.h"
#include "common/wire/test_certificates.h"

namespace godwit::testing {

inline constexpr Address kBase = 0x550000000000;
inline constexpr std::uint64_t kMiB = 1 << 20;

inline PageRange pages(std::uint64_t first, std::uint64_t count, Address base = kBase) {
  return {base + first * kPageSize, base + (first + count) * kPageSize};
}

inline std::int64_t in_seconds(int seconds) { return monotonic_ns() + seconds * 1'000'000'000LL; }

struct Connection {
  UniqueFd client;
  UniqueFd server;
};

inline Connection connect_loopback() {
  UniqueFd listener(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t bytes = sizeof(address);
  auto* raw = reinterpret_cast<sockaddr*>(&address);
  if (bind(listener.get(), raw, bytes) != 0 || listen(listener.get(), 1) != 0 ||
      getsockname(listener.get(), raw, &bytes) != 0) {
    throw_system("listen on loopback");
  }
  Connection connection;
  connection.client.reset(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (connect(connection.client.get(), raw, bytes) != 0) throw_system("connect");
  connection.server.reset(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  return connection;
}

struct Area {
  PageRange range;
  proto::PageArea::Kind kind = proto::PageArea::ANONYMOUS;
  bool fresh = true;
};

inline std::uint64_t status_kib(pid_t pid, const std::string& field) {
  const std::string text = read_file("/proc/" + std::to_string(pid) + "/status");
  const std::size_t at = text.find(field + ":");
  return at == std::string::npos ? 0
                                 : std::strtoull(text.c_str() + at + field.size() + 1, nullptr, 10);
}

class PageServerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!probe_write_protect()) GTEST_SKIP() << "no write-protect tracking on this kernel";
  }

  // Both servers connected, with one address space; the areas come later.
  void start(std::uint64_t bandwidth = 0) {
    connection_ = connect_loopback();
    start_source(connection_.client.get(), std::string(kPageTokenBytes, 't'), bandwidth);
    start_destination(connection_.server.get(), std::string(kPageTokenBytes, 't'));
    ASSERT_TRUE(source_.link().receive(in_seconds(10)).has_ready());
    ASSERT_TRUE(destination_.link().receive(in_seconds(10)).has_ready());
    add_spaces();
  }
  void start_source(int socket, const std::string& token, std::uint64_t bandwidth) {
    proto::PageOrder order;
    *order.mutable_start_source()->mutable_tls() = authority_.issue("source", "destination");
    order.mutable_start_source()->set_page_token(token);
    order.mutable_start_source()->set_bandwidth_bytes_per_s_max(bandwidth);
    order.mutable_start_source()->set_tracker(tracker_);
    order.mutable_start_source()->set_threads(threads_);
    source_.link().send(order, std::array{socket});
  }
  void start_destination(int socket, const std::string& token) {
    proto::PageOrder order;
    *order.mutable_start_dest()->mutable_tls() = authority_.issue("destination", "source");
    order.mutable_start_dest()->set_page_token(token);
    order.mutable_start_dest()->set_threads(threads_);
    destination_.link().send(order, std::array{socket});
  }
  void add_spaces() {
    track_ = have_.uffd(kUffdWriteProtectAsync | kUffdWriteProtectUnpopulated);
    fill_ = want_.uffd(0);
    proto::PageOrder order;
    order.mutable_add_space()->set_space(1);
    std::vector<int> source_fds{have_.memory_fd(), have_.pagemap_fd()};
    UniqueFd clear_refs;
    if (tracker_ == "soft-dirty") {
      clear_refs = open_file("/proc/" + std::to_string(have_.pid()) + "/clear_refs", O_WRONLY);
      source_fds.push_back(clear_refs.get());
    }
    source_.link().send(order, source_fds);
    destination_.link().send(order, std::array{want_.memory_fd(), fill_.get()});
  }

  // Arms at the source, registers at the destination, tells both.
  void set_areas(std::uint64_t generation, const std::vector<Area>& areas) {
    for (const Area& area : areas) {
      if (!area.fresh || area.kind == proto::PageArea::PRIVATE_FILE) continue;
      userfaultfd_register(fill_.get(), area.range, UFFDIO_REGISTER_MODE_MISSING);
    }
    for (const Area& area : areas) {
      if (!area.fresh) continue;
      EXPECT_TRUE(arm_write_protect(track_.get(), std::array{area.range}).empty());
    }
    tell_areas(source_, generation, areas);
    tell_areas(destination_, generation, areas);
  }
  static void tell_areas(PageServerProcess& server, std::uint64_t generation,
                         const std::vector<Area>& areas) {
    proto::PageOrder order;
    proto::SetAreas& set = *order.mutable_set_areas();
    set.set_space(1);
    set.set_generation(generation);
    for (const Area& area : areas) {
      proto::PageArea& added = *set.add_areas();
      added.set_start(area.range.start);
      added.set_end(area.range.end);
      added.set_kind(area.kind);
      added.set_fresh(area.fresh);
    }
    server.link().send(order);
  }

  void order_round(std::uint32_t number, std::uint64_t generation, bool final,
                   const std::vector<PageRange>& extra = {},
                   const std::vector<PageRange>& existing = {}) {
    proto::PageOrder order;
    proto::SendRound& round = *order.mutable_send_round();
    round.set_round(number);
    round.set_space(1);
    round.set_generation(generation);
    round.set_final(final);
    for (const PageRange& range : extra) {
      proto::PageSpan& span = *round.add_extra();
      span.set_start(range.start);
      span.set_end(range.end);
    }
    for (const PageRange& range : existing) {
      proto::PageSpan& span = *round.add_existing();
      span.set_start(range.start);
      span.set_end(range.end);
    }
    source_.link().send(order);
  }
  struct Round {
    proto::Scanned scanned;
    proto::RoundSent sent;
    proto::RoundReceived received;
  };
  Round finish_round(std::uint32_t number) {
    Round round;
    for (int missing = 2; missing > 0; --missing) {
      proto::PageReport report = source_.link().receive(in_seconds(60));
      while (report.has_round_progress() || report.has_answering_thread()) {
        report = source_.link().receive(in_seconds(60));
      }
      if (report.has_scanned()) round.scanned = report.scanned();
      if (report.has_round_sent()) round.sent = report.round_sent();
    }
    proto::PageReport there = destination_.link().receive(in_seconds(60));
    while (there.has_answering_thread()) there = destination_.link().receive(in_seconds(60));
    round.received = there.round_received();
    EXPECT_EQ(round.sent.round(), number);
    EXPECT_EQ(round.scanned.round(), number);
    EXPECT_EQ(round.received.round(), number);
    EXPECT_EQ(round.received.pages(), round.sent.pages());
    EXPECT_EQ(round.received.bytes(), round.sent.bytes());
    return round;
  }
  Round send_round(std::uint32_t number, std::uint64_t generation, bool final,
                   const std::vector<PageRange>& extra = {},
                   const std::vector<PageRange>& existing = {}) {
    order_round(number, generation, final, extra, existing);
    return finish_round(number);
  }
  // Missing pages would make a reader wait for the userfaultfd: it goes first.
  void expect_equal(const std::vector<PageRange>& ranges) {
    fill_.reset();
    destination_.quit(in_seconds(10));
    for (const PageRange& range : ranges) {
      EXPECT_TRUE(have_.read(range) == want_.read(range)) << std::hex << range.start;
    }
  }
  std::string failure_of(PageServerProcess& server) {
    try {
      while (server.link().try_receive(in_seconds(10))) {
      }
      return "no report in time";
    } catch (const Error& error) {
      return error.what();
    }
  }

  TestAuthority authority_;
  std::string tracker_ = "write-protect";
  std::uint32_t threads_ = 0;
  TestChild have_;
  TestChild want_;
  UniqueFd track_;
  UniqueFd fill_;
  Connection connection_;
  PageServerProcess source_ = PageServerProcess::spawn("source");
  PageServerProcess destination_ = PageServerProcess::spawn("destination");
};

}  // namespace godwit::testing
