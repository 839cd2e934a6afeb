// A directory of images of one process, saved again and again: 000001, 000002, ..., each on the one
// before it. The oldest is whole; to forget it, the next one is made whole first.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

namespace godwit {

class ImageSeries {
 public:
  // Makes the directory if its parent is there. Throws Refused (image-unwritable) otherwise.
  explicit ImageSeries(std::string directory);

  // Complete images, the oldest first; not looked into.
  std::vector<std::string> images() const;
  // What the next image is to rest on: the newest that can be opened with all its bases.
  std::optional<std::string> newest() const;
  std::string next_path() const;
  // Forgets the oldest until `keep` (at least 1) are left. Whatever happens on the way, every image
  // that is there is good.
  void trim(std::size_t keep) const;

 private:
  std::string directory_;
};

// A directory that is no image but holds some: the newest that is whole, to its last page; those
// that are not are logged. Another path is given back as it is.
std::string newest_whole_image(const std::string& path);

}  // namespace godwit
