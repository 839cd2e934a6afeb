// The unit of the page connection: many pages of one address space, checked from end to end.
//
//   header (40 bytes, little endian)
//     u32 magic "GWPF"   u16 version   u16 type    u32 space   u32 round
//     u64 generation     u32 runs      u32 data pages          u64 checksum
//   runs (16 bytes each): u64 address of the first page, bit 0 set: zero pages; u64 pages
//   data: the pages of the runs that are not zero, in order
//
// The checksum is XXH3-64 of the data, seeded with that of header (checksum 0) and runs; made where
// the pages are read and checked where they are placed, so it covers what TLS does not: both
// programs' memory. A round of an address space ends with an END_OF_ROUND frame. Runs of a MISSING
// frame are marked as zero ones but name pages that stay at the source until they are asked for;
// they come in FOLLOWING frames when nobody asks.
// The very first bytes inside TLS are the page token (kPageTokenBytes).
//
// A PageFrame is a buffer of fixed size that is used again and again. Thread: one at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "common/base/page_range.h"
#include "common/wire/tls_stream.h"

namespace godwit {

inline constexpr std::size_t kPageTokenBytes = 32;

class PageFrame {
 public:
  static constexpr std::size_t kHeaderBytes = 40;
  static constexpr std::size_t kRunBytes = 16;
  static constexpr std::size_t kRunsMax = 1024;
  static constexpr std::size_t kDataPagesMax = 64;  // a frame stays in a processor's own cache

  // kMissing: of the round of the switch. kMissingAhead: named by a round before it. kFollowing:
  // pages that were named as missing.
  enum class Type : std::uint16_t {
    kPages = 1,
    kEndOfRound = 2,
    kMissing = 3,
    kMissingAhead = 4,
    kFollowing = 5
  };

  struct Run {
    PageRange range;
    bool zero = false;
    const std::byte* data = nullptr;  // null for zero pages
  };

  PageFrame();

  // --- Filling
  // ------------------------------------------------------------------------------------
  void begin(Type type, std::uint32_t space, std::uint32_t round, std::uint64_t generation);
  bool has_room() const { return runs_ < kRunsMax && data_pages_ < kDataPagesMax; }
  std::size_t run_room() const { return kRunsMax - runs_; }
  // Where the next pages' data goes: whole pages, at least one while has_room().
  std::span<std::byte> data_room();
  // The first `pages` of data_room() are the content of the pages at `start`.
  void add_data(Address start, std::uint64_t pages);
  void add_zero(Address start, std::uint64_t pages);
  // Writes header and checksum; nothing may be added after it.
  void seal();

  // --- Receiving
  // ---------------------------------------------------------------------------------- The steps of
  // receive_frame(): fill header_bytes(), take_header(), fill run_bytes() and data_bytes(),
  // verify(). take_header() and verify() throw Error for anything but a frame that seal() could
  // have made.
  std::span<std::byte> header_bytes();
  void take_header();
  std::span<std::byte> run_bytes();
  std::span<std::byte> data_bytes();
  void verify();

  // --- Both
  // ---------------------------------------------------------------------------------------
  Type type() const { return type_; }
  std::uint32_t space() const { return space_; }
  std::uint32_t round() const { return round_; }
  std::uint64_t generation() const { return generation_; }
  std::uint64_t data_pages() const { return data_pages_; }
  std::uint64_t wire_bytes() const;
  void for_each_run(const std::function<void(const Run&)>& sink) const;
  // As sealed: header and runs, then the data.
  std::span<const std::byte> head() const;
  std::span<const std::byte> data() const;

 private:
  // `*data_page` counts the data pages of the runs before it.
  Run run(std::size_t index, std::size_t* data_page) const;
  void put_run(std::size_t index, std::uint64_t start, std::uint64_t pages);
  std::uint64_t checksum() const;  // with the header's checksum field as it is: must be 0
  void add_run(Address start, std::uint64_t pages, bool zero);

  std::unique_ptr<std::byte[]> head_;
  std::unique_ptr<std::byte[]> data_;
  Type type_ = Type::kPages;
  std::uint32_t space_ = 0;
  std::uint32_t round_ = 0;
  std::uint64_t generation_ = 0;
  std::size_t runs_ = 0;
  std::size_t data_pages_ = 0;
};

void send_frame(TlsStream& stream, const PageFrame& frame);
// False when the peer ended the stream in an orderly way between frames. The frame is not verified
// yet.
bool receive_frame(TlsStream& stream, PageFrame& frame);

}  // namespace godwit
