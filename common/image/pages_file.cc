#include "common/image/pages_file.h"

#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "common/base/error.h"
#include "common/image/image_pages.h"
#include "common/image/sealed_file.h"

namespace godwit {
namespace {

constexpr std::size_t kIdAt = 16;
constexpr std::size_t kIdBytes = 16;

void write_all(int fd, std::string_view bytes) {
  for (std::size_t done = 0; done < bytes.size();) {
    const ssize_t wrote =
        ::pwrite(fd, bytes.data() + done, bytes.size() - done, static_cast<off_t>(done));
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0) throw_system("write the index of the image");
    done += static_cast<std::size_t>(wrote);
  }
}

}  // namespace

void check_pages_header(int fd, const std::string& id, const std::string& name) {
  std::array<char, kIdAt + kIdBytes> head{};
  const ssize_t got = ::pread(fd, head.data(), head.size(), 0);
  if (got < 0) throw_system("read {}", name);
  check_magic(kPagesMagic, std::string_view(head.data(), static_cast<std::size_t>(got)), name);
  if (got < static_cast<ssize_t>(head.size())) {
    throw Error(fmt::format("{}: cut off after {} bytes", name, got), EPROTO);
  }
  if (std::string_view(head.data() + kIdAt, kIdBytes) != id) {
    throw Error(
        fmt::format("{}: at offset {}: it belongs to another image than {}", name, kIdAt, id),
        EPROTO);
  }
}

PagesWriter::PagesWriter(int fd, std::string id, Codec codec, WriteRing& ring, ImagePages* base)
    : fd_(fd), id_(std::move(id)), codec_(codec), ring_(ring), base_(base) {
  if (codec_ != Codec::kNone) staging_.resize(kBlockBytesMax);
  const std::span<std::byte> header = ring_.room().first(kBlockAlignment);
  std::fill(header.begin(), header.end(), std::byte{0});
  std::memcpy(header.data(), kPagesMagic.data(), kMagicBytes);
  std::memcpy(header.data() + kMagicBytes, &kImageVersion, sizeof(kImageVersion));
  std::memcpy(header.data() + kIdAt, id_.data(), std::min(id_.size(), kIdBytes));
  ring_.write(fd_, 0, header.size());
  end_ = header.size();
}

void PagesWriter::add(std::uint32_t space, std::span<const PagePiece> pieces) {
  gathered_.clear();
  gathered_pages_ = 0;
  gathering_ = codec_ == Codec::kNone ? ring_.room() : std::span(staging_);
  for (const PagePiece& piece : pieces) {
    if (piece.data == nullptr) {
      // In its order: data of the same pages may be on either side of it.
      store_block(space);
      index_.put(space, {piece.range, RunKind::kZero});
      continue;
    }
    take(space, piece.range, piece.data);
  }
  store_block(space);
}

void PagesWriter::take(std::uint32_t space, const PageRange& range, const std::byte* data) {
  for (Address page = range.start; page < range.end; page += kPageSize, data += kPageSize) {
    if (is_in_base(space, page, data)) {
      index_.put(space, {{page, page + kPageSize}, RunKind::kBase});
      continue;
    }
    if (gathered_pages_ == kBlockPagesMax) store_block(space);
    std::memcpy(gathering_.data() + gathered_pages_ * kPageSize, data, kPageSize);
    ++gathered_pages_;
    if (!gathered_.empty() && gathered_.back().end == page) {
      gathered_.back().end += kPageSize;
    } else {
      gathered_.push_back({page, page + kPageSize});
    }
  }
}

bool PagesWriter::is_in_base(std::uint32_t space, Address address, const std::byte* page) {
  if (base_ == nullptr) return false;
  const std::byte* there = base_->find_page(space, address);
  return there != nullptr && std::memcmp(there, page, kPageSize) == 0;
}

void PagesWriter::store_block(std::uint32_t space) {
  if (gathered_pages_ == 0) return;
  const std::span<std::byte> raw = gathering_.first(gathered_pages_ * kPageSize);
  ImageBlock block{end_, static_cast<std::uint32_t>(raw.size()),
                   static_cast<std::uint16_t>(gathered_pages_)};
  std::span<std::byte> stored = raw;
  if (codec_ != Codec::kNone) {
    const std::span<std::byte> room = ring_.room();
    const auto [bytes, codec] = packer_.encode(codec_, raw, room);
    block.stored_bytes = static_cast<std::uint32_t>(bytes);
    block.codec = codec;
    stored = room.first(block_span(bytes));
    std::fill(stored.begin() + static_cast<std::ptrdiff_t>(bytes), stored.end(), std::byte{0});
  }
  block.checksum = image_checksum(stored.first(block.stored_bytes));
  ring_.write(fd_, end_, stored.size());
  end_ += stored.size();
  const std::uint32_t number = index_.add_block(block);
  std::uint32_t first = 0;
  for (const PageRange& range : gathered_) {
    index_.put(space, {range, RunKind::kData, number, first});
    first += static_cast<std::uint32_t>(range.pages());
  }
  gathered_.clear();
  gathered_pages_ = 0;
  if (codec_ == Codec::kNone) gathering_ = ring_.room();
}

PagesWritten PagesWriter::finish(int index_fd) {
  ring_.drain();
  write_all(index_fd, seal(kIndexMagic, index_.serialize(id_, end_)));
  const std::uint64_t base_pages = index_.count(RunKind::kBase);
  return {end_, index_.count(RunKind::kData) + base_pages, base_pages};
}

}  // namespace godwit
