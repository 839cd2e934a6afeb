// What a checkpoint does otherwise than a migration: its destination is an image.
#pragma once

#include "source-agent/migration.h"

namespace godwit {

// Makes the image's files and the control channel that records into them. Throws Refused.
void open_image(Migration& migration);
// Starts the page server that writes them.
void start_image_pages(Migration& migration);
// After the last round: every page is in the image, and synced.
void finish_image_pages(Migration& migration);
// Until the last round has been read.
void await_last_pages(Migration& migration);
// --leave-running, instead of a commit, when the process goes on: the image is completed.
void finish_image_while_running(Migration& migration);
// Nothing is left of a checkpoint whose process runs on.
void complete_while_running(Migration& migration) noexcept;

// The outcome of a migration whose peer is an image, by `peer` of its journal; nothing for another.
std::optional<proto::Outcome> outcome_of_image(const std::string& peer, const std::string& id);

}  // namespace godwit
