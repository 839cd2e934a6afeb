#include "common/wire/page_frame.h"

#if __has_include(<xxh_x86dispatch.h>)
#include <xxh_x86dispatch.h>  // chooses by what the processor has
#else
#include <xxhash.h>
#endif

#include <bit>
#include <cstring>
#include <limits>

#include "common/base/error.h"

namespace godwit {
namespace {

static_assert(std::endian::native == std::endian::little, "the page connection is little endian");

constexpr std::uint32_t kMagic = 0x46505747;  // "GWPF"
constexpr std::uint16_t kVersion = 1;
constexpr std::size_t kChecksumAt = 32;

struct Header {
  std::uint32_t magic;
  std::uint16_t version;
  std::uint16_t type;
  std::uint32_t space;
  std::uint32_t round;
  std::uint64_t generation;
  std::uint32_t runs;
  std::uint32_t data_pages;
  std::uint64_t checksum;
};
static_assert(sizeof(Header) == PageFrame::kHeaderBytes);
static_assert(offsetof(Header, checksum) == kChecksumAt);

struct WireRun {
  std::uint64_t start;
  std::uint64_t pages;
};
static_assert(sizeof(WireRun) == PageFrame::kRunBytes);

constexpr std::uint64_t kZeroFlag = 1;

}  // namespace

PageFrame::PageFrame()
    : head_(new std::byte[kHeaderBytes + kRunsMax * kRunBytes]),
      data_(new std::byte[kDataPagesMax * kPageSize]) {}

void PageFrame::begin(Type type, std::uint32_t space, std::uint32_t round,
                      std::uint64_t generation) {
  type_ = type;
  space_ = space;
  round_ = round;
  generation_ = generation;
  runs_ = 0;
  data_pages_ = 0;
}

std::span<std::byte> PageFrame::data_room() {
  return {data_.get() + data_pages_ * kPageSize, (kDataPagesMax - data_pages_) * kPageSize};
}

void PageFrame::put_run(std::size_t index, std::uint64_t start, std::uint64_t pages) {
  const WireRun run{start, pages};
  std::memcpy(head_.get() + kHeaderBytes + index * kRunBytes, &run, sizeof(run));
}

void PageFrame::add_run(Address start, std::uint64_t pages, bool zero) {
  if (runs_ > 0) {
    WireRun last{};
    std::memcpy(&last, head_.get() + kHeaderBytes + (runs_ - 1) * kRunBytes, sizeof(last));
    const bool same_kind = ((last.start & kZeroFlag) != 0) == zero;
    if (same_kind && (last.start & ~kZeroFlag) + last.pages * kPageSize == start) {
      put_run(runs_ - 1, last.start, last.pages + pages);
      return;
    }
  }
  if (runs_ == kRunsMax) fail("page frame: more than {} runs", kRunsMax);
  put_run(runs_++, start | (zero ? kZeroFlag : 0), pages);
}

void PageFrame::add_data(Address start, std::uint64_t pages) {
  if (pages > kDataPagesMax - data_pages_) fail("page frame: more than {} pages", kDataPagesMax);
  add_run(start, pages, false);
  data_pages_ += pages;
}

void PageFrame::add_zero(Address start, std::uint64_t pages) { add_run(start, pages, true); }

std::uint64_t PageFrame::checksum() const {
  const XXH64_hash_t head = XXH3_64bits(head_.get(), kHeaderBytes + runs_ * kRunBytes);
  return XXH3_64bits_withSeed(data_.get(), data_pages_ * kPageSize, head);
}

void PageFrame::seal() {
  Header header{};
  header.magic = kMagic;
  header.version = kVersion;
  header.type = static_cast<std::uint16_t>(type_);
  header.space = space_;
  header.round = round_;
  header.generation = generation_;
  header.runs = static_cast<std::uint32_t>(runs_);
  header.data_pages = static_cast<std::uint32_t>(data_pages_);
  std::memcpy(head_.get(), &header, sizeof(header));
  header.checksum = checksum();
  std::memcpy(head_.get(), &header, sizeof(header));
}

std::span<std::byte> PageFrame::header_bytes() { return {head_.get(), kHeaderBytes}; }

void PageFrame::take_header() {
  Header header{};
  std::memcpy(&header, head_.get(), sizeof(header));
  if (header.magic != kMagic) fail("page frame: not a frame (magic {:#x})", header.magic);
  if (header.version != kVersion) {
    fail("page frame: version {}, this side speaks {}", header.version, kVersion);
  }
  if (header.type < static_cast<std::uint16_t>(Type::kPages) ||
      header.type > static_cast<std::uint16_t>(Type::kFollowing)) {
    fail("page frame: unknown type {}", header.type);
  }
  if (header.runs > kRunsMax || header.data_pages > kDataPagesMax) {
    fail("page frame: {} runs and {} pages are too many", header.runs, header.data_pages);
  }
  type_ = static_cast<Type>(header.type);
  if (type_ == Type::kEndOfRound && (header.runs != 0 || header.data_pages != 0)) {
    fail("page frame: the end of a round carries pages");
  }
  if ((type_ == Type::kMissing || type_ == Type::kMissingAhead) && header.data_pages != 0) {
    fail("page frame: missing pages come with data");
  }
  space_ = header.space;
  round_ = header.round;
  generation_ = header.generation;
  runs_ = header.runs;
  data_pages_ = header.data_pages;
}

std::span<std::byte> PageFrame::run_bytes() {
  return {head_.get() + kHeaderBytes, runs_ * kRunBytes};
}

std::span<std::byte> PageFrame::data_bytes() { return {data_.get(), data_pages_ * kPageSize}; }

void PageFrame::verify() {
  std::uint64_t stated = 0;
  std::memcpy(&stated, head_.get() + kChecksumAt, sizeof(stated));
  std::memset(head_.get() + kChecksumAt, 0, sizeof(stated));
  if (checksum() != stated) {
    fail("page frame of round {}: the checksum is wrong: pages were damaged on their way", round_);
  }
  std::uint64_t pages = 0;
  for (std::size_t i = 0; i < runs_; ++i) {
    WireRun run{};
    std::memcpy(&run, head_.get() + kHeaderBytes + i * kRunBytes, sizeof(run));
    const bool zero = (run.start & kZeroFlag) != 0;
    const std::uint64_t start = run.start & ~kZeroFlag;
    if (start % kPageSize != 0 || run.pages == 0 ||
        run.pages > (std::numeric_limits<std::uint64_t>::max() - start) / kPageSize ||
        (!zero && run.pages > kDataPagesMax)) {
      fail("page frame of round {}: malformed run of {} pages at {:x}", round_, run.pages, start);
    }
    if (!zero) pages += run.pages;
  }
  if (pages != data_pages_) {
    fail("page frame of round {}: runs of {} pages with data of {}", round_, pages, data_pages_);
  }
}

std::uint64_t PageFrame::wire_bytes() const {
  return kHeaderBytes + runs_ * kRunBytes + data_pages_ * kPageSize;
}

PageFrame::Run PageFrame::run(std::size_t index, std::size_t* data_page) const {
  WireRun wire{};
  std::memcpy(&wire, head_.get() + kHeaderBytes + index * kRunBytes, sizeof(wire));
  const std::uint64_t start = wire.start & ~kZeroFlag;
  Run run{PageRange{start, start + wire.pages * kPageSize}, (wire.start & kZeroFlag) != 0, nullptr};
  if (!run.zero) {
    run.data = data_.get() + *data_page * kPageSize;
    *data_page += wire.pages;
  }
  return run;
}

void PageFrame::for_each_run(const std::function<void(const Run&)>& sink) const {
  std::size_t data_page = 0;
  for (std::size_t i = 0; i < runs_; ++i) sink(run(i, &data_page));
}

std::span<const std::byte> PageFrame::head() const {
  return {head_.get(), kHeaderBytes + runs_ * kRunBytes};
}

std::span<const std::byte> PageFrame::data() const {
  return {data_.get(), data_pages_ * kPageSize};
}

void send_frame(TlsStream& stream, const PageFrame& frame) {
  if (frame.data().empty()) {
    stream.write(frame.head());
  } else {
    stream.write_more(frame.head());
    stream.write(frame.data());
  }
}

bool receive_frame(TlsStream& stream, PageFrame& frame) {
  const std::span<std::byte> header = frame.header_bytes();
  const std::size_t first = stream.read_some(header);
  if (first == 0) return false;
  stream.read(header.subspan(first));
  frame.take_header();
  stream.read(frame.run_bytes());
  stream.read(frame.data_bytes());
  return true;
}

}  // namespace godwit
