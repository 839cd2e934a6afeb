#include "common/image/block_codec.h"

#include <lz4.h>
#include <zstd.h>

#include <cstring>

#include "common/base/error.h"

namespace godwit {
namespace {

// Writing is to keep up with a disk.
constexpr int kZstdLevel = 1;

template <auto kFree>
struct Free {
  template <typename T>
  void operator()(T* context) const {
    kFree(context);
  }
};

}  // namespace

struct BlockCodec::Contexts {
  std::unique_ptr<ZSTD_CCtx, Free<ZSTD_freeCCtx>> packing{ZSTD_createCCtx()};
  std::unique_ptr<ZSTD_DCtx, Free<ZSTD_freeDCtx>> unpacking{ZSTD_createDCtx()};
};

BlockCodec::BlockCodec() : contexts_(std::make_unique<Contexts>()) {
  if (!contexts_->packing || !contexts_->unpacking) fail("zstd: no memory");
}

BlockCodec::~BlockCodec() = default;

std::pair<std::size_t, Codec> BlockCodec::encode(Codec wanted, std::span<const std::byte> raw,
                                                 std::span<std::byte> to) {
  std::size_t bytes = 0;
  const std::size_t bytes_max = raw.size() - 1;
  if (wanted == Codec::kZstd) {
    const std::size_t result = ZSTD_compressCCtx(contexts_->packing.get(), to.data(), bytes_max,
                                                 raw.data(), raw.size(), kZstdLevel);
    if (ZSTD_isError(result) == 0) bytes = result;
  } else if (wanted == Codec::kLz4) {
    const int result = LZ4_compress_default(
        reinterpret_cast<const char*>(raw.data()), reinterpret_cast<char*>(to.data()),
        static_cast<int>(raw.size()), static_cast<int>(bytes_max));
    if (result > 0) bytes = static_cast<std::size_t>(result);
  }
  if (bytes > 0) return {bytes, wanted};
  std::memcpy(to.data(), raw.data(), raw.size());
  return {raw.size(), Codec::kNone};
}

void BlockCodec::decode(Codec codec, std::span<const std::byte> stored, std::span<std::byte> raw) {
  std::size_t bytes = 0;
  switch (codec) {
    case Codec::kNone:
      bytes = stored.size();
      if (bytes == raw.size()) std::memcpy(raw.data(), stored.data(), bytes);
      break;
    case Codec::kZstd:
      bytes = ZSTD_decompressDCtx(contexts_->unpacking.get(), raw.data(), raw.size(), stored.data(),
                                  stored.size());
      break;
    case Codec::kLz4:
      bytes = static_cast<std::size_t>(LZ4_decompress_safe(
          reinterpret_cast<const char*>(stored.data()), reinterpret_cast<char*>(raw.data()),
          static_cast<int>(stored.size()), static_cast<int>(raw.size())));
      break;
  }
  if (bytes != raw.size()) {
    throw Error(fmt::format("{} bytes of {} do not unpack to {}", stored.size(), codec_name(codec),
                            raw.size()),
                EPROTO);
  }
}

}  // namespace godwit
