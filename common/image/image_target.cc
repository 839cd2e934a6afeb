#include "common/image/image_target.h"

#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>

#include <filesystem>

#include "common/base/error.h"
#include "common/base/log.h"
#include "common/image/image.h"
#include "common/image/sealed_file.h"

namespace godwit {
namespace {

constexpr std::string_view kPartialMark = ".partial-";

std::string without_slashes(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path;
}

void sync(int fd, const std::string& name) {
  if (::fsync(fd) != 0) throw_system("sync {}", name);
}

void write_all(int fd, std::string_view bytes, const std::string& name) {
  while (!bytes.empty()) {
    const ssize_t wrote = ::write(fd, bytes.data(), bytes.size());
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0) throw_system("write {}", name);
    bytes.remove_prefix(static_cast<std::size_t>(wrote));
  }
}

// From its beginning, wherever its offset stands.
std::uint64_t checksum_of_file(int fd, const std::string& name) {
  if (::lseek(fd, 0, SEEK_SET) < 0) throw_system("seek {}", name);
  const std::string bytes = read_all(fd, name);
  return image_checksum(std::as_bytes(std::span(bytes)));
}

}  // namespace

ImageTarget::ImageTarget(std::string path, std::string id, ImagePlace place)
    : path_(without_slashes(std::filesystem::absolute(path).lexically_normal().string())),
      id_(std::move(id)),
      place_(place),
      partial_(fmt::format("{}{}{}", path_, kPartialMark, id_)) {
  check_place();
  remove_abandoned();
  if (::mkdir(partial_.c_str(), 0700) != 0) {
    const int code = errno;
    throw Refused("image-unwritable", fmt::format("{}: {}", partial_, errno_text(code)),
                  "choose a directory that can be written");
  }
  try {
    directory_ = open_file(partial_, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
    if (::flock(directory_.get(), LOCK_EX | LOCK_NB) != 0) throw_system("lock {}", partial_);
    index_ = create(kIndexFile);
    pages_ = create(kPagesFile, O_DIRECT);
  } catch (...) {
    remove_partial();
    throw;
  }
}

ImageTarget::~ImageTarget() {
  if (!committed_) remove_partial();
}

void ImageTarget::check_place() {
  const std::string parent = std::filesystem::path(path_).parent_path().string();
  parent_ = try_open_file(parent, O_RDONLY | O_DIRECTORY);
  if (!parent_.valid()) {
    const int code = errno;
    throw Refused("image-unwritable", fmt::format("{}: {}", parent, errno_text(code)),
                  "make the directory in which the image is to be");
  }
  struct stat status {};
  if (::lstat(path_.c_str(), &status) != 0) {
    if (errno == ENOENT) return;
    const int code = errno;
    throw Refused("image-unwritable", fmt::format("{}: {}", path_, errno_text(code)));
  }
  if (S_ISLNK(status.st_mode)) {
    throw Refused("image-target-link", path_ + " is a symbolic link",
                  "name the directory that the image is to be, not a link to it");
  }
  std::error_code ignored;
  if (place_ == ImagePlace::kReplace) return;
  if (!S_ISDIR(status.st_mode) || !std::filesystem::is_empty(path_, ignored)) {
    throw Refused("image-exists", path_ + " is there already", "choose a name that is not taken");
  }
}

// A maker that lives holds the lock.
void ImageTarget::remove_abandoned() const {
  const std::filesystem::path place(path_);
  const std::string prefix = place.filename().string() + std::string(kPartialMark);
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(place.parent_path(), ignored)) {
    if (!entry.path().filename().string().starts_with(prefix)) continue;
    const UniqueFd left = try_open_file(entry.path(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
    if (!left.valid() || ::flock(left.get(), LOCK_EX | LOCK_NB) != 0) continue;
    log_info("removing {}, which was not completed", entry.path().string());
    std::filesystem::remove_all(entry.path(), ignored);
  }
}

void ImageTarget::remove_partial() noexcept {
  std::error_code failed;
  std::filesystem::remove_all(partial_, failed);
  if (failed) log_warning("{} can't be removed: {}", partial_, failed.message());
}

UniqueFd ImageTarget::create(const char* name, int flags) const {
  constexpr int kFlags = O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW;
  UniqueFd file(::openat(directory_.get(), name, kFlags | flags, 0600));
  // Not every filesystem has what is asked for; the file may be there all the same.
  if (!file.valid() && errno == EINVAL && flags != 0) {
    ::unlinkat(directory_.get(), name, 0);
    file.reset(::openat(directory_.get(), name, kFlags, 0600));
  }
  if (!file.valid()) throw_system("create {}/{}", partial_, name);
  return file;
}

void ImageTarget::list(const char* name, int fd, bool with_checksum,
                       proto::ImageManifest& manifest) const {
  const std::string full_name = fmt::format("{}/{}", partial_, name);
  struct stat status {};
  if (::fstat(fd, &status) != 0) throw_system("{}", full_name);
  proto::ImageFile& file = *manifest.add_files();
  file.set_name(name);
  file.set_bytes(static_cast<std::uint64_t>(status.st_size));
  if (with_checksum) file.set_checksum(checksum_of_file(fd, full_name));
  sync(fd, full_name);
}

void ImageTarget::finish_files(const proto::ImageState& state, proto::ImageManifest& manifest) {
  const UniqueFd file = create(kStateFile);
  write_all(file.get(), seal(kStateMagic, state.SerializeAsString()), partial_ + "/state");
  manifest.clear_files();
  list(kStateFile, file.get(), true, manifest);
  list(kIndexFile, index_.get(), true, manifest);
  list(kPagesFile, pages_.get(), false, manifest);
}

void ImageTarget::commit(const proto::ImageManifest& manifest) {
  {
    const UniqueFd file = create(kManifestFile);
    const std::string name = fmt::format("{}/{}", partial_, kManifestFile);
    write_all(file.get(), manifest_bytes(manifest), name);
    sync(file.get(), name);
  }
  sync(directory_.get(), partial_);
  const unsigned how = place_ == ImagePlace::kReplace ? RENAME_EXCHANGE : 0;
  if (::renameat2(AT_FDCWD, partial_.c_str(), AT_FDCWD, path_.c_str(), how) != 0) {
    throw_system("rename {} to {}", partial_, path_);
  }
  committed_ = true;
  sync(parent_.get(), "the directory of " + path_);
  if (place_ == ImagePlace::kReplace) remove_partial();
}

bool is_image_committed(const std::string& path, const std::string& id) {
  try {
    return Image::open(path).manifest().id() == id;
  } catch (const Error& error) {
    log_info("{}: {}", path, error.what());
    return false;
  }
}

void remove_image(const std::string& path) {
  const std::filesystem::path directory(path);
  std::filesystem::remove(directory / kManifestFile);
  std::filesystem::remove_all(directory);
}

}  // namespace godwit
