#include "common/model/snapshot_check.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/mman.h>

#include <functional>
#include <random>

#include "common/base/error.h"
#include "common/model/snapshot.h"

namespace godwit {
namespace {

using ::testing::HasSubstr;

proto::Snapshot example() {
  proto::Snapshot snapshot;
  snapshot.set_version(kSnapshotVersion);
  proto::Process& process = *snapshot.add_processes();
  process.mutable_identity()->set_pid(12);
  process.mutable_identity()->set_host_pid(1200);
  process.mutable_identity()->set_executable("/usr/bin/redis-server");
  for (const int tid : {12, 13}) {
    proto::Thread& thread = *process.add_threads();
    thread.set_tid(tid);
    thread.set_general_registers(std::string(216, 'r'));
    thread.set_vector_registers(std::string(832, 'v'));
    thread.set_vector_bytes(11008);
    thread.set_comm("redis-server");
  }
  proto::Mapping& text = *process.mutable_mappings()->add_areas();
  text.set_start(0x1000);
  text.set_end(0x3000);
  text.set_protection(PROT_READ | PROT_EXEC);
  text.set_backing(proto::BACKING_FILE);
  process.mutable_mappings()->add_files()->set_path("/usr/bin/redis-server");
  proto::Mapping& heap = *process.mutable_mappings()->add_areas();
  heap.set_start(0x3000);
  heap.set_end(0x4000);
  heap.set_protection(PROT_READ | PROT_WRITE);
  heap.set_backing(proto::BACKING_ANONYMOUS);
  heap.set_flags(proto::AREA_LOCKED | proto::AREA_DONT_DUMP);
  proto::OpenFile& log = *process.mutable_fd_table()->add_files();
  log.set_id(3);
  log.mutable_regular_file()->set_path("/var/log/redis.log");
  for (const int fd : {3, 4}) {
    proto::Descriptor& descriptor = *process.mutable_fd_table()->add_descriptors();
    descriptor.set_fd(fd);
    descriptor.set_file(3);
  }
  process.mutable_signals()->add_actions()->set_signal(SIGTERM);
  process.mutable_timers();
  process.mutable_credentials();
  proto::Rlimit& limit = *process.mutable_rlimits()->add_limits();
  limit.set_resource(7);
  limit.set_soft(1024);
  limit.set_hard(~0ULL);
  process.mutable_filesystem_context()->set_working_directory("/");
  process.mutable_filesystem_context()->set_root("/");
  process.mutable_attributes();
  return snapshot;
}

TEST(CheckSnapshot, TakesAWholeDescription) {
  EXPECT_NO_THROW(check_snapshot(example(), SnapshotPart::kWhole));
}

TEST(CheckSnapshot, TakesAnOutlineWithoutRegisters) {
  proto::Snapshot outline = example();
  outline.mutable_processes(0)->clear_threads();
  outline.mutable_processes(0)->clear_rlimits();
  EXPECT_NO_THROW(check_snapshot(outline, SnapshotPart::kOutline));
  EXPECT_THROW(check_snapshot(outline, SnapshotPart::kWhole), Error);
}

struct Damage {
  std::string name;
  std::function<void(proto::Process&)> make;
  std::string story;  // part of what is said
};

void PrintTo(const Damage& damage, std::ostream* out) { *out << damage.name; }

class CheckSnapshotDamage : public ::testing::TestWithParam<Damage> {};

TEST(CheckSnapshot, RegistersComeWithTheThreadsOfABrace) {
  proto::Snapshot snapshot = example();
  auto& threads = *snapshot.mutable_processes(0)->mutable_threads();
  EXPECT_NO_THROW(check_threads(threads));
  threads.at(1).clear_general_registers();
  EXPECT_NO_THROW(check_snapshot(snapshot, SnapshotPart::kWhole));
  EXPECT_THROW(check_threads(threads), Error);
}

TEST_P(CheckSnapshotDamage, IsNamed) {
  proto::Snapshot snapshot = example();
  GetParam().make(*snapshot.mutable_processes(0));
  try {
    check_snapshot(snapshot, SnapshotPart::kWhole);
    FAIL() << "it was taken";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), EPROTO);
    EXPECT_THAT(error.what(), HasSubstr(GetParam().story));
  }
}

using P = proto::Process;

proto::OpenFile& add_file(P& process) {
  proto::OpenFile& file = *process.mutable_fd_table()->add_files();
  file.set_id(9);
  return file;
}

INSTANTIATE_TEST_SUITE_P(
    Identity, CheckSnapshotDamage,
    ::testing::Values(
        Damage{"NoIdentity", [](P& p) { p.clear_identity(); }, "no identity"},
        Damage{"PidZero", [](P& p) { p.mutable_identity()->set_pid(0); }, "0 is no process id"},
        Damage{"PidHuge", [](P& p) { p.mutable_identity()->set_pid(1 << 30); }, "no process id"},
        Damage{"RelativePath", [](P& p) { p.mutable_identity()->set_executable("a/b"); }, "'a/b'"},
        Damage{"PathWithNul",
               [](P& p) { p.mutable_identity()->set_executable(std::string("/a\0b", 4)); },
               "no absolute path"},
        Damage{"NoThreads", [](P& p) { p.clear_threads(); }, "no threads"},
        Damage{"ThreadTwice", [](P& p) { p.mutable_threads(1)->set_tid(12); }, "twice"},
        Damage{"LeaderNotFirst", [](P& p) { p.mutable_threads()->SwapElements(0, 1); },
               "the first thread is 13"},
        Damage{"LongComm", [](P& p) { p.mutable_threads(0)->set_comm("sixteen letters!"); },
               "name of 16 bytes"},
        Damage{"ShortSiginfo", [](P& p) { p.mutable_signals()->add_pending()->set_siginfo("abc"); },
               "3 bytes"},
        Damage{"SignalZero", [](P& p) { p.mutable_signals()->add_actions()->set_signal(0); },
               "0 is no signal"},
        Damage{"Signal65", [](P& p) { p.mutable_signals()->add_actions()->set_signal(65); },
               "65 is no signal"},
        Damage{"LimitNumber",
               [](P& p) { p.mutable_rlimits()->mutable_limits(0)->set_resource(99); },
               "resource limit 99"},
        Damage{"LimitOrder", [](P& p) { p.mutable_rlimits()->mutable_limits(0)->set_hard(1); },
               "1024 of 1"},
        Damage{"NoAttributes", [](P& p) { p.clear_attributes(); }, "parts are missing"}),
    [](const auto& info) { return info.param.name; });

proto::Mapping& area(P& process, int index) {
  return *process.mutable_mappings()->mutable_areas(index);
}

INSTANTIATE_TEST_SUITE_P(
    Mappings, CheckSnapshotDamage,
    ::testing::Values(
        Damage{"Unaligned", [](P& p) { area(p, 1).set_start(0x3001); }, "no range of pages"},
        Damage{"Backwards", [](P& p) { area(p, 1).set_end(0x2000); }, "no range of pages"},
        Damage{"InTheKernel", [](P& p) { area(p, 1).set_end(~0ULL << 12); }, "no range of pages"},
        Damage{"Overlapping", [](P& p) { area(p, 0).set_end(0x4000); }, "overlapping"},
        Damage{"Protection", [](P& p) { area(p, 0).set_protection(0x80); }, "protection 0x80"},
        Damage{"Flags", [](P& p) { area(p, 0).set_flags(1ULL << 40); }, "flags"},
        Damage{"Offset", [](P& p) { area(p, 0).set_offset(7); }, "offset 7"},
        Damage{"FileIndex", [](P& p) { area(p, 0).set_file(1); }, "file 1 of 1"},
        Damage{"Backing", [](P& p) { area(p, 0).clear_backing(); }, "backing 0"},
        Damage{"SharedAnonymous", [](P& p) { area(p, 1).set_shared(true); }, "that is shared"},
        Damage{"NoAreas", [](P& p) { p.mutable_mappings()->clear_areas(); }, "parts are missing"},
        Damage{"Auxv", [](P& p) { p.mutable_mappings()->mutable_marks()->set_auxv("abc"); },
               "auxiliary vector"}),
    [](const auto& info) { return info.param.name; });

INSTANTIATE_TEST_SUITE_P(
    Files, CheckSnapshotDamage,
    ::testing::Values(
        Damage{"NoKind", [](P& p) { add_file(p); }, "open file 9: no kind"},
        Damage{"FileTwice",
               [](P& p) { *p.mutable_fd_table()->add_files() = p.fd_table().files(0); }, "twice"},
        Damage{"FdTwice", [](P& p) { p.mutable_fd_table()->mutable_descriptors(1)->set_fd(3); },
               "descriptor 3 is there twice"},
        Damage{"FdNegative", [](P& p) { p.mutable_fd_table()->mutable_descriptors(1)->set_fd(-1); },
               "descriptor -1"},
        Damage{"Dangling", [](P& p) { p.mutable_fd_table()->mutable_descriptors(1)->set_file(8); },
               "open file 8 is not there"},
        Damage{"NegativeOffset",
               [](P& p) {
                 p.mutable_fd_table()->mutable_files(0)->mutable_regular_file()->set_offset(-1);
               },
               "negative offset"},
        Damage{"Packets",
               [](P& p) {
                 proto::PipeEnd& pipe = *add_file(p).mutable_pipe_end();
                 pipe.set_packet_mode(true);
                 pipe.set_contents("abc");
                 pipe.add_packets(4);
               },
               "packets of 4 bytes, 3 bytes"},
        Damage{"EpollTarget", [](P& p) { add_file(p).mutable_epoll()->add_targets()->set_fd(-5); },
               "target -5"},
        Damage{"TcpFamily", [](P& p) { add_file(p).mutable_tcp_socket()->set_family(1); },
               "address family 1"},
        Damage{"TcpAddress",
               [](P& p) {
                 add_file(p).mutable_tcp_socket()->set_family(AF_INET6);
                 p.mutable_fd_table()->mutable_files(1)->mutable_tcp_socket()->set_local_address(
                     std::string(16, 'a'));
               },
               "an address of 16 bytes"},
        Damage{"TcpUnsent",
               [](P& p) {
                 proto::TcpSocket& socket = *add_file(p).mutable_tcp_socket();
                 socket.set_family(AF_INET);
                 socket.mutable_stream()->set_unsent_bytes(5);
               },
               "5 unsent bytes of 0"},
        Damage{"UdpFamily", [](P& p) { add_file(p).mutable_udp_socket(); }, "address family 0"}),
    [](const auto& info) { return info.param.name; });

TEST(CheckSnapshot, TakesOrRefusesDamagedBytes) {
  const std::string good = example().SerializeAsString();
  std::mt19937 random(17);
  int refused = 0;
  for (int turn = 0; turn < 3000; ++turn) {
    std::string bytes = good;
    for (unsigned flips = 1 + random() % 3; flips > 0; --flips) {
      bytes[random() % bytes.size()] ^= static_cast<char>(1 << (random() % 8));
    }
    proto::Snapshot snapshot;
    if (!snapshot.ParseFromString(bytes)) continue;
    try {
      check_snapshot(snapshot, SnapshotPart::kWhole);
      check_threads(snapshot.processes(0).threads());
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), EPROTO) << error.what();
      ++refused;
    }
  }
  EXPECT_GT(refused, 100);
}

TEST(CheckSnapshot, RefusesOtherVersionsAndTrees) {
  proto::Snapshot snapshot = example();
  snapshot.set_version(0);
  EXPECT_THROW(check_snapshot(snapshot, SnapshotPart::kWhole), Error);
  snapshot.set_version(kSnapshotVersion + 1);
  EXPECT_THROW(check_snapshot(snapshot, SnapshotPart::kWhole), Error);
  snapshot = example();
  *snapshot.add_processes() = snapshot.processes(0);
  EXPECT_THROW(check_snapshot(snapshot, SnapshotPart::kWhole), Error);
  EXPECT_THROW(check_snapshot({}, SnapshotPart::kOutline), Error);
}

}  // namespace
}  // namespace godwit
