// An image directory in the making. It gets its name when it is complete and synced, in one step
// (rename(2)); until then everything is in `<name>.partial-<id>` beside it, which a failure removes
// and which the next one with this name removes when its maker was killed.
//
// Thread: one at a time. Errors: Refused (image-exists, image-unwritable, image-target-link) before
// anything was written; Error with the errno of what failed after.
#pragma once

#include <string>

#include "common/base/unique_fd.h"
#include "proto/image.pb.h"

namespace godwit {

// What commit() finds under its name.
enum class ImagePlace {
  kFree,     // nothing, or an empty directory
  kReplace,  // an image, which goes as the new one comes
};

class ImageTarget {
 public:
  // Makes the directory. `path` must be as `place` says.
  ImageTarget(std::string path, std::string id, ImagePlace place = ImagePlace::kFree);
  ~ImageTarget();  // removes what was made, unless committed
  ImageTarget(const ImageTarget&) = delete;
  ImageTarget& operator=(const ImageTarget&) = delete;

  const std::string& path() const { return path_; }
  const std::string& id() const { return id_; }
  // Written by whoever is given them; without the page cache where the filesystem can.
  int pages_fd() const { return pages_.get(); }
  int index_fd() const { return index_.get(); }

  // Writes `state` and syncs everything that was written. The files are listed in `manifest`.
  void finish_files(const proto::ImageState& state, proto::ImageManifest& manifest);
  // The moment at which the image is there: writes the manifest and gives the directory its name.
  void commit(const proto::ImageManifest& manifest);
  bool committed() const { return committed_; }

 private:
  void check_place();
  void remove_abandoned() const;
  void remove_partial() noexcept;
  UniqueFd create(const char* name, int flags = 0) const;
  void list(const char* name, int fd, bool with_checksum, proto::ImageManifest& manifest) const;

  std::string path_;
  std::string id_;
  ImagePlace place_;
  std::string partial_;
  UniqueFd parent_;
  UniqueFd directory_;  // locked while this lives: not abandoned
  UniqueFd pages_;
  UniqueFd index_;
  bool committed_ = false;
};

// An image of this id stands there, complete.
bool is_image_committed(const std::string& path, const std::string& id);
// Removes a whole image directory; the manifest first, so that what is left of it is none.
void remove_image(const std::string& path);

}  // namespace godwit
