// The code that a kernel maps into every process (vdso(7)), and what stands in for another
// kernel's.
//
// A program remembers where the functions of its vDSO are, and each kernel has them elsewhere in
// the image. Where a process goes on under another kernel, the image that it knows stays where it
// was, as ordinary memory, and each of its functions goes on in this kernel's.
#pragma once

#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/error.h"
#include "common/base/page_range.h"

namespace godwit {

struct VdsoFunction {
  std::string name;
  std::uint64_t offset = 0;  // in the image
  std::uint64_t bytes = 0;
};

// The functions of a vDSO image; several may be the same one. Throws Error when it is none of this
// processor.
std::vector<VdsoFunction> vdso_functions(std::span<const std::byte> image);

// `image` with each function going on in the one of that name in `here`, which is mapped at
// `address`. A function that is not there makes its system call instead. Throws Error naming a
// function for which there is neither, or no room.
std::vector<std::byte> stand_in_for(std::span<const std::byte> image,
                                    std::span<const std::byte> here, Address address);

// A field of a message as bytes.
inline std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text));
}

// What stands at an offset of an image. Throws Error when it ends before.
template <typename T>
T read_vdso_struct(std::span<const std::byte> from, std::uint64_t offset) {
  if (offset > from.size() || from.size() - offset < sizeof(T)) {
    fail("the vDSO image is cut short at byte {}", from.size());
  }
  T value;
  std::memcpy(&value, from.data() + offset, sizeof(T));
  return value;
}

}  // namespace godwit
