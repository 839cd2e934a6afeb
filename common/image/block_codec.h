// Blocks of pages, compressed or not. A block that does not become smaller is stored as it is.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "common/image/page_index.h"

namespace godwit {

// Used again and again; not for two threads at once.
class BlockCodec {
 public:
  BlockCodec();
  ~BlockCodec();
  BlockCodec(const BlockCodec&) = delete;
  BlockCodec& operator=(const BlockCodec&) = delete;

  // Writes the stored form of `raw` (whole pages, at most a block) to `to`, of the same size at
  // least. Returns its bytes and what it is stored as.
  std::pair<std::size_t, Codec> encode(Codec wanted, std::span<const std::byte> raw,
                                       std::span<std::byte> to);
  // `raw` has the size of the block's pages. Throws Error (code EPROTO) when `stored` does not come
  // to just that.
  void decode(Codec codec, std::span<const std::byte> stored, std::span<std::byte> raw);

 private:
  struct Contexts;
  std::unique_ptr<Contexts> contexts_;
};

}  // namespace godwit
