#include "common/image/image.h"

#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <filesystem>

#include "common/base/error.h"
#include "common/base/printable.h"
#include "common/image/sealed_file.h"

namespace godwit {
namespace {

constexpr std::array kListed{kStateFile, kIndexFile, kPagesFile};

bool is_id(const std::string& text) {
  return text.size() == 16 && std::all_of(text.begin(), text.end(), [](char c) {
           return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
         });
}

// A path that came out of a manifest leads to a directory beside the image, or further away, but
// never begins at the root of this host.
std::string base_path(const std::string& image, const proto::ImageBase& base) {
  const std::filesystem::path relative(base.path());
  if (base.path().empty() || relative.is_absolute() ||
      base.path().find('\0') != std::string::npos) {
    throw Error(fmt::format("{}/{}: '{}' is no path of a base image", image, kManifestFile,
                            printable(base.path())),
                EPROTO);
  }
  return (std::filesystem::path(image) / ".." / relative).lexically_normal().string();
}

UniqueFd open_directory(const std::string& path) {
  UniqueFd directory = try_open_file(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
  if (directory.valid()) return directory;
  const int code = errno;
  struct stat status {};
  if (::lstat(path.c_str(), &status) == 0 && S_ISLNK(status.st_mode)) {
    throw Error(fmt::format("{} is a symbolic link", path), ELOOP,
                "name the image directory itself");
  }
  throw_errno(code, "image " + path);
}

}  // namespace

std::string manifest_bytes(const proto::ImageManifest& manifest) {
  return seal(kManifestMagic, manifest.SerializeAsString());
}

Image::Image(std::string path, UniqueFd directory)
    : path_(std::move(path)), directory_(std::move(directory)) {}

UniqueFd Image::open_part(const char* name) const {
  UniqueFd part(::openat(directory_.get(), name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC));
  if (!part.valid()) throw_system("{}/{}", path_, name);
  struct stat status {};
  if (::fstat(part.get(), &status) != 0) throw_system("{}/{}", path_, name);
  if (!S_ISREG(status.st_mode)) {
    throw Error(fmt::format("{}/{} is no ordinary file", path_, name), EPROTO);
  }
  return part;
}

std::string Image::read_part(const char* name) const {
  return read_all(open_part(name).get(), fmt::format("{}/{}", path_, name));
}

Image Image::open_alone(const std::string& path) {
  std::string plain = path;
  while (plain.size() > 1 && plain.back() == '/') plain.pop_back();
  UniqueFd directory = open_directory(plain);
  Image image(std::move(plain), std::move(directory));
  const std::string name = fmt::format("{}/{}", image.path_, kManifestFile);
  std::string file;
  try {
    file = image.read_part(kManifestFile);
  } catch (const Error& error) {
    if (error.code() != ENOENT) throw;
    throw Error(fmt::format("{} is no image: it has no manifest", image.path_), ENOENT,
                "an image that was not completed has none: remove it");
  }
  const std::string_view body = unseal(kManifestMagic, file, name);
  if (!image.manifest_.ParseFromArray(body.data(), static_cast<int>(body.size())) ||
      !is_id(image.manifest_.id()) ||
      (image.manifest_.has_base() && !is_id(image.manifest_.base().id()))) {
    throw Error(name + ": its body is no manifest", EPROTO);
  }
  image.check_sizes();
  return image;
}

Image Image::open(const std::string& path) {
  Image image = open_alone(path);
  std::vector<std::string> ids{image.manifest_.id()};
  proto::ImageBase next = image.manifest_.base();
  std::string from = image.path_;
  for (bool more = image.manifest_.has_base(); more;) {
    if (std::find(ids.begin(), ids.end(), next.id()) != ids.end()) {
      throw Error(fmt::format("{}/{}: image {} is its own base", from, kManifestFile, next.id()),
                  EPROTO);
    }
    const std::string where = base_path(from, next);
    Image base = in_context([&] { return open_alone(where); }, "{}: its base image", from);
    if (base.manifest_.id() != next.id()) {
      throw Error(fmt::format("{}: its base image {} was replaced: it is {} and was {}", from,
                              where, base.manifest_.id(), next.id()),
                  ENOENT, "an image is no good without the base that it was made on");
    }
    ids.push_back(next.id());
    more = base.manifest_.has_base();
    next = base.manifest_.base();
    from = base.path_;
    image.bases_.push_back(std::move(base));
  }
  return image;
}

const proto::ImageFile& Image::listed(const char* name) const {
  for (const proto::ImageFile& file : manifest_.files()) {
    if (file.name() == name) return file;
  }
  throw Error(fmt::format("{}/{}: it does not list the file {}", path_, kManifestFile, name),
              EPROTO);
}

void Image::check_sizes() const {
  for (const char* name : kListed) {
    const std::uint64_t wanted = listed(name).bytes();
    struct stat status {};
    if (::fstat(open_part(name).get(), &status) != 0) throw_system("{}/{}", path_, name);
    if (static_cast<std::uint64_t>(status.st_size) != wanted) {
      throw Error(fmt::format("{}/{}: {} bytes, {} expected{}", path_, name, status.st_size, wanted,
                              static_cast<std::uint64_t>(status.st_size) < wanted
                                  ? fmt::format(": cut off at offset {}", status.st_size)
                                  : ""),
                  EPROTO);
    }
  }
}

proto::ImageState Image::read_state() const {
  const std::string name = fmt::format("{}/{}", path_, kStateFile);
  const std::string file = read_part(kStateFile);
  if (image_checksum(std::as_bytes(std::span(file))) != listed(kStateFile).checksum()) {
    throw Error(name + ": at offset 0: the checksum is wrong: the file is damaged", EPROTO);
  }
  const std::string_view body = unseal(kStateMagic, file, name);
  proto::ImageState state;
  if (!state.ParseFromArray(body.data(), static_cast<int>(body.size()))) {
    throw Error(name + ": its body is no description", EPROTO);
  }
  return state;
}

ImageLevel Image::open_level() const {
  ImageLevel level{open_part(kIndexFile), open_part(kPagesFile), path_};
  const std::string file = read_part(kIndexFile);
  if (image_checksum(std::as_bytes(std::span(file))) != listed(kIndexFile).checksum()) {
    throw Error(fmt::format("{}/{}: at offset 0: the checksum is wrong: the file is damaged", path_,
                            kIndexFile),
                EPROTO);
  }
  check_magic(kIndexMagic, file, fmt::format("{}/{}", path_, kIndexFile));
  return level;
}

std::vector<ImageLevel> Image::open_levels() const {
  std::vector<ImageLevel> levels;
  levels.push_back(open_level());
  for (const Image& base : bases_) levels.push_back(base.open_level());
  return levels;
}

void Image::verify() const {
  ImagePages pages(open_levels());
  for (std::uint32_t level = 0; level < pages.levels(); ++level) {
    const Image& image = level == 0 ? *this : bases_[level - 1];
    if (pages.index(level).id() != image.manifest_.id()) {
      throw Error(fmt::format("{}/{}: it belongs to image {}, not to {}", image.path_, kIndexFile,
                              pages.index(level).id(), image.manifest_.id()),
                  EPROTO);
    }
    pages.verify(level);
    image.read_state();
  }
}

std::uint64_t Image::bytes() const {
  std::uint64_t bytes = 0;
  for (const proto::ImageFile& file : manifest_.files()) bytes += file.bytes();
  return bytes;
}

}  // namespace godwit
