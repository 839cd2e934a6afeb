#include "common/image/merge.h"

#include "common/image/image_target.h"
#include "common/image/pages_file.h"

namespace godwit {

namespace {

void write_merged(const Image& image, ImageTarget& target, Codec codec) {
  ImagePages pages(image.open_levels());
  const std::string& id = target.id();
  WriteRing ring;
  PagesWriter writer(target.pages_fd(), id, codec, ring, nullptr);
  for (const std::uint32_t space : pages.spaces()) {
    // By address, so that neighbours lie together in the new one. What is read is valid until the
    // next read, so pages are gathered here.
    std::vector<std::byte> data;
    std::vector<PageRange> ranges;
    const auto flush = [&] {
      std::vector<PagePiece> pieces;
      const std::byte* at = data.data();
      for (const PageRange& range : ranges) {
        pieces.push_back({range, at});
        at += range.bytes();
      }
      writer.add(space, pieces);
      data.clear();
      ranges.clear();
    };
    for (const StoredPages& each : pages.pages_of(space)) {
      if (each.zero) {
        const PagePiece zeros{each.range, nullptr};
        writer.add(space, std::span(&zeros, 1));
        continue;
      }
      if (data.size() + each.range.bytes() > kBlockBytesMax) flush();
      const std::byte* from = pages.read(each);
      data.insert(data.end(), from, from + each.range.bytes());
      ranges.push_back(each.range);
    }
    flush();
  }
  const PagesWritten written = writer.finish(target.index_fd());
  proto::ImageManifest manifest = image.manifest();
  manifest.clear_base();
  manifest.set_id(id);
  manifest.set_compression(std::string(codec_name(codec)));
  manifest.set_data_pages(written.data_pages);
  manifest.set_base_pages(0);
  target.finish_files(image.read_state(), manifest);
  target.commit(manifest);
}

}  // namespace

void merge_image(const Image& image, const std::string& path, const std::string& id, Codec codec) {
  ImageTarget target(path, id);
  write_merged(image, target, codec);
}

void make_whole(const Image& image) {
  ImageTarget target(image.path(), image.manifest().id(), ImagePlace::kReplace);
  write_merged(image, target, codec_by_name(image.manifest().compression()).value_or(Codec::kNone));
}

}  // namespace godwit
