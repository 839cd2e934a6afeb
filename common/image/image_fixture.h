// Tests: images of a few pages, in a directory of their own.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "common/base/error.h"
#include "common/image/image.h"
#include "common/image/image_target.h"
#include "common/image/pages_file.h"

namespace godwit {

inline constexpr Address kImageBase = 0x7000'0000'0000;
inline constexpr const char* kFirstId = "00000000000000a1";
inline constexpr const char* kSecondId = "00000000000000a2";
inline constexpr const char* kThirdId = "00000000000000a3";

// A page that tells its own from others; `salt` 0: random bytes that do not pack.
inline std::string page_text(unsigned number, unsigned salt = 1) {
  std::string text(kPageSize, '\0');
  std::uint32_t state = number * 2654435761U + salt + 1;
  for (char& c : text) {
    state = state * 1664525U + 1013904223U;
    c = salt == 0 ? static_cast<char>(state >> 24) : static_cast<char>('a' + number % 26);
  }
  text.replace(0, 8, fmt::format("{:08x}", number + salt * 4096));
  return text;
}

class ImageCase : public ::testing::Test {
 protected:
  using Pages = std::vector<std::pair<unsigned, std::string>>;  // by number; empty: zero

  ImageCase() {
    std::string name = (std::filesystem::temp_directory_path() / "godwit-image-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) throw_system("mkdtemp");
    folder_ = name;
  }
  ~ImageCase() override { std::filesystem::remove_all(folder_); }

  static PageRange page_at(unsigned number) {
    const Address start = kImageBase + number * kPageSize;
    return {start, start + kPageSize};
  }
  std::string path(const std::string& name) const { return (folder_ / name).string(); }

  // An image with these pages, on a base or not.
  void make(const std::string& name, const std::string& id, const Pages& pages,
            Codec codec = Codec::kNone, const std::string& base = {}) {
    ImageTarget target(path(name), id);
    WriteRing ring;
    std::optional<Image> base_image;
    std::optional<ImagePages> base_pages;
    proto::ImageManifest manifest;
    if (!base.empty()) {
      base_image = Image::open(path(base));
      base_pages.emplace(base_image->open_levels());
      manifest.mutable_base()->set_id(base_image->manifest().id());
      manifest.mutable_base()->set_path(std::filesystem::path(base).filename());
    }
    PagesWriter writer(target.pages_fd(), id, codec, ring, base_pages ? &*base_pages : nullptr);
    for (const auto& [number, text] : pages) {
      const auto* data = reinterpret_cast<const std::byte*>(text.data());
      const PagePiece piece{page_at(number), text.empty() ? nullptr : data};
      writer.add(0, std::span(&piece, 1));
    }
    const PagesWritten written = writer.finish(target.index_fd());
    proto::ImageState state;
    state.set_monotonic_ns(17);
    manifest.set_id(id);
    manifest.set_data_pages(written.data_pages);
    manifest.set_base_pages(written.base_pages);
    target.finish_files(state, manifest);
    target.commit(manifest);
  }

  // What an image says of the pages 0..count-1.
  std::map<unsigned, std::string> contents(const std::string& name, unsigned count) const {
    ImagePages pages(Image::open(path(name)).open_levels());
    std::map<unsigned, std::string> found;
    for (unsigned number = 0; number < count; ++number) {
      const std::byte* page = pages.find_page(0, page_at(number).start);
      if (page == nullptr) continue;
      found[number].assign(reinterpret_cast<const char*>(page), kPageSize);
    }
    return found;
  }

  std::string read(const std::string& name) const {
    std::ifstream in(path(name), std::ios::binary);
    std::stringstream text;
    text << in.rdbuf();
    return text.str();
  }
  void write(const std::string& name, const std::string& text) const {
    std::ofstream(path(name), std::ios::binary | std::ios::trunc) << text;
  }
  // The story of verifying it; empty: it is whole.
  std::string what_is_wrong(const std::string& name) const {
    try {
      Image::open(path(name)).verify();
      return {};
    } catch (const Error& error) {
      return error.what();
    }
  }

  std::filesystem::path folder_;
};

}  // namespace godwit
