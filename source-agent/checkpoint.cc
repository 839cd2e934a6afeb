#include "source-agent/checkpoint.h"

#include <filesystem>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/image/image.h"
#include "source-agent/recorder.h"

namespace godwit {
namespace {

constexpr std::string_view kImageScheme = "file:";
constexpr std::int64_t kPagesTimeoutNs = 3600LL * 1'000'000'000;

// The base must be there in whole, and lead to the image by a path that outlives a move of both.
proto::ImageBase describe_base(const Migration& migration, const Image& base) {
  const std::filesystem::path parent = std::filesystem::path(migration.image->path()).parent_path();
  proto::ImageBase told;
  told.set_id(base.manifest().id());
  told.set_path(std::filesystem::relative(std::filesystem::canonical(base.path()),
                                          std::filesystem::canonical(parent))
                    .string());
  return told;
}

Image open_base(const std::string& path) {
  try {
    return Image::open(path);
  } catch (const Error& error) {
    throw Refused("image-base", error.what(), error.hint());
  }
}

}  // namespace

void open_image(Migration& migration) {
  migration.control.reset();
  std::optional<Image> base;
  if (!migration.options.base.empty()) base = open_base(migration.options.base);
  migration.image.emplace(migration.options.image, migration.id);
  proto::ImageManifest manifest;
  manifest.set_compression(migration.options.compression);
  if (base) *manifest.mutable_base() = describe_base(migration, *base);
  auto recorder = std::make_unique<Recorder>(*migration.image, std::move(manifest));
  migration.recorder = recorder.get();
  migration.control.emplace(std::move(recorder));
}

void start_image_pages(Migration& migration) {
  migration.pages.emplace(PageServerProcess::spawn("recorder"));
  if (!migration.options.base.empty()) {
    for (const ImageLevel& level : open_base(migration.options.base).open_levels()) {
      proto::PageOrder order;
      order.mutable_add_image_level()->set_name(level.name);
      migration.pages->link().send(order, std::vector<int>{level.index.get(), level.pages.get()});
    }
  }
  proto::PageOrder order;
  proto::StartImage& start = *order.mutable_start_image();
  start.set_id(migration.id);
  start.set_compression(migration.options.compression);
  start.set_tracker(std::string(tracker_name(migration.memory->kind())));
  migration.pages->link().send(
      order, std::vector<int>{migration.image->pages_fd(), migration.image->index_fd()});
}

void finish_image_pages(Migration& migration) {
  const std::int64_t deadline_ns = monotonic_ns() + kPagesTimeoutNs;
  proto::PageOrder order;
  order.mutable_finish_image();
  migration.pages->link().send(order);
  while (!migration.image_written) take_event(migration, deadline_ns);
  const proto::ImageWritten& written = *migration.image_written;
  if (written.lost()) {
    throw Error("memory was given back before it was saved: the image would be of no one instant",
                EAGAIN, "try again");
  }
  if (migration.copy_on_write) {
    log_info("saved while it ran pages={} of these before a write pages={}", written.held_pages(),
             written.copied_pages());
  }
  migration.recorder->note_pages(migration.image_written->data_pages(),
                                 migration.image_written->base_pages());
}

void await_last_pages(Migration& migration) {
  const std::int64_t deadline_ns = monotonic_ns() + kPagesTimeoutNs;
  while (migration.sent.round() < migration.round) take_event(migration, deadline_ns);
}

void finish_image_while_running(Migration& migration) {
  give_packets_back(migration);
  migration.progress.loud();
  enter_next(migration, Event::kSourceReleased);
  finish_image_pages(migration);
  migration.control->send_body(proto::Commit{});
  migration.machine.apply(Event::kCopyComplete);
}

void complete_while_running(Migration& migration) noexcept {
  try {
    migration.memory->let_go(migration.options.pid);
    migration.memory.reset();
    migration.pages.reset();
    migration.group->give_back();
    migration.journal.remove(migration.record);
  } catch (const std::exception& error) {
    // The journal stays, from which `migrate recover` does the rest.
    log_warning("cleaning up after the checkpoint: {}", error.what());
  }
}

std::optional<proto::Outcome> outcome_of_image(const std::string& peer, const std::string& id) {
  if (!peer.starts_with(kImageScheme)) return std::nullopt;
  proto::Outcome outcome;
  outcome.set_kind(is_image_committed(peer.substr(kImageScheme.size()), id)
                       ? proto::Outcome::COMMITTED
                       : proto::Outcome::UNKNOWN);
  return outcome;
}

}  // namespace godwit
