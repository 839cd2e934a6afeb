#include "common/image/sealed_file.h"

#if __has_include(<xxh_x86dispatch.h>)
#include <xxh_x86dispatch.h>  // chooses by what the processor has
#else
#include <xxhash.h>
#endif

#include <bit>
#include <cstring>

#include "common/base/error.h"

namespace godwit {
namespace {

static_assert(std::endian::native == std::endian::little, "images are little endian");

constexpr std::size_t kVersionAt = 8;

struct Seal {
  char magic[kMagicBytes];
  std::uint32_t version;
  std::uint32_t zero;
  std::uint64_t body_bytes;
  std::uint64_t checksum;
};
static_assert(sizeof(Seal) == kSealBytes);

std::uint64_t checksum_of(Seal header, std::string_view body) {
  header.checksum = 0;
  const std::uint64_t seed = XXH3_64bits(&header, sizeof(header));
  return XXH3_64bits_withSeed(body.data(), body.size(), seed);
}

}  // namespace

std::uint64_t image_checksum(std::span<const std::byte> bytes, std::uint64_t seed) {
  return XXH3_64bits_withSeed(bytes.data(), bytes.size(), seed);
}

std::string seal(std::string_view magic, std::string_view body) {
  Seal header{};
  std::memcpy(header.magic, magic.data(), kMagicBytes);
  header.version = kImageVersion;
  header.body_bytes = body.size();
  header.checksum = checksum_of(header, body);
  std::string file(sizeof(header), '\0');
  std::memcpy(file.data(), &header, sizeof(header));
  return file.append(body);
}

void check_magic(std::string_view magic, std::string_view start, const std::string& name) {
  if (start.size() < kMagicBytes + sizeof(std::uint32_t)) {
    throw Error(fmt::format("{}: cut off after {} bytes", name, start.size()), EPROTO);
  }
  if (start.substr(0, kMagicBytes) != magic) {
    throw Error(fmt::format("{}: at offset 0: not a file of an image ({} expected)", name, magic),
                EPROTO);
  }
  std::uint32_t version = 0;
  std::memcpy(&version, start.data() + kVersionAt, sizeof(version));
  if (version != kImageVersion) {
    throw Error(fmt::format("{}: at offset {}: format version {}, this release reads version {}",
                            name, kVersionAt, version, kImageVersion),
                EPROTO, "use the release that wrote it, or a later one");
  }
}

std::string_view unseal(std::string_view magic, std::string_view file, const std::string& name) {
  check_magic(magic, file, name);
  Seal header{};
  if (file.size() < sizeof(header)) {
    throw Error(fmt::format("{}: cut off after {} bytes", name, file.size()), EPROTO);
  }
  std::memcpy(&header, file.data(), sizeof(header));
  const std::string_view body = file.substr(sizeof(header));
  if (body.size() != header.body_bytes) {
    throw Error(fmt::format("{}: {} bytes behind its header, {} expected", name, body.size(),
                            header.body_bytes),
                EPROTO);
  }
  if (checksum_of(header, body) != header.checksum) {
    throw Error(fmt::format("{}: at offset 0: the checksum is wrong: the file is damaged", name),
                EPROTO);
  }
  return body;
}

}  // namespace godwit
