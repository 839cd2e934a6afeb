#include "source-agent/image_options.h"

#include <filesystem>

namespace godwit {
namespace {

using Command = MigrateOptions::Command;

constexpr const char* kCheckpointFooter =
    "Examples:\n"
    "  migrate checkpoint --pid 1234 --to file:/var/lib/images/monday\n"
    "  migrate checkpoint --pid 1234 --to file:/var/lib/images/tuesday --leave-running \\\n"
    "      --base /var/lib/images/monday --compress zstd\n"
    "  migrate checkpoint --pid 1234 --to file:/var/lib/images/sim --every 60s --keep 5\n\n"
    "The image appears under its name when it is complete and synced; whatever fails before "
    "leaves\n"
    "the process running. Exit codes: 0 saved, 1 not saved (the process runs on), 2 refused "
    "before\n"
    "anything was touched (or wrong usage), 3 in doubt (see `migrate recover`).";
constexpr const char* kRestoreFooter =
    "Examples:\n"
    "  migrate restore --from file:/var/lib/images/monday\n"
    "  migrate restore --from file:/var/lib/images/sim\n"
    "  migrate restore --from file:/var/lib/images/monday --pids same --tcp keep\n"
    "  migrate restore --from file:/var/lib/images/monday --lazy\n\n"
    "Of a directory of images (checkpoint --every) the newest whole one is taken.\n"
    "Exit codes: 0 it runs, 1 it could not be restored, or (--lazy) not all of it, 2 refused "
    "before\n"
    "anything was made (or wrong usage). The image stays as it is.";
constexpr const char* kVerifyFooter =
    "Example:\n  migrate images verify /var/lib/images/monday\n\n"
    "Reads all of it, its base images included. Exit codes: 0 whole, 1 damaged.";
constexpr const char* kListFooter =
    "Example:\n  migrate images list /var/lib/images\n\nExit codes: 0 read, 1 one was damaged.";
constexpr const char* kMergeFooter =
    "Example:\n  migrate images merge /var/lib/images/tuesday --out /var/lib/images/whole\n\n"
    "The new image rests on no other. Those it is made from stay as they are.";
constexpr const char* kImagesFooter =
    "Examples:\n"
    "  migrate images list /var/lib/images\n"
    "  migrate images verify /var/lib/images/monday";
constexpr const char* kInspectFooter =
    "Examples:\n"
    "  migrate inspect /var/lib/images/monday\n"
    "  migrate inspect /var/lib/images/monday --summary";
constexpr const char* kCoreFooter =
    "Example:\n"
    "  migrate core /var/lib/images/monday --out monday.core\n\n"
    "Then, say: gdb /usr/bin/redis-server monday.core";

std::string image_path(const std::string& text) {
  constexpr std::string_view kScheme = "file:";
  if (!text.starts_with(kScheme) || text.size() == kScheme.size()) {
    fail("'{}' is no image: file:DIR names one", text);
  }
  return std::filesystem::absolute(text.substr(kScheme.size())).lexically_normal().string();
}

void add_checkpoint(CLI::App& app, MigrateOptions& options) {
  app.footer(kCheckpointFooter);
  add_pid(app, options, "The process to save");
  add_parsed(app, "--to", "The directory that the image is to be", "file:DIR",
             [&options](const std::string& text) { options.image = image_path(text); });
  app.add_flag("--leave-running", options.leave_running,
               "The process runs on; without this it ends once the image is complete");
  app.add_option("--base", options.base,
                 "An earlier image of the process: only what differs from it is stored")
      ->type_name("DIR");
  app.add_option("--compress", options.compression, "How pages are stored")
      ->check(CLI::IsMember({"none", "lz4", "zstd"}))
      ->type_name("none|lz4|zstd")
      ->capture_default_str();
  CLI::Option* every = add_parsed(
      app, "--every", "Save again and again: DIR is a directory of images, each on the last",
      "TIME", [&options](const std::string& text) {
        options.every_ns = parse_duration_ns(text);
        if (options.every_ns == 0) fail("such as 60s");
        options.leave_running = true;
      });
  add_parsed(app, "--keep", "How many images stay, with --every", "N",
             [&options](const std::string& text) {
               options.keep = static_cast<std::size_t>(parse_count(text, 1, 100'000, "--keep"));
             })
      ->default_str("5")
      ->needs(every);
  add_max_downtime(app, options);
  add_max_rounds(app, options, "Rounds of pages after which the rest is saved in the pause");
  add_json(app, options);
  add_state_dir(app, options);
  app.callback([&options] {
    options.command = Command::kCheckpoint;
    options.mode = "pre";
  });
}

void add_restore(CLI::App& app, MigrateOptions& options) {
  app.footer(kRestoreFooter);
  add_parsed(app, "--from", "The image", "file:DIR",
             [&options](const std::string& text) { options.image = image_path(text); });
  app.add_option("--pids", options.pids,
                 "same: the process id is kept; namespace: in a new pid namespace;\n"
                 "auto: same where it is free, else namespace")
      ->check(CLI::IsMember({"auto", "same", "namespace"}))
      ->type_name("auto|same|namespace")
      ->capture_default_str();
  app.add_option("--tcp", options.tcp,
                 "close: connections are over, as if their peers had vanished;\n"
                 "keep: they go on, where their addresses are on this host and peers still wait")
      ->check(CLI::IsMember({"keep", "close"}))
      ->type_name("keep|close")
      ->capture_default_str();
  add_cpu(app, options);
  CLI::Option* lazy =
      app.add_flag("--lazy", options.lazy,
                   "It runs at once; its pages follow from the image, those that it touches first");
  add_parsed(app, "--max-bandwidth",
             "With --lazy, bytes per second of pages that nobody waits for: 100M, 1.5G", "RATE",
             [&options](const std::string& text) {
               options.max_bandwidth_bytes_per_s = parse_bandwidth_bytes_per_s(text);
             })
      ->default_str("0")
      ->needs(lazy);
  add_json(app, options);
  add_state_dir(app, options);
  app.callback([&options] { options.command = Command::kRestore; });
}

void add_directory(CLI::App& app, MigrateOptions& options, const char* help) {
  app.add_option("DIR", options.image, help)->type_name("")->required();
}

void add_images(CLI::App& images, MigrateOptions& options) {
  images.require_subcommand(1)->footer(kImagesFooter);
  CLI::App* verify = images.add_subcommand("verify", "Read an image and check all of it");
  verify->footer(kVerifyFooter);
  add_directory(*verify, options, "The image");
  verify->callback([&options] { options.command = Command::kImagesVerify; });
  CLI::App* list = images.add_subcommand("list", "Say which images are in a directory");
  list->footer(kListFooter);
  add_directory(*list, options, "The directory");
  list->callback([&options] { options.command = Command::kImagesList; });
  CLI::App* merge = images.add_subcommand("merge", "Make one whole image of one and its bases");
  merge->footer(kMergeFooter);
  add_directory(*merge, options, "The image");
  merge->add_option("--out", options.out, "The image to make")->type_name("DIR")->required();
  merge->add_option("--compress", options.compression, "How pages are stored")
      ->check(CLI::IsMember({"none", "lz4", "zstd"}))
      ->type_name("none|lz4|zstd")
      ->capture_default_str();
  merge->callback([&options] { options.command = Command::kImagesMerge; });
}

}  // namespace

void add_image_commands(CLI::App& app, MigrateOptions& options, Verbosity& verbosity) {
  CLI::App* checkpoint = app.add_subcommand("checkpoint", "Save a process to an image on disk");
  add_checkpoint(*checkpoint, options);
  add_verbosity(*checkpoint, verbosity);
  CLI::App* restore = app.add_subcommand("restore", "Bring a saved process back to life");
  add_restore(*restore, options);
  add_verbosity(*restore, verbosity);
  add_images(*app.add_subcommand("images", "Look after images"), options);

  CLI::App* inspect = app.add_subcommand("inspect", "Print what an image holds, as JSON");
  inspect->footer(kInspectFooter);
  add_directory(*inspect, options, "The image");
  inspect->add_flag("--summary", options.summary, "For people: what it is, and what is in it");
  inspect->callback([&options] { options.command = Command::kInspect; });
  CLI::App* core = app.add_subcommand("core", "Make an ELF core file of an image, for gdb");
  core->footer(kCoreFooter);
  add_directory(*core, options, "The image");
  core->add_option("-o,--out", options.out, "The core file to make")->type_name("FILE")->required();
  core->callback([&options] { options.command = Command::kCore; });
}

void check_image_command(const MigrateOptions& options) {
  if (options.command == Command::kCheckpoint) {
    if (options.pid == 0) throw CLI::RequiredError("--pid");
    if (options.image.empty()) throw CLI::RequiredError("--to");
  }
  if (options.command == Command::kRestore && options.image.empty()) {
    throw CLI::RequiredError("--from");
  }
}

}  // namespace godwit
