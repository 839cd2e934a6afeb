// The file `pages` of an image: a header of 4 KiB, then blocks. Written here; read by
// image_pages.h.
//
//   magic "GODWPAGE"   u32 version   u32 zero   id (16 digits)   zeros up to 4096
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "common/image/block_codec.h"
#include "common/image/page_index.h"
#include "common/image/write_ring.h"

namespace godwit {

class ImagePages;

inline constexpr std::size_t kPagesHeaderBytes = 32;

// Throws Error (code EPROTO) unless the file begins as that of the image `id`.
void check_pages_header(int fd, const std::string& id, const std::string& name);

// A range of pages and where their content is.
struct PagePiece {
  PageRange range;
  const std::byte* data = nullptr;  // null: zero pages
};

struct PagesWritten {
  std::uint64_t pages_bytes = 0;  // of the file
  std::uint64_t data_pages = 0;   // that a restore places, those of the base included
  std::uint64_t base_pages = 0;
};

class PagesWriter {
 public:
  // Borrows `fd` (empty, O_DIRECT or not), `ring` and `base`, which may be null: pages that are
  // equal there are not stored again. Writes the header.
  PagesWriter(int fd, std::string id, Codec codec, WriteRing& ring, ImagePages* base);

  // Takes pieces with at most kBlockPagesMax pages of data in all. Throws Error with the errno of a
  // write that failed.
  void add(std::uint32_t space, std::span<const PagePiece> pieces);
  // The process has nothing outside of these any more.
  void keep_only(std::uint32_t space, std::span<const PageRange> areas) {
    index_.keep_only(space, areas);
  }
  // Waits for all writes, and writes the file `index`.
  PagesWritten finish(int index_fd);

 private:
  void take(std::uint32_t space, const PageRange& range, const std::byte* data);
  bool is_in_base(std::uint32_t space, Address address, const std::byte* page);
  void store_block(std::uint32_t space);

  int fd_;
  std::string id_;
  Codec codec_;
  WriteRing& ring_;
  ImagePages* base_;
  BlockCodec packer_;
  PageIndexBuilder index_;
  std::uint64_t end_ = 0;            // of the file
  std::span<std::byte> gathering_;   // the pages of the next block
  std::vector<std::byte> staging_;   // what gathering_ is, where they are to be packed
  std::vector<PageRange> gathered_;  // in the order of their pages
  std::uint64_t gathered_pages_ = 0;
};

}  // namespace godwit
