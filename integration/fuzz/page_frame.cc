// libFuzzer: any bytes as a frame of the page connection.
//
// Once as they are, once with the right checksum, which no mutation would hit: what stands behind
// it must hold by itself.
#include <xxhash.h>

#include <algorithm>
#include <cstring>

#include "common/base/error.h"
#include "common/wire/page_frame.h"

namespace {

using namespace godwit;

constexpr std::size_t kChecksumAt = 32;

std::size_t fill(std::span<const std::byte> from, std::span<std::byte> to) {
  const std::size_t bytes = std::min(from.size(), to.size());
  std::copy_n(from.begin(), bytes, to.begin());
  std::fill(to.begin() + static_cast<std::ptrdiff_t>(bytes), to.end(), std::byte{0});
  return bytes;
}

void mend_checksum(PageFrame& frame) {
  const std::span<std::byte> header = frame.header_bytes();
  std::memset(header.data() + kChecksumAt, 0, sizeof(std::uint64_t));
  const std::span<const std::byte> head = frame.head();
  const std::uint64_t seed = XXH3_64bits(head.data(), head.size());
  const std::uint64_t sum =
      XXH3_64bits_withSeed(frame.data_bytes().data(), frame.data_bytes().size(), seed);
  std::memcpy(header.data() + kChecksumAt, &sum, sizeof(sum));
}

void take(std::span<const std::byte> bytes, bool mended) {
  static PageFrame& frame = *new PageFrame;
  bytes = bytes.subspan(fill(bytes, frame.header_bytes()));
  frame.take_header();
  bytes = bytes.subspan(fill(bytes, frame.run_bytes()));
  fill(bytes, frame.data_bytes());
  if (mended) mend_checksum(frame);
  frame.verify();
  std::uint64_t pages = 0;
  unsigned sum = 0;
  frame.for_each_run([&](const PageFrame::Run& run) {
    if (run.zero) return;
    pages += run.range.pages();
    for (std::uint64_t at = 0; at < run.range.bytes(); at += kPageSize) {
      sum += static_cast<unsigned>(run.data[at]);
    }
  });
  if (pages != frame.data_pages() || sum == ~0U) __builtin_trap();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  for (const bool mended : {false, true}) {
    try {
      take({reinterpret_cast<const std::byte*>(data), size}, mended);
    } catch (const Error&) {
      continue;  // what is no frame is an Error, and nothing else
    }
  }
  return 0;
}
