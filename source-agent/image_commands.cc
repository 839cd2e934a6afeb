#include "source-agent/image_commands.h"

#include <google/protobuf/util/json_util.h>
#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <ctime>
#include <filesystem>
#include <ostream>
#include <vector>

#include "common/base/error.h"
#include "common/base/human_text.h"
#include "common/base/printable.h"
#include "common/image/image.h"
#include "common/image/merge.h"
#include "common/image/series.h"
#include "common/model/snapshot_check.h"
#include "common/wire/preface.h"
#include "source-agent/core_file.h"

namespace godwit {
namespace {

constexpr std::int64_t kNsPerS = 1'000'000'000;

std::string time_text(std::int64_t unix_ns) {
  const std::time_t seconds = unix_ns / kNsPerS;
  std::tm parts{};
  ::gmtime_r(&seconds, &parts);
  char text[32];
  const std::size_t bytes = std::strftime(text, sizeof(text), "%Y-%m-%d %H:%M:%S UTC", &parts);
  return {text, bytes};
}

std::string image_line(const Image& image) {
  const proto::ImageManifest& manifest = image.manifest();
  std::string line = fmt::format("{}  {}  {}  pid {}  {}  {}",
                                 std::filesystem::path(image.path()).filename().string(),
                                 manifest.id(), time_text(manifest.saved_unix_ns()), manifest.pid(),
                                 printable(manifest.executable()), bytes_text(image.bytes()));
  if (manifest.has_base()) line += "  on " + printable(manifest.base().path());
  return line;
}

int verify(const MigrateOptions& options, std::ostream& out) {
  const Image image = Image::open(options.image);
  image.verify();
  check_snapshot(image.read_state().snapshot(), SnapshotPart::kWhole);
  out << fmt::format(
      "{} is whole: {}{}\n", image.path(), count_text(image.manifest().data_pages(), "page"),
      image.bases().empty() ? "" : " with " + count_text(image.bases().size(), "base image"));
  return 0;
}

int list(const MigrateOptions& options, std::ostream& out, std::ostream& err) {
  if (!std::filesystem::is_directory(options.image)) fail("{} is no directory", options.image);
  std::vector<Image> images;
  int code = 0;
  for (const auto& entry : std::filesystem::directory_iterator(options.image)) {
    if (!std::filesystem::exists(entry.path() / kManifestFile)) continue;
    try {
      images.push_back(Image::open(entry.path()));
    } catch (const Error& error) {
      err << "migrate: " << printable(error.what()) << '\n';
      code = 1;
    }
  }
  std::sort(images.begin(), images.end(), [](const Image& a, const Image& b) {
    return a.manifest().saved_unix_ns() < b.manifest().saved_unix_ns();
  });
  for (const Image& image : images) out << image_line(image) << '\n';
  return code;
}

int merge(const MigrateOptions& options, std::ostream& out) {
  const Image image = Image::open(options.image);
  merge_image(image, options.out, make_migration_id(), *codec_by_name(options.compression));
  out << fmt::format("made {} of {} and {}\n", options.out, image.path(),
                     count_text(image.bases().size(), "base image"));
  return 0;
}

std::string json_of(const google::protobuf::Message& message) {
  google::protobuf::util::JsonPrintOptions how;
  how.add_whitespace = true;
  how.preserve_proto_field_names = true;
  std::string text;
  if (!google::protobuf::util::MessageToJsonString(message, &text, how).ok()) {
    fail("{} can't be printed as JSON", message.GetTypeName());
  }
  return text;
}

template <typename Count>
std::string counted(const proto::FdTable& table, const char* noun, Count count) {
  const auto found = std::count_if(table.files().begin(), table.files().end(), count);
  return found == 0 ? "" : fmt::format(", {} {}", found, noun);
}

std::string descriptors_text(const proto::FdTable& table) {
  using Kind = proto::OpenFile;
  const auto is = [](Kind::KindCase kind) {
    return [kind](const Kind& file) { return file.kind_case() == kind; };
  };
  return fmt::format(
             "{}", count_text(static_cast<std::uint64_t>(table.descriptors_size()), "descriptor")) +
         counted(table, "files", is(Kind::kRegularFile)) +
         counted(table, "TCP sockets", is(Kind::kTcpSocket)) +
         counted(table, "UDP sockets", is(Kind::kUdpSocket)) +
         counted(table, "unix sockets", is(Kind::kUnixSocket)) +
         counted(table, "pipe ends", is(Kind::kPipeEnd)) +
         counted(table, "epolls", is(Kind::kEpoll));
}

std::string summary_of(const Image& image, const proto::ImageState& state) {
  const proto::ImageManifest& manifest = image.manifest();
  std::string text = fmt::format(
      "image      {} in {}\nsaved      {} on {} ({}, {})\n", manifest.id(), image.path(),
      time_text(manifest.saved_unix_ns()), printable(manifest.host().host_name()),
      printable(manifest.host().kernel_release()), printable(manifest.host().architecture()));
  for (const proto::Process& process : state.snapshot().processes()) {
    text += fmt::format("process    pid {}, {}, {}\n", process.identity().pid(),
                        printable(process.identity().executable()),
                        count_text(static_cast<std::uint64_t>(process.threads_size()), "thread"));
    text += fmt::format("open       {}\n", descriptors_text(process.fd_table()));
    text +=
        fmt::format("memory     {}, {} resident\n",
                    count_text(static_cast<std::uint64_t>(process.mappings().areas_size()), "area"),
                    bytes_text(state.resident_bytes()));
  }
  text += fmt::format("pages      {}, {} of them in base images\n", manifest.data_pages(),
                      manifest.base_pages());
  text += fmt::format("stored     {}, compression {}\n", bytes_text(image.bytes()),
                      printable(manifest.compression()));
  for (const Image& base : image.bases()) {
    text += fmt::format("on         {} in {}\n", base.manifest().id(), base.path());
  }
  return text;
}

int inspect(const MigrateOptions& options, std::ostream& out) {
  const Image image = Image::open(options.image);
  const proto::ImageState state = image.read_state();
  if (options.summary) {
    out << summary_of(image, state);
    return 0;
  }
  out << fmt::format("{{\n\"manifest\": {},\n\"state\": {}\n}}\n", json_of(image.manifest()),
                     json_of(state));
  return 0;
}

int core(const MigrateOptions& options, std::ostream& out) {
  const Image image = Image::open(options.image);
  write_core_file(image, options.out);
  out << fmt::format("made {}: gdb {} {}\n", options.out, printable(image.manifest().executable()),
                     options.out);
  return 0;
}

int run(const MigrateOptions& options, std::ostream& out, std::ostream& err) {
  switch (options.command) {
    case MigrateOptions::Command::kImagesVerify:
      return verify(options, out);
    case MigrateOptions::Command::kImagesList:
      return list(options, out, err);
    case MigrateOptions::Command::kImagesMerge:
      return merge(options, out);
    case MigrateOptions::Command::kInspect:
      return inspect(options, out);
    default:
      return core(options, out);
  }
}

}  // namespace

int run_image_command(const MigrateOptions& options, std::ostream& out, std::ostream& err) {
  try {
    return run(options, out, err);
  } catch (const Error& error) {
    err << "migrate: " << printable(error.what()) << '\n';
    if (!error.hint().empty()) err << "  " << printable(error.hint()) << '\n';
    return 1;
  }
}

void become_restore(const MigrateOptions& options) {
  const std::string program =
      std::filesystem::path(read_link("/proc/self/exe")).parent_path() / "dest-agent";
  std::vector<std::string> words{
      "dest-agent", "restore",    "--from",      "file:" + newest_whole_image(options.image),
      "--pids",     options.pids, "--tcp",       options.tcp,
      "--cpu",      options.cpu,  "--state-dir", options.state_dir};
  if (options.lazy) {
    words.insert(words.end(),
                 {"--lazy", "--max-bandwidth", std::to_string(options.max_bandwidth_bytes_per_s)});
  }
  if (options.json_path) words.insert(words.end(), {"--json", *options.json_path});
  if (options.quiet) words.emplace_back("-q");
  if (options.log_level == LogLevel::kInfo) words.emplace_back("-v");
  if (options.log_level == LogLevel::kDebug) words.emplace_back("-vv");
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  ::execv(program.c_str(), arguments.data());
  throw_system("{}", program);
}

}  // namespace godwit
