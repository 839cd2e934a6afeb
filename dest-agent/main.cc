// dest-agent: receives migrations. See docs/architecture.md.
#include <iostream>

#include "common/base/log.h"
#include "common/base/standard_fds.h"
#include "common/kernel/agent_privileges.h"
#include "common/wire/key_folder.h"
#include "dest-agent/listener.h"
#include "dest-agent/options.h"
#include "dest-agent/recovery.h"
#include "dest-agent/restore_command.h"

int main(int argc, char** argv) {
  using namespace godwit;
  keep_standard_fds();
  const DestCommandLine line = parse_dest_command_line(argc, argv, std::cout, std::cerr);
  if (!line.options) return line.exit_code;
  set_up_log("dest-agent", line.options->log_level);
  try {
    if (!line.options->image.empty()) return run_restore(*line.options);
    if (const std::string missing = missing_privileges(); !missing.empty()) {
      throw Refused("agent-lacks-privilege", missing,
                    "run it as root with its capabilities: it builds processes of any user");
    }
    load_keys(line.options->keys, "destination");
    recover_destinations(line.options->state_dir);
    Listener(*line.options).run();
    return 0;
  } catch (const Error& error) {
    std::cerr << "dest-agent: " << error.what() << '\n';
    if (!error.hint().empty()) std::cerr << "  " << error.hint() << '\n';
    return 2;
  } catch (const std::exception& error) {
    std::cerr << "dest-agent: " << error.what() << '\n';
    return 2;
  }
}
