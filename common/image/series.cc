#include "common/image/series.h"

#include <sys/stat.h>

#include <algorithm>
#include <filesystem>

#include "common/base/error.h"
#include "common/base/log.h"
#include "common/image/image.h"
#include "common/image/image_target.h"
#include "common/image/merge.h"

namespace godwit {
namespace {

constexpr std::size_t kDigits = 6;

bool is_number(const std::string& name) {
  return name.size() >= kDigits &&
         std::all_of(name.begin(), name.end(), [](char c) { return c >= '0' && c <= '9'; });
}

std::uint64_t number_of(const std::string& path) {
  return std::stoull(std::filesystem::path(path).filename().string());
}

}  // namespace

ImageSeries::ImageSeries(std::string directory) : directory_(std::move(directory)) {
  if (::mkdir(directory_.c_str(), 0700) == 0) return;
  const int code = errno;
  if (code == EEXIST && std::filesystem::is_directory(directory_)) return;
  throw Refused("image-unwritable", fmt::format("{}: {}", directory_, errno_text(code)),
                "choose a directory that can be written");
}

std::vector<std::string> ImageSeries::images() const {
  std::vector<std::string> found;
  for (const auto& entry : std::filesystem::directory_iterator(directory_)) {
    const std::string name = entry.path().filename().string();
    if (is_number(name) && std::filesystem::exists(entry.path() / kManifestFile)) {
      found.push_back(entry.path().string());
    }
  }
  std::sort(found.begin(), found.end(),
            [](const std::string& a, const std::string& b) { return number_of(a) < number_of(b); });
  return found;
}

std::optional<std::string> ImageSeries::newest() const {
  const std::vector<std::string> all = images();
  for (auto each = all.rbegin(); each != all.rend(); ++each) {
    try {
      ImagePages(Image::open(*each).open_levels());
      return *each;
    } catch (const Error& error) {
      log_warning("no image rests on {}: {}", *each, error.what());
    }
  }
  return std::nullopt;
}

std::string ImageSeries::next_path() const {
  std::uint64_t last = 0;
  for (const std::string& each : images()) last = std::max(last, number_of(each));
  return fmt::format("{}/{:0{}}", directory_, last + 1, kDigits);
}

void ImageSeries::trim(std::size_t keep) const {
  for (std::vector<std::string> all = images(); all.size() > keep; all.erase(all.begin())) {
    {
      const Image next = Image::open(all[1]);
      if (!next.bases().empty()) make_whole(next);
    }
    remove_image(all[0]);
  }
}

std::string newest_whole_image(const std::string& path) {
  if (!std::filesystem::is_directory(path) ||
      std::filesystem::exists(std::filesystem::path(path) / kManifestFile)) {
    return path;
  }
  const std::vector<std::string> all = ImageSeries(path).images();
  for (auto each = all.rbegin(); each != all.rend(); ++each) {
    try {
      Image::open(*each).verify();
      return *each;
    } catch (const Error& error) {
      log_warning("{} is left out: {}", *each, error.what());
    }
  }
  return path;
}

}  // namespace godwit
