#include "dest-agent/incoming.h"

#include <poll.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/signal.h>
#include <unistd.h>

#include <algorithm>
#include <ctime>
#include <filesystem>

#include "common/base/clock.h"
#include "common/base/error.h"
#include "common/base/log.h"
#include "common/base/steady_heap.h"
#include "common/model/describe.h"
#include "common/model/host_features.h"
#include "common/model/snapshot.h"
#include "common/model/snapshot_check.h"
#include "common/model/vdso_image.h"
#include "common/model/workload.h"
#include "dest-agent/arrival.h"
#include "dest-agent/clocks.h"
#include "dest-agent/preflight.h"

namespace godwit {
namespace {

constexpr std::size_t kTokenBytes = 32;
constexpr std::int64_t kRoundTimeoutNs = 30'000'000'000;  // of the last one, after others
constexpr std::int64_t kOnlyRoundTimeoutNs = 3600LL * 1'000'000'000;

std::string random_token() {
  std::string token(kTokenBytes, '\0');
  if (::getrandom(token.data(), token.size(), 0) != static_cast<ssize_t>(token.size())) {
    throw_system("random token");
  }
  return token;
}

// godwit-init stands beside this program.
std::string init_program() {
  return std::filesystem::path(read_link("/proc/self/exe")).parent_path() / "godwit-init";
}

// A descriptor number for the agent's pidfd in the skeleton: out of the program's way.
int choose_agent_pidfd(const proto::Process& process) {
  int highest = 0;
  for (const proto::Descriptor& descriptor : process.fd_table().descriptors()) {
    highest = std::max(highest, descriptor.fd());
  }
  constexpr int kDistance = 256;
  return highest + kDistance;
}

const proto::Process& only_process(const proto::Snapshot& snapshot) {
  if (snapshot.version() != kSnapshotVersion) {
    throw Error(fmt::format("the source describes in version {}, this host reads version {}",
                            snapshot.version(), kSnapshotVersion))
        .with_hint("install the same release on both hosts");
  }
  if (snapshot.processes_size() != 1) {
    fail("the description has {} processes", snapshot.processes_size());
  }
  return snapshot.processes(0);
}

// Out of the message, which nobody needs any more.
std::shared_ptr<proto::Process> take_process(proto::Snapshot& snapshot) {
  only_process(snapshot);
  auto process = std::make_shared<proto::Process>();
  process->Swap(snapshot.mutable_processes(0));
  return process;
}

// Final names connections whose description came before it. What is left in `streams` has been
// there since before the blackout.
void join_streams(std::map<std::uint32_t, proto::TcpSocket>& streams, proto::FdTable& fd_table) {
  for (proto::OpenFile& file : *fd_table.mutable_files()) {
    if (file.kind_case() != proto::OpenFile::kInStreams) continue;
    const auto stream = streams.find(file.id());
    if (stream == streams.end()) fail("fd {}: its description did not come", file.id());
    file.mutable_tcp_socket()->Swap(&stream->second);
    streams.erase(stream);
  }
}

std::vector<PageRange> stale_of(const proto::RoundReceived& round) {
  std::vector<PageRange> stale;
  for (const proto::PageSpan& span : round.stale()) stale.push_back({span.start(), span.end()});
  return stale;
}

}  // namespace

Incoming::Incoming(const DestOptions& options, const KeyFolder& keys, Channel& control,
                   const proto::Hello& hello, int daemon)
    : options_(options),
      keys_(keys),
      control_(control),
      hello_(hello),
      check_only_(hello.check_only()),
      page_token_(random_token()),
      journal_(options.state_dir),
      network_(hello.migration_id(), hello.addresses()),
      post_copy_(daemon) {
  record_.migration_id = hello.migration_id();
  record_.role = "destination";
  if (const auto mark = try_mark_process(::getpid())) record_.agent = *mark;
  proto::HelloAnswer answer;
  answer.set_version(kProtocolVersion);
  *answer.mutable_destination() = read_host_features();
  answer.set_page_token(page_token_);
  control_.send_body(answer);
}

Incoming::~Incoming() {
  if (committed_) return;
  try {
    skeleton_.reset();
    nursery_.reset();
    network_.remove();
    group_.reset();  // ends what is in it while it is frozen; never thaws it
    if (!record_.cgroup_path.empty()) journal_.remove(record_);
  } catch (const std::exception& error) {
    // The journal stays: the daemon recovers from it when this session has ended.
    log_error("migration={} removing what was built: {}", hello_.migration_id(), error.what());
  }
}

void Incoming::preflight(const proto::PreflightRequest& request) {
  only_process(request.snapshot());
  check_snapshot(request.snapshot(), SnapshotPart::kOutline);
  Findings findings;
  if (hello_.version() != kProtocolVersion) {
    refuse(findings, "version-differs", "protocol",
           fmt::format("the source speaks version {}, the destination {}", hello_.version(),
                       kProtocolVersion),
           "install the same release on both hosts");
  }
  compare_features(hello_.source(), read_host_features(),
                   hello_.ignore_processor() ? ProcessorCheck::kIgnore : ProcessorCheck::kRequire,
                   findings);
  if (!keys_.certificate_pem.empty()) {
    if (auto soon = expiry_warning(keys_, ::time(nullptr))) findings.push_back(std::move(*soon));
  }
  pids_ = preflight_destination(request, hello_, findings);
  network_.preflight(request, findings);
  if (request.has_workload()) {
    record_.registry = options_.registry;
    record_.workload = preflight_arrival(WorkloadFolder(options_.registry), request.workload(),
                                         control_, findings);
  }
  proto::PreflightAnswer answer;
  for (proto::Finding& finding : findings) *answer.add_findings() = std::move(finding);
  answer.set_pids(pids_);
  control_.send_body(answer);
}

int Incoming::page_link_fd() { return pages_ ? pages_->link().fd() : -1; }

void Incoming::start_pages(UniqueFd connection) {
  if (!connection.valid()) return;
  if (pages_) {
    log_warning("migration={} a second page connection was refused", hello_.migration_id());
    return;
  }
  pages_.emplace(PageServerProcess::spawn("destination"));
  proto::PageOrder order;
  *order.mutable_start_dest()->mutable_tls() = to_tls_material(keys_);
  order.mutable_start_dest()->set_page_token(page_token_);
  const int descriptors[] = {connection.get()};
  pages_->link().send(order, descriptors);
  if (fault_connection_.valid()) start_faults(std::move(fault_connection_));
}

void Incoming::start_faults(UniqueFd connection) {
  if (!pages_) {
    fault_connection_ = std::move(connection);
    return;
  }
  proto::PageOrder order;
  *order.mutable_start_faults()->mutable_tls() = to_tls_material(keys_);
  order.mutable_start_faults()->set_page_token(page_token_);
  const int descriptors[] = {connection.get()};
  pages_->link().send(order, descriptors);
}

void Incoming::play(const std::vector<ImageLevel>& levels, const proto::PlayImage& order) {
  plays_ = true;
  pages_.emplace(PageServerProcess::spawn("player"));
  send_image(pages_->link(), levels, order);
}

void Incoming::describe(proto::Snapshot& snapshot) {
  check_snapshot(snapshot, SnapshotPart::kWhole);
  std::shared_ptr<proto::Process> process = take_process(snapshot);
  if (!skeleton_) {
    build(std::move(process));
    give_heap_back();
  } else {
    network_.hold(process->fd_table());
    skeleton_->reconcile(std::move(process));
  }
  publish_areas(snapshot.generation());
  proto::Reconciled answer;
  answer.set_generation(snapshot.generation());
  answer.set_host_pid(skeleton_->host_pid());
  control_.send_body(answer);
}

void Incoming::build(std::shared_ptr<proto::Process> wanted) {
  const proto::Process& process = *wanted;
  if (!pages_) fail("the page connection did not come before the first description");
  NurseryOptions nursery;
  nursery.own_pid_namespace = pids_ == "namespace";
  nursery.time_offsets = measure_clocks(control_);
  nursery.agent_pidfd = choose_agent_pidfd(process);
  nursery.program = init_program();
  // Before there is anything that somebody else would have to remove.
  record_.cgroup_path = FreezerGroup::path_of_new(hello_.migration_id());
  write_journal(State::kBuilding);
  group_.emplace(FreezerGroup::create(hello_.migration_id()));
  huge_pages_.take(process);
  network_.hold(process.fd_table());
  record_.nft_table = network_.table();
  nursery.group = group_->path();
  nursery_.emplace(nursery);
  skeleton_.emplace(*nursery_, std::move(wanted), nursery.agent_pidfd,
                    bytes_of(hello_.source().vdso_image()));
  // A killed session takes the skeleton along by ptrace as long as it may; the nursery must not.
  nursery_->let_live();
  if (const auto mark = try_mark_process(skeleton_->host_pid())) record_.process = *mark;
  write_journal(State::kBuilding);
  status_.open(journal_, record_);
  status_.enter(State::kBuilding);
  proto::PageOrder order;
  order.mutable_add_space()->set_space(0);
  const int descriptors[] = {skeleton_->task().memory_fd(), skeleton_->mappings().userfaultfd()};
  pages_->link().send(order, descriptors);
}

void Incoming::publish_areas(std::uint64_t generation) {
  proto::PageOrder order;
  proto::SetAreas& areas = *order.mutable_set_areas();
  areas.set_space(0);
  areas.set_generation(generation);
  areas.set_same(skeleton_->mappings().has_same_page_areas());
  if (!areas.same()) {
    for (proto::PageArea& area : skeleton_->mappings().take_page_areas()) {
      *areas.add_areas() = std::move(area);
    }
  }
  pages_->link().send(order);
}

void Incoming::on_page_report() {
  std::vector<UniqueFd> fds;
  const proto::PageReport report = in_context(
      [&] { return pages_->link().receive(kNoDeadline, &fds); }, "page server of the destination");
  if (report.has_forked_space() && !fds.empty()) {
    post_copy_.hold_child(report.forked_space().parent(), std::move(fds.front()));
  } else if (report.has_missing_pages()) {
    take_missing_pages(report.missing_pages());
  } else if (report.has_lost_pages()) {
    lost_.take(report.lost_pages(), skeleton_->host_pid());
  } else {
    handle_page_report(report);
  }
}

void Incoming::handle_page_report(const proto::PageReport& report) {
  if (!report.has_round_received()) return;
  round_received_ = report.round_received().round();
  if (report.round_received().stale_size() > 0) {
    skeleton_->mappings().drop(stale_of(report.round_received()));
  }
  proto::RoundPlaced placed;
  placed.set_round(round_received_);
  placed.set_bytes(report.round_received().bytes());
  control_.send_body(placed);
  status_.placed(round_received_);
  network_.prolong();
}

void Incoming::await_round(std::uint32_t round) {
  const std::int64_t deadline_ns =
      monotonic_ns() + (round_received_ == 0 ? kOnlyRoundTimeoutNs : kRoundTimeoutNs);
  while (round_received_ < round) {
    const proto::PageReport report = in_context([&] { return pages_->link().receive(deadline_ns); },
                                                "page server of the destination");
    // Prepared answers for the last round.
    if (!report.has_round_received()) continue;
    round_received_ = report.round_received().round();
    last_round_ = report.round_received();
  }
}

// From here on whoever touches a page that is not here waits for it, what is done to the skeleton
// included.
void Incoming::begin_lazily() {
  MappingsRestorer& mappings = skeleton_->mappings();
  mappings.begin_lazily(stale_of(last_round_));
  post_copy_.begin(pages_->link(), mappings.take_lazy_userfaultfd());
  mark_phase("dest_lazy");
}

void Incoming::take_missing_pages(const proto::MissingPages& news) {
  status_.take(news);
  if (news.missing_pages() == 0 && post_copy_.incomplete()) {
    post_copy_.end();
    lazy_ = false;
    attempt("journal", [&] { write_journal(committed_ ? State::kCommitted : State::kBuilding); });
  }
  control_.send_body(news);
}

void Incoming::mark_phase(const char* name) {
  const std::int64_t now = monotonic_ns();
  proto::Phase phase;
  phase.set_name(name);
  phase.set_ns(now - phase_began_ns_);
  phases_.push_back(std::move(phase));
  phase_began_ns_ = now;
}

void Incoming::brace(proto::Brace& brace) {
  if (!skeleton_ || prepared_) fail("Brace came at the wrong time");
  check_threads(brace.threads());
  skeleton_->brace(*brace.mutable_threads());
  for (const proto::MovedAddress& address : brace.addresses()) {
    if (const auto known = IpAddress::from_bytes(address.address())) {
      record_.addresses.push_back(known->text());
    }
  }
  lazy_ = brace.lazy();
  if (lazy_ || !record_.addresses.empty()) write_journal(State::kBuilding);
  status_.enter(State::kFreezing);
  network_.brace(brace);
  if (lazy_) {
    skeleton_->mappings().prepare_lazily();
  } else {
    skeleton_->mappings().release();
  }
  keep_heap_steady();  // what was touched before is used up, or shared by a fork
  precedence_.emplace();
  if (pages_) precedence_for_pages_.emplace(pages_->pid());
  control_.send_body(proto::Braced{});
}

void Incoming::take_streams(proto::Streams& streams) {
  if (!skeleton_ || prepared_) fail("Streams came at the wrong time");
  if (streams.passed_ms() % 2 != 0) fail("Streams: {} ms are not even", streams.passed_ms());
  for (const std::uint32_t id : streams.as_ahead()) {
    auto ahead = streams_ahead_.extract(id);
    if (ahead.empty()) fail("fd {}: its description did not come", id);
    proto::TcpStream& stream = *ahead.mapped().mutable_stream();
    stream.set_timestamp(stream.timestamp() + streams.passed_ms());
    skeleton_->confirm_stream(id, stream);
    streams_.insert(std::move(ahead));
  }
  auto& known = streams.ahead() ? streams_ahead_ : streams_;
  for (proto::OpenFile& file : *streams.mutable_files()) {
    skeleton_->finish_stream(file, streams.ahead());
    known[file.id()].Swap(file.mutable_tcp_socket());
  }
  if (streams.ahead()) skeleton_->complete_streams();
}

void Incoming::cut_over(proto::Final& final) {
  phase_began_ns_ = monotonic_ns();
  if (!skeleton_ || prepared_) fail("Final came at the wrong time");
  const std::shared_ptr<proto::Process> process = take_process(*final.mutable_snapshot());
  join_streams(streams_, *process->mutable_fd_table());
  skeleton_->keep_streams(std::move(streams_));
  skeleton_->cut_over_areas(process, final.same_areas());
  // Pages of a later layout wait in the page server until it knows of it.
  publish_areas(final.snapshot().generation());
  mark_phase("dest_areas");
  network_.hold(process->fd_table());
  mark_phase("dest_hold");
  skeleton_->cut_over(process, [this](const char* phase) { mark_phase(phase); });
  await_round(final.round());
  mark_phase("dest_last_pages");
  if (lazy_) begin_lazily();
  skeleton_->complete();
  mark_phase("dest_complete");
  if (hello_.verify()) verify(*process);
  skeleton_->clear();
  group_->freeze();
  mark_phase("dest_freeze");
  proto::Prepared prepared;
  prepared.set_host_pid(skeleton_->host_pid());
  for (const proto::Phase& phase : phases_) *prepared.add_phases() = phase;
  prepared_ = true;
  control_.send_body(prepared);
  skeleton_->let_live();
  network_.let_out();
  phases_.clear();
}

void Incoming::verify(const proto::Process& expected) {
  CaptureContext context{skeleton_->task(), skeleton_->host_pid()};
  proto::Process found = describe_process(context);
  skeleton_->mappings().as_described(*found.mutable_mappings());
  differences_ = compare_processes(expected, found);
  mark_phase("dest_verify");
}

template <typename Duty>
void Incoming::attempt(const char* what, Duty duty) noexcept {
  try {
    duty();
  } catch (const std::exception& error) {
    log_error("migration={} {}: {}", hello_.migration_id(), what, error.what());
  }
}

void Incoming::commit() {
  if (!prepared_ || committed_) fail("Commit came at the wrong time");
  phase_began_ns_ = monotonic_ns();
  network_.announce();
  mark_phase("dest_announce");
  skeleton_->release_streams(network_.replay());
  if (early_corrections_.sockets_size() > 0) apply(early_corrections_);
  mark_phase("dest_sockets");
  group_->thaw();  // the commit point
  committed_ = true;
  mark_phase("dest_thaw");
  // Each thread stands in a ptrace stop: it goes on now, or, were we to die, with our end.
  attempt("letting go", [&] { skeleton_->release(); });
  mark_phase("dest_release");
  proto::Committed answer;
  answer.set_host_pid(skeleton_->host_pid());
  for (const proto::Phase& phase : phases_) *answer.add_phases() = phase;
  control_.send_body(answer);
  make_lasting();
}

void Incoming::make_lasting() {
  if (lasting_) return;
  lasting_ = true;
  precedence_.reset();
  precedence_for_pages_.reset();
  attempt("acknowledging", [&] { skeleton_->prompt_streams(network_.replay()); });
  attempt("delivering held packets", [&] { network_.deliver(); });
  attempt("outliving this agent", [&] { nursery_->outlive(); });
  attempt("keeping the addresses", [&] { network_.keep_addresses(); });
  record_.addresses.clear();  // this host's own now: no recovery takes them away
  attempt("journal", [&] { write_journal(State::kCommitted); });
  attempt("registering", [&] { note_arrival(record_, WorkloadFolder::Sync::kLater); });
  status_.enter(lazy_ ? State::kPostCopy : State::kCompleted);
}

void Incoming::replay(const proto::HeldPackets& packets) {
  if (!prepared_) fail("HeldPackets came before Final");
  network_.take_held(packets, committed_);
}

void Incoming::correct(const proto::Corrections& corrections) {
  if (!prepared_) fail("Corrections came before Final");
  if (!committed_) return early_corrections_.MergeFrom(corrections);
  apply(corrections);
}

void Incoming::apply(const proto::Corrections& corrections) {
  for (std::string& failed : skeleton_->correct_sockets(corrections)) {
    log_error("migration={} {}", hello_.migration_id(), failed);
    differences_.push_back(std::move(failed));
  }
}

void Incoming::finish() {
  if (!committed_) fail("Finish came before Commit");
  finish_alone();
  proto::Finished finished;
  for (std::string& difference : differences_) *finished.add_differences() = std::move(difference);
  control_.send_body(finished);
  journal_.remove(record_);
  huge_pages_.grant(record_.process);
}

void Incoming::finish_alone() {
  make_lasting();
  attempt("late packets", [&] { network_.settle(); });
  attempt("control group", [&] { group_->give_back(); });
  attempt("registering", [&] { note_arrival(record_, WorkloadFolder::Sync::kNow); });
  pages_.reset();
}

void Incoming::write_journal(State state) {
  record_.state = state;
  record_.misses_pages = lazy_;
  journal_.write(record_);
}

}  // namespace godwit
