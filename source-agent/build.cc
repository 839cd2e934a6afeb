// The step that begins to touch the task: it is stopped once, described and tracked, and goes on
// while the destination builds its skeleton.
#include <sys/resource.h>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/base/steady_heap.h"
#include "source-agent/capture/huge_pages.h"
#include "source-agent/checkpoint.h"
#include "source-agent/destination.h"
#include "source-agent/migration.h"

namespace godwit {
namespace {

constexpr std::int64_t kBuildTimeoutNs = 60'000'000'000;

void start_stream(Migration& migration) {
  UniqueFd connection = connect_pages(migration.options.to, migration.id);
  migration.pages.emplace(PageServerProcess::spawn("source"));
  proto::PageOrder order;
  proto::StartSource& start = *order.mutable_start_source();
  *start.mutable_tls() = to_tls_material(migration.keys);
  start.set_page_token(migration.page_token);
  start.set_bandwidth_bytes_per_s_max(migration.options.max_bandwidth_bytes_per_s);
  start.set_tracker(std::string(tracker_name(migration.memory->kind())));
  migration.pages->link().send(order, std::vector<int>{connection.get()});
}

void start_page_server(Migration& migration) {
  migration.image ? start_image_pages(migration) : start_stream(migration);
  ++migration.page_connections;
  proto::PageOrder space;
  space.mutable_add_space()->set_space(0);
  std::vector<int> descriptors{migration.task->memory_fd(), migration.memory->pagemap_fd()};
  if (migration.memory->kind() == TrackerKind::kSoftDirty) {
    descriptors.push_back(migration.memory->clear_refs_fd());
  }
  if (migration.copy_on_write) descriptors.push_back(migration.memory->writers_fd().get());
  migration.pages->link().send(space, descriptors);
  if (migration.copy_on_write) migration.memory->hand_over_writers(migration.pages->pid());
}

// Page faults must not wait behind other pages.
void start_fault_connection(Migration& migration) {
  const UniqueFd connection =
      connect_pages(migration.options.to, migration.id, ConnectionKind::kFaults);
  proto::PageOrder order;
  proto::StartFaults& start = *order.mutable_start_faults();
  *start.mutable_tls() = to_tls_material(migration.keys);
  start.set_page_token(migration.page_token);
  migration.pages->link().send(order, std::vector<int>{connection.get()});
  ++migration.page_connections;
}

// Handshakes take round trips and processor time. A task that is stopped for what the page server
// does next must not wait for them.
void await_page_connections(Migration& migration) {
  const std::int64_t deadline_ns = monotonic_ns() + kBuildTimeoutNs;
  while (migration.page_connections_ready < migration.page_connections) {
    take_event(migration, deadline_ns);
    throw_if_cancelled();
  }
}

}  // namespace

void build(Migration& migration) {
  const pid_t pid = migration.options.pid;
  // Before there is anything that somebody else would have to remove.
  migration.record.cgroup_path = FreezerGroup::path_around(pid, migration.id);
  migration.write_journal();
  migration.progress.publish(migration.journal.status_path_of(migration.record));
  migration.group.emplace(FreezerGroup::around(pid, migration.id));

  migration.task.emplace(RemoteTask::attach(pid));
  migration.capture->watch_stops(*migration.task);
  const std::int64_t stopped_ns = monotonic_ns();
  migration.task->stop();
  proto::Process process = migration.capture->describe(*migration.task);
  leave_out_registers(process);
  migration.memory.emplace(*migration.task, migration.tracker, migration.copy_on_write);
  migration.copy_on_write = migration.memory->writers_fd().valid();
  migration.shared_objects.emplace(pid);
  migration.memory->update(migration.capture->mappings().described());
  migration.memory->mark_described();
  migration.task->resume();
  const double stopped_ms = to_ms(monotonic_ns() - stopped_ns);
  describe_huge_pages(migration.memory->pagemap_fd(), *migration.capture->mappings().described(),
                      process);
  *process.mutable_fd_table() = migration.capture->fd_table().describe();
  migration.described_fd_table = process.fd_table().SerializeAsString();
  log_info("described pid={} stopped_ms={:.2f}", pid, stopped_ms);

  start_page_server(migration);
  if (migration.options.mode != "pre") start_fault_connection(migration);
  ++migration.generation;
  publish_areas(migration);
  send_description(migration, process);
  process = {};
  give_heap_back();
  const proto::Envelope answer =
      await_envelope(migration, proto::Envelope::kReconciled, monotonic_ns() + kBuildTimeoutNs);
  migration.report.pid_destination = answer.reconciled().host_pid();
  await_page_connections(migration);
  enter_next(migration, Event::kSkeletonReady);
}

}  // namespace godwit
