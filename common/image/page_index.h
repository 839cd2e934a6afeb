// Where each page of an image is: the file `index`, sorted for binary search, so that one page is
// found without reading the others.
//
// Pages are stored in blocks of up to kBlockPagesMax, in the file `pages`, as they were written; a
// run of the index says which pages of which block are those of an address range. What a later
// round replaced stays in its block, and no run names it.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/page_range.h"

namespace godwit {

enum class Codec : std::uint16_t { kNone = 0, kLz4 = 1, kZstd = 2 };

std::string_view codec_name(Codec codec);
std::optional<Codec> codec_by_name(std::string_view name);

inline constexpr std::uint64_t kBlockPagesMax = 64;
inline constexpr std::uint64_t kBlockBytesMax = kBlockPagesMax * kPageSize;
inline constexpr std::uint64_t kBlockAlignment = 4096;

// Multiples of kBlockAlignment, as in the file.
constexpr std::uint64_t block_span(std::uint64_t stored_bytes) {
  return (stored_bytes + kBlockAlignment - 1) / kBlockAlignment * kBlockAlignment;
}

struct ImageBlock {
  std::uint64_t offset = 0;  // into `pages`
  std::uint32_t stored_bytes = 0;
  std::uint16_t pages = 0;
  Codec codec = Codec::kNone;
  std::uint64_t checksum = 0;  // XXH3-64 of the stored bytes
  friend bool operator==(const ImageBlock&, const ImageBlock&) = default;
};

enum class RunKind : std::uint8_t {
  kData = 0,  // in a block of this image
  kZero = 1,  // zero, whatever the area would hold without it
  kBase = 2,  // as in the base image
};

struct ImageRun {
  PageRange range;
  RunKind kind = RunKind::kData;
  std::uint32_t block = 0;
  std::uint32_t first = 0;  // page of the block
  friend bool operator==(const ImageRun&, const ImageRun&) = default;
};

// Collects the runs while pages are written; the last word on a page counts.
class PageIndexBuilder {
 public:
  std::uint32_t add_block(const ImageBlock& block);
  void put(std::uint32_t space, const ImageRun& run);
  // Nothing of what lies outside of `areas` (sorted, not overlapping) is left.
  void keep_only(std::uint32_t space, std::span<const PageRange> areas);

  // Pages of a kind, of all spaces.
  std::uint64_t count(RunKind kind) const;
  // The body of the file `index`. `id` of the image; `pages_bytes`: size of the file `pages`.
  std::string serialize(std::string_view id, std::uint64_t pages_bytes) const;

 private:
  using Runs = std::map<Address, ImageRun>;
  static void erase(Runs& runs, const PageRange& range);

  std::vector<ImageBlock> blocks_;
  std::map<std::uint32_t, Runs> spaces_;
};

class PageIndex {
 public:
  // Throws Error (code EPROTO) naming `name` and the element for anything that serialize() would
  // not have made.
  static PageIndex parse(std::string_view body, const std::string& name);

  const std::string& id() const { return id_; }
  std::uint64_t pages_bytes() const { return pages_bytes_; }
  std::span<const ImageBlock> blocks() const { return blocks_; }
  std::vector<std::uint32_t> spaces() const;
  // Sorted by address; empty for a space that is not there.
  std::span<const ImageRun> runs(std::uint32_t space) const;
  // The run that holds the page at `address`.
  const ImageRun* find(std::uint32_t space, Address address) const;

 private:
  void check_blocks(const std::string& name) const;
  void check_runs(std::span<const ImageRun> runs, const std::string& name) const;

  std::string id_;
  std::uint64_t pages_bytes_ = 0;
  std::vector<ImageBlock> blocks_;
  std::map<std::uint32_t, std::vector<ImageRun>> spaces_;
};

}  // namespace godwit
