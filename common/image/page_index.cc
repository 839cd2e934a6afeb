#include "common/image/page_index.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "common/base/error.h"

namespace godwit {
namespace {

constexpr std::size_t kIdBytes = 16;
constexpr Address kAddressEnd = 1ULL << 57;
constexpr std::uint64_t kKindMask = 3;
constexpr std::array<std::string_view, 3> kCodecNames{"none", "lz4", "zstd"};

struct IndexHeader {
  char id[kIdBytes];
  std::uint64_t pages_bytes;
  std::uint64_t blocks;
  std::uint64_t spaces;
};

struct StoredBlock {
  std::uint64_t offset;
  std::uint32_t stored_bytes;
  std::uint16_t pages;
  std::uint16_t codec;
  std::uint64_t checksum;
};
static_assert(sizeof(StoredBlock) == 24);

struct StoredSpace {
  std::uint32_t space;
  std::uint32_t zero;
  std::uint64_t runs;
};
static_assert(sizeof(StoredSpace) == 16);

struct StoredRun {
  std::uint64_t start_and_kind;
  std::uint64_t pages;
  std::uint32_t block;
  std::uint32_t first;
};
static_assert(sizeof(StoredRun) == 24);

template <typename Record>
void append(std::string& to, const Record& record) {
  to.append(reinterpret_cast<const char*>(&record), sizeof(record));
}

template <typename... Args>
[[noreturn]] void malformed(const std::string& name, fmt::format_string<Args...> format,
                            Args&&... args) {
  throw Error(fmt::format("{}: {}", name, fmt::format(format, std::forward<Args>(args)...)),
              EPROTO);
}

// Takes records off the front of a body.
class Records {
 public:
  Records(std::string_view bytes, const std::string& name) : rest_(bytes), name_(name) {}

  template <typename Record>
  Record take(const char* what) {
    Record record{};
    if (rest_.size() < sizeof(record)) malformed(name_, "cut off in its {}", what);
    std::memcpy(&record, rest_.data(), sizeof(record));
    rest_.remove_prefix(sizeof(record));
    return record;
  }
  // So that a number can't make us reserve more than the file has.
  template <typename Record>
  std::size_t fitting(std::uint64_t count, const char* what) const {
    if (count > rest_.size() / sizeof(Record)) malformed(name_, "{} {} are not there", count, what);
    return count;
  }
  bool empty() const { return rest_.empty(); }

 private:
  std::string_view rest_;
  const std::string& name_;
};

ImageRun part_of(const ImageRun& run, const PageRange& range) {
  ImageRun part = run;
  part.range = range;
  if (run.kind == RunKind::kData) {
    part.first += static_cast<std::uint32_t>((range.start - run.range.start) / kPageSize);
  }
  return part;
}

ImageRun to_run(const StoredRun& stored, const std::string& name) {
  const Address start = stored.start_and_kind & ~(kPageSize - 1);
  const std::uint64_t kind = stored.start_and_kind & (kPageSize - 1);
  if (kind >= kKindMask) malformed(name, "run at {:#x}: unknown kind {}", start, kind);
  if (start >= kAddressEnd || stored.pages == 0 ||
      stored.pages > (kAddressEnd - start) / kPageSize) {
    malformed(name, "run at {:#x}: {} pages are no range", start, stored.pages);
  }
  return {{start, start + stored.pages * kPageSize},
          static_cast<RunKind>(kind),
          stored.block,
          stored.first};
}

}  // namespace

std::string_view codec_name(Codec codec) { return kCodecNames.at(static_cast<std::size_t>(codec)); }

std::optional<Codec> codec_by_name(std::string_view name) {
  const auto found = std::find(kCodecNames.begin(), kCodecNames.end(), name);
  if (found == kCodecNames.end()) return std::nullopt;
  return static_cast<Codec>(found - kCodecNames.begin());
}

std::uint32_t PageIndexBuilder::add_block(const ImageBlock& block) {
  blocks_.push_back(block);
  return static_cast<std::uint32_t>(blocks_.size() - 1);
}

void PageIndexBuilder::erase(Runs& runs, const PageRange& range) {
  auto at = runs.lower_bound(range.start);
  if (at != runs.begin() && std::prev(at)->second.range.end > range.start) --at;
  while (at != runs.end() && at->second.range.start < range.end) {
    const ImageRun run = at->second;
    at = runs.erase(at);
    if (run.range.start < range.start) {
      runs.emplace(run.range.start, part_of(run, {run.range.start, range.start}));
    }
    if (run.range.end > range.end) {
      runs.emplace(range.end, part_of(run, {range.end, run.range.end}));
      return;
    }
  }
}

void PageIndexBuilder::put(std::uint32_t space, const ImageRun& run) {
  Runs& runs = spaces_[space];
  erase(runs, run.range);
  if (run.kind != RunKind::kData) {
    const auto after = runs.lower_bound(run.range.start);
    if (after != runs.begin()) {
      ImageRun& before = std::prev(after)->second;
      if (before.kind == run.kind && before.range.end == run.range.start) {
        before.range.end = run.range.end;
        return;
      }
    }
  }
  runs.emplace(run.range.start, run);
}

void PageIndexBuilder::keep_only(std::uint32_t space, std::span<const PageRange> areas) {
  const auto found = spaces_.find(space);
  if (found == spaces_.end()) return;
  Address end = 0;
  for (const PageRange& area : areas) {
    if (area.start > end) erase(found->second, {end, area.start});
    end = area.end;
  }
  erase(found->second, {end, kAddressEnd});
}

std::uint64_t PageIndexBuilder::count(RunKind kind) const {
  std::uint64_t pages = 0;
  for (const auto& [space, runs] : spaces_) {
    for (const auto& [start, run] : runs) {
      if (run.kind == kind) pages += run.range.pages();
    }
  }
  return pages;
}

std::string PageIndexBuilder::serialize(std::string_view id, std::uint64_t pages_bytes) const {
  if (id.size() != kIdBytes) fail("image id \"{}\" is not of {} digits", id, kIdBytes);
  IndexHeader header{};
  std::memcpy(header.id, id.data(), kIdBytes);
  header.pages_bytes = pages_bytes;
  header.blocks = blocks_.size();
  header.spaces = spaces_.size();
  std::string body;
  append(body, header);
  for (const ImageBlock& block : blocks_) {
    append(body, StoredBlock{block.offset, block.stored_bytes, block.pages,
                             static_cast<std::uint16_t>(block.codec), block.checksum});
  }
  for (const auto& [space, runs] : spaces_) {
    append(body, StoredSpace{space, 0, runs.size()});
    for (const auto& [start, run] : runs) {
      append(body, StoredRun{start | static_cast<std::uint64_t>(run.kind), run.range.pages(),
                             run.block, run.first});
    }
  }
  return body;
}

PageIndex PageIndex::parse(std::string_view body, const std::string& name) {
  Records records(body, name);
  const auto header = records.take<IndexHeader>("header");
  PageIndex index;
  index.id_.assign(header.id, kIdBytes);
  index.pages_bytes_ = header.pages_bytes;
  index.blocks_.reserve(records.fitting<StoredBlock>(header.blocks, "blocks"));
  for (std::uint64_t i = 0; i < header.blocks; ++i) {
    const auto stored = records.take<StoredBlock>("blocks");
    if (stored.codec >= kCodecNames.size()) {
      malformed(name, "block {}: unknown compression {}", i, stored.codec);
    }
    index.blocks_.push_back({stored.offset, stored.stored_bytes, stored.pages,
                             static_cast<Codec>(stored.codec), stored.checksum});
  }
  index.check_blocks(name);
  for (std::uint64_t i = 0; i < header.spaces; ++i) {
    const auto space = records.take<StoredSpace>("address spaces");
    if (index.spaces_.contains(space.space)) {
      malformed(name, "address space {} is there twice", space.space);
    }
    std::vector<ImageRun>& runs = index.spaces_[space.space];
    runs.reserve(records.fitting<StoredRun>(space.runs, "runs"));
    for (std::uint64_t run = 0; run < space.runs; ++run) {
      runs.push_back(to_run(records.take<StoredRun>("runs"), name));
    }
    index.check_runs(runs, name);
  }
  if (!records.empty()) malformed(name, "there is something behind the last run");
  return index;
}

void PageIndex::check_blocks(const std::string& name) const {
  std::uint64_t end = kBlockAlignment;  // the header of `pages`
  for (std::size_t i = 0; i < blocks_.size(); ++i) {
    const ImageBlock& block = blocks_[i];
    const std::uint64_t raw_bytes = block.pages * kPageSize;
    const bool stored_well = block.codec == Codec::kNone ? block.stored_bytes == raw_bytes
                                                         : block.stored_bytes < raw_bytes;
    if (block.pages == 0 || block.pages > kBlockPagesMax || block.stored_bytes == 0 ||
        !stored_well) {
      malformed(name, "block {}: {} bytes for {} pages", i, block.stored_bytes, block.pages);
    }
    if (block.offset != end || block_span(block.stored_bytes) > pages_bytes_ ||
        block.offset > pages_bytes_ - block_span(block.stored_bytes)) {
      malformed(name, "block {}: {} bytes at offset {} of {}", i, block.stored_bytes, block.offset,
                pages_bytes_);
    }
    end += block_span(block.stored_bytes);
  }
  if (end != pages_bytes_) malformed(name, "blocks end at {} of {} bytes", end, pages_bytes_);
}

void PageIndex::check_runs(std::span<const ImageRun> runs, const std::string& name) const {
  Address end = 0;
  for (const ImageRun& run : runs) {
    if (run.range.start < end) {
      malformed(name, "run at {:#x}: out of order or overlapping", run.range.start);
    }
    end = run.range.end;
    if (run.kind != RunKind::kData) continue;
    if (run.block >= blocks_.size() || run.first >= blocks_[run.block].pages ||
        run.range.pages() > blocks_[run.block].pages - run.first) {
      malformed(name, "run at {:#x}: {} pages from page {} of block {}", run.range.start,
                run.range.pages(), run.first, run.block);
    }
  }
}

std::vector<std::uint32_t> PageIndex::spaces() const {
  std::vector<std::uint32_t> numbers;
  for (const auto& [number, runs] : spaces_) numbers.push_back(number);
  return numbers;
}

std::span<const ImageRun> PageIndex::runs(std::uint32_t space) const {
  const auto found = spaces_.find(space);
  if (found == spaces_.end()) return {};
  return found->second;
}

const ImageRun* PageIndex::find(std::uint32_t space, Address address) const {
  const std::span<const ImageRun> all = runs(space);
  const auto after =
      std::upper_bound(all.begin(), all.end(), address,
                       [](Address at, const ImageRun& run) { return at < run.range.start; });
  if (after == all.begin()) return nullptr;
  const ImageRun& run = *std::prev(after);
  return run.range.contains(address) ? &run : nullptr;
}

}  // namespace godwit
