// Small files of an image (manifest, state, index): 32 bytes of header, then a body, checked as a
// whole. docs/image-format.md has every byte.
//
//   magic (8 bytes)   u32 version   u32 zero   u64 bytes of the body   u64 checksum
//
// The checksum is XXH3-64 of the body, seeded with that of the header (its checksum field 0).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace godwit {

inline constexpr std::uint32_t kImageVersion = 1;
inline constexpr std::size_t kSealBytes = 32;
inline constexpr std::size_t kMagicBytes = 8;

inline constexpr std::string_view kManifestMagic = "GODWIMAG";
inline constexpr std::string_view kStateMagic = "GODWSTAT";
inline constexpr std::string_view kIndexMagic = "GODWINDX";
inline constexpr std::string_view kPagesMagic = "GODWPAGE";

std::uint64_t image_checksum(std::span<const std::byte> bytes, std::uint64_t seed = 0);

// The whole file around a body.
std::string seal(std::string_view magic, std::string_view body);
// The body inside of a whole file. `name` stands in the story. Throws Error (code EPROTO) saying
// what is wrong where: not this kind of file, a newer version, cut off, damaged.
std::string_view unseal(std::string_view magic, std::string_view file, const std::string& name);

// Of a file that begins with a magic and a version, before anything else of it is believed.
void check_magic(std::string_view magic, std::string_view start, const std::string& name);

}  // namespace godwit
