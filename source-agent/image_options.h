// The part of the command line that is about images.
#pragma once

#include "source-agent/option_parts.h"

namespace godwit {

void add_image_commands(CLI::App& app, MigrateOptions& options, Verbosity& verbosity);
// What these commands can't do without. Throws CLI::ParseError.
void check_image_command(const MigrateOptions& options);

}  // namespace godwit
