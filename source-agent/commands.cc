#include "source-agent/commands.h"

#include <fmt/format.h>

#include <ostream>

#include "common/base/clock.h"
#include "common/model/phase_table.h"
#include "common/model/status_text.h"
#include "common/wire/key_folder.h"
#include "source-agent/keys.h"

namespace godwit {

int run_keys(const MigrateOptions& options, std::ostream& out) {
  if (options.command == MigrateOptions::Command::kKeysInit) {
    make_authority(options.keys_dir);
    out << fmt::format(
        "made the authority {0}/{1} with its key {0}/{2}: keep the key where only you can read "
        "it\n",
        options.keys_dir, kAuthorityFile, kAuthorityKeyFile);
    return 0;
  }
  issue_keys({options.keys_dir, options.host_name, options.role, options.out_dir, options.days});
  out << fmt::format("made the key folder {} for {} as {}: name it with --keys\n", options.out_dir,
                     options.host_name, options.role);
  return 0;
}

int run_status(const MigrateOptions& options, std::ostream& out) {
  const auto migrations = list_migrations(JournalFolder(options.state_dir));
  out << (options.as_json ? status_json(migrations, monotonic_ns()) : status_text(migrations));
  return 0;
}

int run_states(const MigrateOptions& options, std::ostream& out) {
  switch (options.states_form) {
    case MigrateOptions::StatesForm::kText:
      out << print_phase_table();
      break;
    case MigrateOptions::StatesForm::kGraph:
      out << print_phase_graph();
      break;
    case MigrateOptions::StatesForm::kDocument:
      out << print_phase_document();
      break;
  }
  return 0;
}

}  // namespace godwit
