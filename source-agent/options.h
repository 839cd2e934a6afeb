// The command line of `migrate`, as values.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <iosfwd>
#include <optional>
#include <string>
#include <vector>

#include "common/base/log.h"
#include "common/model/command_line_values.h"
#include "common/model/workload.h"

namespace godwit {

struct MigrateOptions {
  enum class Command {
    kMigrate,
    kCheck,
    kCheckpoint,
    kRestore,
    kImagesVerify,
    kImagesList,
    kImagesMerge,
    kInspect,
    kCore,
    kStates,
    kRecover,
    kStatus,
    kKeysInit,
    kKeysIssue,
    kRegister,
    kUnregister,
    kRegistered,
    kDrain,
  };
  enum class StatesForm { kText, kGraph, kDocument };

  Command command = Command::kMigrate;
  LogLevel log_level = LogLevel::kWarning;  // --quiet: kError, -v: kInfo, -vv: kDebug
  bool quiet = false;                       // no progress lines either

  // kMigrate, kCheck and kCheckpoint.
  pid_t pid = 0;
  HostPort to;
  std::string keys;                      // folder with host.crt, host.key, ca.crt
  std::string addresses = "keep";        // keep, move
  std::string pids = "auto";             // auto, same, namespace
  std::string cpu = "require";           // require, ignore; kRestore too
  std::string mode = "hybrid";           // pre, post, hybrid
  std::optional<std::string> json_path;  // --json; "-" is standard output
  std::int64_t max_downtime_ns = 10'000'000;
  std::uint64_t max_bandwidth_bytes_per_s = 0;  // 0: unlimited
  int max_rounds = 30;                          // 0: every page travels while it stands still
  std::string tracker = "auto";                 // auto, or as tracker_name() says
  std::int64_t reconnect_timeout_ns = 60'000'000'000;  // in post-copy; and kRecover
  bool verify = false;

  // kMigrate and kCheck of a registered workload, kRegister, kUnregister.
  std::string workload;                // its name; empty: none
  std::optional<Workload> registered;  // as found under it: see with_registration()
  std::string registry = "/var/lib/godwit/workloads";
  std::string home_address;  // of this host's own dest-agent, for the way back; empty: not told
  bool returning = false;    // to the host that sent it here; for kDrain: all of them
  int priority = 0;
  std::vector<std::string> registered_options;  // of `migrate`, each as one word: "--mode=pre"

  // kDrain.
  int parallel = 1;
  bool keep_going = false;
  std::string home;  // with `returning`: only those of this host; empty: all

  // kCheckpoint.
  std::string image;  // the directory to make
  std::string base;   // an image to rest on; empty: none
  std::string compression = "none";
  bool lazy = false;  // restore: it runs before its pages are there
  bool leave_running = false;
  bool writes_much = false;   // known from the time before: more than a pause takes
  std::int64_t every_ns = 0;  // 0: once; else `image` is a directory of images
  std::size_t keep = 5;       // of them

  // kRestore, kImages*, kInspect and kCore: `image` is read.
  std::string tcp = "close";  // keep, close
  std::string out;            // what is made of it
  bool summary = false;

  // Where it goes, as for the report and the journal: ADDR:PORT or file:DIR.
  std::string target() const {
    return command != Command::kCheckpoint ? to.text() : "file:" + image;
  }

  // kMigrate, kCheckpoint and kRecover.
  std::string state_dir = "/run/godwit";

  // kRecover.
  enum class LostPages { kTell, kWait, kPoison, kKill };
  std::string migration_id;  // only this one; empty: all
  LostPages lost_pages = LostPages::kTell;

  // kStatus.
  bool as_json = false;

  // kStates.
  StatesForm states_form = StatesForm::kText;

  // kKeysInit and kKeysIssue.
  std::string keys_dir;   // the authority's folder
  std::string host_name;  // --name
  std::string role;       // source, destination
  std::string out_dir;    // --out
  int days = 825;         // until the certificate expires; negative: expired that long ago
};

// Without options the program ends with `exit_code`: 0 after help was printed to `out`, 2 after
// wrong usage was explained on `err`.
struct MigrateCommandLine {
  std::optional<MigrateOptions> options;
  int exit_code = 0;
};

MigrateCommandLine parse_migrate_command_line(int argc, const char* const* argv, std::ostream& out,
                                              std::ostream& err);

}  // namespace godwit
