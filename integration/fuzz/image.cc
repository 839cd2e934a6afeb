// libFuzzer: any bytes as the files of an image.
//
// As a sealed file; as the body of an index, with the checksum that a mutation would not hit and a
// file `pages` of the size that it names; as a block of each compression.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <memory>

#include "common/base/error.h"
#include "common/image/image_pages.h"
#include "common/image/pages_file.h"
#include "common/image/sealed_file.h"

namespace {

using namespace godwit;

constexpr std::uint64_t kPagesBytesMax = 1 << 20;

UniqueFd file_of(std::string_view bytes, std::uint64_t size) {
  UniqueFd file(memfd_create("part", MFD_CLOEXEC));
  if (write(file.get(), bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size()) ||
      ftruncate(file.get(), static_cast<off_t>(std::max(size, bytes.size()))) != 0) {
    __builtin_trap();
  }
  return file;
}

// What must throw nothing but Error.
template <typename Body>
void attempt(Body body) {
  try {
    body();
  } catch (const Error&) {
    return;
  }
}

void read_image(std::string_view body) {
  const PageIndex index = PageIndex::parse(body, "index");
  std::string header(kPagesHeaderBytes, '\0');
  header.replace(0, kMagicBytes, kPagesMagic);
  std::memcpy(header.data() + kMagicBytes, &kImageVersion, sizeof(kImageVersion));
  header.replace(16, 16, index.id());
  std::vector<ImageLevel> levels;
  levels.push_back({file_of(seal(kIndexMagic, body), 0),
                    file_of(header, std::min(index.pages_bytes(), kPagesBytesMax)), "image"});
  ImagePages pages(std::move(levels));
  for (const std::uint32_t space : pages.spaces()) {
    for (const ImageRun& run : pages.index(0).runs(space)) {
      attempt([&] { pages.find_page(space, run.range.start); });
      attempt([&] { pages.find_page(space, run.range.end - 1); });
    }
    attempt([&] { pages.pages_in_disk_order(space); });
  }
  pages.verify(0);
}

void unpack(std::span<const std::byte> bytes) {
  static BlockCodec& codec = *new BlockCodec;
  static std::vector<std::byte>& raw = *new std::vector<std::byte>(kBlockBytesMax);
  if (bytes.empty()) return;
  const std::uint64_t pages = std::to_integer<std::uint64_t>(bytes[0]) % kBlockPagesMax + 1;
  for (const Codec each : {Codec::kNone, Codec::kLz4, Codec::kZstd}) {
    attempt([&] { codec.decode(each, bytes.subspan(1), std::span(raw).first(pages * kPageSize)); });
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  for (const std::string_view magic : {kManifestMagic, kStateMagic, kIndexMagic}) {
    attempt([&] { unseal(magic, text, "file"); });
  }
  attempt([&] { read_image(text); });
  unpack({reinterpret_cast<const std::byte*>(data), size});
  return 0;
}
