// The pages of an image and of the images that it rests on, read by address or in the order in
// which they lie on disk.
//
// It is made from descriptors, which a process without privileges can be given. Everything in the
// files is taken for foreign. Thread: one at a time, each with a reader of its own.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/base/unique_fd.h"
#include "common/image/block_codec.h"
#include "common/image/page_index.h"

namespace godwit {

// One image of a chain.
struct ImageLevel {
  UniqueFd index;
  UniqueFd pages;
  std::string name;  // its directory, for stories
};

// Pages that lie together, in a block of one of the images.
struct StoredPages {
  PageRange range;
  bool zero = false;
  std::uint32_t level = 0;
  std::uint32_t block = 0;
  std::uint32_t first = 0;
};

class ImagePages {
 public:
  // The image itself first, then its base, and so on. Reads every index. Throws Error (code EPROTO)
  // naming the file for what is damaged.
  explicit ImagePages(std::vector<ImageLevel> levels);

  // Another reader of the same files, for another thread; what is long in memory is shared.
  ImagePages another_reader() const { return ImagePages(levels_); }

  std::vector<std::uint32_t> spaces() const { return levels_->front().index.spaces(); }
  // All of an address space, by address. Throws Error naming the address of a page that the index
  // promises in a base which doesn't have it.
  std::vector<StoredPages> pages_of(std::uint32_t space) const;
  // The same in the order of the disk, zero pages first.
  std::vector<StoredPages> pages_in_disk_order(std::uint32_t space) const;
  // What pages_of() would have for the page at `address`.
  std::optional<StoredPages> place_of(std::uint32_t space, Address address) const;
  // What pages_of() would have between the two addresses.
  std::vector<StoredPages> pages_in(std::uint32_t space, const PageRange& range) const;

  // The content of `pages`, which is not zero; whole, checked, valid until the next call.
  const std::byte* read(const StoredPages& pages);
  // The content of one page, likewise; null when the image has none or it is zero.
  const std::byte* find_page(std::uint32_t space, Address address);

  // Reads everything of one level and checks what no restore would look at, too.
  std::size_t levels() const { return levels_->size(); }
  void verify(std::uint32_t level);
  const PageIndex& index(std::uint32_t level) const { return levels_->at(level).index; }

 private:
  struct Level {
    PageIndex index;
    UniqueFd pages;
    std::string name;
  };
  using Levels = std::shared_ptr<const std::vector<Level>>;
  explicit ImagePages(Levels levels);
  static Levels read_levels(std::vector<ImageLevel> levels);
  void resolve(std::uint32_t space, std::uint32_t level, const PageRange& range,
               std::vector<StoredPages>& to) const;
  void load(std::uint32_t level, std::uint32_t block);

  Levels levels_;
  BlockCodec codec_;
  std::vector<std::byte> stored_;
  std::vector<std::byte> raw_;
  std::optional<std::pair<std::uint32_t, std::uint32_t>> loaded_;  // level and block in raw_
};

}  // namespace godwit
