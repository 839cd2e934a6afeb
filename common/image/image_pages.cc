#include "common/image/image_pages.h"

#include <unistd.h>

#include <algorithm>
#include <tuple>

#include "common/base/error.h"
#include "common/image/pages_file.h"
#include "common/image/sealed_file.h"

namespace godwit {
namespace {

// All of `to`. Throws Error for a file that ends before.
void read_at(int fd, std::span<std::byte> to, std::uint64_t offset, const std::string& name) {
  for (std::size_t done = 0; done < to.size();) {
    const ssize_t got =
        ::pread(fd, to.data() + done, to.size() - done, static_cast<off_t>(offset + done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw_system("{}: read at offset {}", name, offset + done);
    if (got == 0) throw Error(fmt::format("{}: cut off at offset {}", name, offset + done), EPROTO);
    done += static_cast<std::size_t>(got);
  }
}

void check_zeros(std::span<const std::byte> bytes, std::uint64_t offset, const std::string& name) {
  const auto stray =
      std::find_if(bytes.begin(), bytes.end(), [](std::byte b) { return b != std::byte{0}; });
  if (stray == bytes.end()) return;
  throw Error(fmt::format("{}: something at offset {}, where nothing is stored", name,
                          offset + static_cast<std::uint64_t>(stray - bytes.begin())),
              EPROTO);
}

// Whatever has been read of the descriptor before.
std::string read_whole(int fd, const std::string& name) {
  if (::lseek(fd, 0, SEEK_SET) < 0) throw_system("{}: seek", name);
  return read_all(fd, name);
}

}  // namespace

ImagePages::ImagePages(std::vector<ImageLevel> levels)
    : ImagePages(read_levels(std::move(levels))) {}

ImagePages::ImagePages(Levels levels)
    : levels_(std::move(levels)), stored_(kBlockBytesMax), raw_(kBlockBytesMax) {}

ImagePages::Levels ImagePages::read_levels(std::vector<ImageLevel> levels) {
  if (levels.empty()) fail("an image without files");
  auto read = std::make_shared<std::vector<Level>>();
  for (ImageLevel& level : levels) {
    const std::string index_name = level.name + "/index";
    const std::string file = read_whole(level.index.get(), index_name);
    PageIndex index = PageIndex::parse(unseal(kIndexMagic, file, index_name), index_name);
    check_pages_header(level.pages.get(), index.id(), level.name + "/pages");
    read->push_back({std::move(index), std::move(level.pages), std::move(level.name)});
  }
  return read;
}

// The chain is followed range by range: what one level has in a base is looked for in the next.
void ImagePages::resolve(std::uint32_t space, std::uint32_t level, const PageRange& range,
                         std::vector<StoredPages>& to) const {
  const std::vector<Level>& levels = *levels_;
  if (level >= levels.size()) {
    throw Error(fmt::format("{}/index: the page at {:#x} is said to be in a base image, and there "
                            "is none",
                            levels.back().name, range.start),
                EPROTO);
  }
  const std::span<const ImageRun> runs = levels[level].index.runs(space);
  auto run = std::partition_point(runs.begin(), runs.end(), [&](const ImageRun& each) {
    return each.range.end <= range.start;
  });
  Address at = range.start;
  for (; run != runs.end() && run->range.start < range.end; ++run) {
    const PageRange part{std::max(run->range.start, range.start),
                         std::min(run->range.end, range.end)};
    if (level > 0 && (part.start != at || run->kind == RunKind::kZero)) break;
    at = part.end;
    if (run->kind == RunKind::kBase) {
      resolve(space, level + 1, part, to);
      continue;
    }
    const auto skipped = static_cast<std::uint32_t>((part.start - run->range.start) / kPageSize);
    const bool zero = run->kind == RunKind::kZero;
    to.push_back({part, zero, level, run->block, zero ? 0 : run->first + skipped});
  }
  if (level > 0 && at != range.end) {
    throw Error(fmt::format("{}/index: the page at {:#x} is said to be in the base image {}, which "
                            "has none",
                            levels[level - 1].name, at, levels[level].name),
                EPROTO);
  }
}

std::vector<StoredPages> ImagePages::pages_of(std::uint32_t space) const {
  std::vector<StoredPages> pages;
  const std::span<const ImageRun> runs = levels_->front().index.runs(space);
  if (!runs.empty()) resolve(space, 0, {runs.front().range.start, runs.back().range.end}, pages);
  return pages;
}

std::vector<StoredPages> ImagePages::pages_in_disk_order(std::uint32_t space) const {
  std::vector<StoredPages> pages = pages_of(space);
  std::stable_sort(pages.begin(), pages.end(), [](const StoredPages& a, const StoredPages& b) {
    return std::tuple(!a.zero, a.level, a.block, a.first) <
           std::tuple(!b.zero, b.level, b.block, b.first);
  });
  return pages;
}

std::optional<StoredPages> ImagePages::place_of(std::uint32_t space, Address address) const {
  if (levels_->front().index.find(space, address) == nullptr) return std::nullopt;
  std::vector<StoredPages> pages;
  resolve(space, 0, {address, address + kPageSize}, pages);
  return pages.at(0);
}

std::vector<StoredPages> ImagePages::pages_in(std::uint32_t space, const PageRange& range) const {
  std::vector<StoredPages> pages;
  resolve(space, 0, range, pages);
  return pages;
}

void ImagePages::load(std::uint32_t number, std::uint32_t block_number) {
  const std::pair wanted{number, block_number};
  if (loaded_ == wanted) return;
  loaded_.reset();
  const Level& level = (*levels_)[number];
  const ImageBlock& block = level.index.blocks()[block_number];
  const std::string name = level.name + "/pages";
  const std::span<std::byte> raw = std::span(raw_).first(block.pages * kPageSize);
  // What is not packed is read where it is wanted.
  const std::span<std::byte> stored =
      block.codec == Codec::kNone ? raw : std::span(stored_).first(block.stored_bytes);
  read_at(level.pages.get(), stored, block.offset, name);
  if (image_checksum(stored) != block.checksum) {
    throw Error(fmt::format("{}: the checksum of {} bytes at offset {} (block {}) is wrong: the "
                            "file is damaged",
                            name, block.stored_bytes, block.offset, block_number),
                EPROTO);
  }
  if (block.codec != Codec::kNone) {
    in_context([&] { codec_.decode(block.codec, stored, raw); }, "{}: at offset {} (block {})",
               name, block.offset, block_number);
  }
  loaded_ = wanted;
}

const std::byte* ImagePages::read(const StoredPages& pages) {
  load(pages.level, pages.block);
  return raw_.data() + pages.first * kPageSize;
}

const std::byte* ImagePages::find_page(std::uint32_t space, Address address) {
  const std::optional<StoredPages> place = place_of(space, address);
  return !place || place->zero ? nullptr : read(*place);
}

void ImagePages::verify(std::uint32_t number) {
  const Level& level = levels_->at(number);
  const std::string name = level.name + "/pages";
  for (std::uint32_t i = 0; i < level.index.blocks().size(); ++i) {
    load(number, i);
    const ImageBlock& block = level.index.blocks()[i];
    const std::uint64_t end = block.offset + block.stored_bytes;
    const std::span<std::byte> padding =
        std::span(stored_).first(block_span(block.stored_bytes) - block.stored_bytes);
    read_at(level.pages.get(), padding, end, name);
    check_zeros(padding, end, name);
  }
  const std::span<std::byte> header = std::span(stored_).first(kBlockAlignment);
  read_at(level.pages.get(), header, 0, name);
  constexpr std::size_t kZeroAt = kMagicBytes + sizeof(kImageVersion);
  check_zeros(header.subspan(kZeroAt, sizeof(std::uint32_t)), kZeroAt, name);
  check_zeros(header.subspan(kPagesHeaderBytes), kPagesHeaderBytes, name);
  const off_t end = ::lseek(level.pages.get(), 0, SEEK_END);
  if (static_cast<std::uint64_t>(end) != level.index.pages_bytes()) {
    throw Error(fmt::format("{}: {} bytes, {} expected", name, end, level.index.pages_bytes()),
                EPROTO);
  }
  if (number == 0) {
    for (const std::uint32_t space : spaces()) pages_of(space);
  }
}

}  // namespace godwit
