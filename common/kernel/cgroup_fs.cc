#include "common/kernel/cgroup_fs.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <time.h>

#include <cerrno>
#include <filesystem>
#include <utility>

#include "common/base/clock.h"
#include "common/base/error.h"
#include "common/base/log.h"
#include "common/kernel/proc_text.h"

namespace godwit {
namespace {

constexpr std::string_view kPrefix = "godwit-";
constexpr std::string_view kProcs = "cgroup.procs";
constexpr std::int64_t kRemoveNs = 5'000'000'000;

void sleep_ns(long ns) {
  const timespec pause{0, ns};
  ::nanosleep(&pause, nullptr);
}

// mountinfo writes blanks, tabs, newlines and backslashes as three octal digits.
std::string unescape(std::string_view text) {
  std::string plain;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\\' && i + 3 < text.size()) {
      plain += static_cast<char>(parse_number<int>(text.substr(i + 1, 3), "mountinfo", 8));
      i += 3;
    } else {
      plain += text[i];
    }
  }
  return plain;
}

std::optional<std::string> field_of_events(std::string_view text, std::string_view name) {
  while (!text.empty()) {
    std::string_view line = next_line(text);
    if (next_word(line) == name) return std::string(trim(line));
  }
  return std::nullopt;
}

// kernfs files must be read from their beginning each time.
std::string read_again(int fd, const std::string& name) {
  char text[256];
  const ssize_t size = ::pread(fd, text, sizeof(text), 0);
  if (size < 0) throw_system("read {}", name);
  return std::string(text, static_cast<std::size_t>(size));
}

void write_digit(int fd, char digit, const std::string& path) {
  if (::write(fd, &digit, 1) != 1) throw_system("write {} to {}/cgroup.freeze", digit, path);
}

bool try_move(const std::string& group, pid_t pid) {
  const std::string path = fmt::format("{}/{}", group, kProcs);
  const UniqueFd procs = try_open_file(path, O_WRONLY);
  if (!procs.valid()) return false;
  const std::string number = std::to_string(pid);
  return ::write(procs.get(), number.data(), number.size()) == static_cast<ssize_t>(number.size());
}

bool is_below(std::string_view group, std::string_view root) {
  if (root == "/" || group == root) return true;
  return group.starts_with(root) && group.size() > root.size() && group[root.size()] == '/';
}

void make_group(const std::string& path) {
  if (::mkdir(path.c_str(), 0755) != 0) throw_system("make the control group {}", path);
}

}  // namespace

std::optional<CgroupMount> parse_cgroup_mount(std::string_view mountinfo) {
  while (!mountinfo.empty()) {
    const std::string_view line = next_line(mountinfo);
    const std::size_t dash = line.find(" - ");
    if (dash == std::string_view::npos) continue;
    std::string_view back = line.substr(dash + 3);
    if (next_word(back) != "cgroup2") continue;
    std::string_view front = line.substr(0, dash);
    for (int skipped = 0; skipped < 3; ++skipped) next_word(front);  // id, parent, device
    const std::string root = unescape(next_word(front));
    return CgroupMount{unescape(next_word(front)), root};
  }
  return std::nullopt;
}

CgroupMount find_cgroup_mount() {
  std::optional<CgroupMount> mount = parse_cgroup_mount(read_file("/proc/self/mountinfo"));
  if (!mount) {
    throw Error("no cgroup2 hierarchy is mounted, without which nothing can be frozen", ENOENT,
                "mount one: mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 none "
                "/sys/fs/cgroup/unified");
  }
  return std::move(*mount);
}

std::string find_group_of(pid_t pid) {
  const CgroupMount mount = find_cgroup_mount();
  const std::string text = read_file(fmt::format("/proc/{}/cgroup", pid));
  std::string_view rest = text;
  while (!rest.empty()) {
    std::string_view line = next_line(rest);
    if (!line.starts_with("0::")) continue;
    line.remove_prefix(3);
    // Seen from another cgroup namespace, or mounted from further down.
    if (line.starts_with("/..") || !is_below(line, mount.root)) {
      fail("pid {} is in the control group {}, which is outside of {} (mounted from {})", pid, line,
           mount.path, mount.root);
    }
    if (mount.root != "/") line.remove_prefix(mount.root.size());
    return line == "/" || line.empty() ? mount.path : mount.path + std::string(line);
  }
  fail("pid {} is in no group of the cgroup2 hierarchy at {}", pid, mount.path);
}

FreezerGroup::FreezerGroup(std::string path)
    : path_(std::move(path)),
      directory_(open_file(path_, O_RDONLY | O_DIRECTORY)),
      freeze_(open_file(path_ + "/cgroup.freeze", O_RDWR)),
      events_(open_file(path_ + "/cgroup.events", O_RDONLY)) {}

FreezerGroup::FreezerGroup(FreezerGroup&& other) noexcept
    : path_(std::move(other.path_)),
      directory_(std::move(other.directory_)),
      freeze_(std::move(other.freeze_)),
      events_(std::move(other.events_)),
      owned_(std::exchange(other.owned_, false)),
      discard_frozen_(other.discard_frozen_) {}

FreezerGroup::~FreezerGroup() {
  if (!owned_) return;
  try {
    const bool unreleased = discard_frozen_ && exists() && freeze_asked();
    unreleased ? discard() : give_back();
  } catch (const Error& error) {
    log_error("group={} not given back: {}", path_, error.what());
  }
}

std::string FreezerGroup::path_around(pid_t pid, const std::string& migration_id) {
  return fmt::format("{}/{}{}", find_group_of(pid), kPrefix, migration_id);
}

std::string FreezerGroup::path_of_new(const std::string& migration_id) {
  return fmt::format("{}/{}{}-restored", find_cgroup_mount().path, kPrefix, migration_id);
}

FreezerGroup FreezerGroup::around(pid_t pid, const std::string& migration_id) {
  const std::string path = path_around(pid, migration_id);
  make_group(path);
  FreezerGroup group = adopt(path);
  group.add(pid);
  return group;
}

FreezerGroup FreezerGroup::create(const std::string& migration_id) {
  const std::string path = path_of_new(migration_id);
  make_group(path);
  FreezerGroup group = adopt(path);
  group.discard_frozen_ = true;
  return group;
}

FreezerGroup FreezerGroup::adopt(const std::string& path) { return FreezerGroup(path); }

void FreezerGroup::add(pid_t pid) {
  if (!try_move(path_, pid)) throw_system("move pid {} into the control group {}", pid, path_);
}

std::vector<pid_t> FreezerGroup::processes() const {
  const std::string text = read_file(fmt::format("{}/{}", path_, kProcs));
  std::vector<pid_t> pids;
  std::string_view rest = text;
  while (!rest.empty()) {
    const std::string_view line = trim(next_line(rest));
    // A task of a pid namespace that can't be seen from here is shown as 0.
    const pid_t pid = line.empty() ? 0 : parse_number<pid_t>(line, path_);
    if (pid > 0) pids.push_back(pid);
  }
  return pids;
}

void FreezerGroup::freeze() { write_digit(freeze_.get(), '1', path_); }
void FreezerGroup::thaw() { write_digit(freeze_.get(), '0', path_); }

bool FreezerGroup::frozen() const {
  return field_of_events(read_again(events_.get(), path_ + "/cgroup.events"), "frozen") == "1";
}

bool FreezerGroup::freeze_asked() const {
  return trim(read_again(freeze_.get(), path_ + "/cgroup.freeze")) == "1";
}

bool FreezerGroup::wait_frozen(std::chrono::nanoseconds timeout) const {
  const std::int64_t begin = monotonic_ns();
  // The kernel announces changes of cgroup.events at most every 10 ms: poll(2) would be too slow
  // for a blackout, so look often at first.
  constexpr std::int64_t kEagerNs = 20'000'000;
  for (;;) {
    if (frozen()) return true;
    const std::int64_t waited = monotonic_ns() - begin;
    if (waited >= timeout.count()) return false;
    sleep_ns(waited < kEagerNs ? 20'000 : 1'000'000);
  }
}

bool FreezerGroup::exists() const {
  struct stat info {};
  return ::stat(path_.c_str(), &info) == 0;
}

// A task that exits stays in its group for a moment: tries for a while.
void FreezerGroup::remove() {
  const std::int64_t end = monotonic_ns() + kRemoveNs;
  while (::rmdir(path_.c_str()) != 0 && errno != ENOENT) {
    if (errno != EBUSY || monotonic_ns() > end) throw_system("remove the control group {}", path_);
    sleep_ns(1'000'000);
  }
  owned_ = false;
}

void FreezerGroup::give_back() {
  if (!exists()) {
    owned_ = false;
    return;
  }
  const std::string parent = std::filesystem::path(path_).parent_path();
  thaw();
  const std::int64_t end = monotonic_ns() + kRemoveNs;
  // Again as long as there are any: a fork can add one behind our back, one that exits stays a
  // moment.
  for (std::vector<pid_t> left = processes(); !left.empty() && monotonic_ns() < end;
       left = processes()) {
    for (const pid_t pid : left) {
      if (!try_move(parent, pid) && errno != ESRCH) {
        throw_system("move pid {} into the control group {}", pid, parent);
      }
    }
  }
  remove();
}

void FreezerGroup::discard() {
  if (!exists()) {
    owned_ = false;
    return;
  }
  // cgroup.kill (Linux 5.14) leaves no moment for a fork; a frozen group has none either way.
  const UniqueFd kill_all = try_open_file(path_ + "/cgroup.kill", O_WRONLY);
  if (kill_all.valid() && ::write(kill_all.get(), "1", 1) != 1) {
    throw_system("write 1 to {}/cgroup.kill", path_);
  }
  for (const pid_t pid : processes()) ::kill(pid, SIGKILL);
  remove();
}

std::vector<std::string> find_leftover_groups(const std::string& migration_id) {
  const std::string wanted = std::string(kPrefix) + migration_id;
  std::vector<std::string> groups;
  std::error_code error;
  // Groups come and go while we look: what vanishes is no leftover.
  std::filesystem::recursive_directory_iterator at(
      find_cgroup_mount().path, std::filesystem::directory_options::skip_permission_denied, error);
  const std::filesystem::recursive_directory_iterator end;
  while (!error && at != end) {
    if (at->is_directory(error) && at->path().filename().string().starts_with(wanted)) {
      groups.push_back(at->path());
    }
    at.increment(error);
  }
  return groups;
}

}  // namespace godwit
