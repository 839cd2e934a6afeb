// An image directory as it is found: its manifest, its state, its pages and those of its bases.
//
//   manifest  what it is, with the sizes and checksums of all others; an image without it is none
//   state     the description of the process, proto/image.proto
//   index     where each page is
//   pages     the pages
//
// docs/image-format.md has every byte. Errors name the file; code ENOENT where a directory is no
// image or a base is missing, EPROTO where something is damaged.
#pragma once

#include <string>
#include <vector>

#include "common/image/image_pages.h"
#include "proto/image.pb.h"

namespace godwit {

inline constexpr const char* kManifestFile = "manifest";
inline constexpr const char* kStateFile = "state";
inline constexpr const char* kIndexFile = "index";
inline constexpr const char* kPagesFile = "pages";

class Image {
 public:
  // `path` is the directory itself, not a symbolic link to it. Reads the manifest and compares the
  // sizes of the files with it; its bases are opened as well, to the last one.
  static Image open(const std::string& path);

  const std::string& path() const { return path_; }
  const proto::ImageManifest& manifest() const { return manifest_; }
  // Empty for an image that is whole by itself.
  const std::vector<Image>& bases() const { return bases_; }
  proto::ImageState read_state() const;
  // Of itself first, then of its bases, for ImagePages or for whoever is to make one. Checks that
  // each index is the one of the manifest.
  std::vector<ImageLevel> open_levels() const;
  // Everything there is, its bases included. Throws Error for the first thing that is wrong.
  void verify() const;
  // Of its own files.
  std::uint64_t bytes() const;

 private:
  Image(std::string path, UniqueFd directory);
  static Image open_alone(const std::string& path);
  UniqueFd open_part(const char* name) const;
  std::string read_part(const char* name) const;
  const proto::ImageFile& listed(const char* name) const;
  void check_sizes() const;
  ImageLevel open_level() const;

  std::string path_;
  UniqueFd directory_;
  proto::ImageManifest manifest_;
  std::vector<Image> bases_;
};

// The whole file `manifest` as bytes.
std::string manifest_bytes(const proto::ImageManifest& manifest);

}  // namespace godwit
