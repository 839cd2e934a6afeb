#include "common/model/vdso_image.h"

#include <elf.h>
#include <link.h>

#include <algorithm>
#include <cstring>

#include "arch/arch.h"
#include "common/base/error.h"

namespace godwit {
namespace {

ElfW(Shdr) section(std::span<const std::byte> image, std::uint64_t index) {
  const auto header = read_vdso_struct<ElfW(Ehdr)>(image, 0);
  if (std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 || index >= header.e_shnum ||
      header.e_shentsize != sizeof(ElfW(Shdr))) {
    fail("the vDSO image has no section {}", index);
  }
  return read_vdso_struct<ElfW(Shdr)>(image, header.e_shoff + index * sizeof(ElfW(Shdr)));
}

std::string text_at(std::span<const std::byte> image, std::uint64_t offset) {
  if (offset >= image.size()) fail("the vDSO image is cut short at byte {}", image.size());
  const auto* text = reinterpret_cast<const char*>(image.data() + offset);
  return {text, strnlen(text, image.size() - offset)};
}

}  // namespace

std::vector<VdsoFunction> vdso_functions(std::span<const std::byte> image) {
  std::vector<VdsoFunction> functions;
  const auto header = read_vdso_struct<ElfW(Ehdr)>(image, 0);
  for (std::uint64_t index = 0; index < header.e_shnum; ++index) {
    const ElfW(Shdr) symbols = section(image, index);
    if (symbols.sh_type != SHT_DYNSYM) continue;
    const ElfW(Shdr) names = section(image, symbols.sh_link);
    if (symbols.sh_size > image.size()) fail("the vDSO image has a wild symbol table");
    for (std::uint64_t at = 0; at < symbols.sh_size; at += sizeof(ElfW(Sym))) {
      const auto symbol = read_vdso_struct<ElfW(Sym)>(image, symbols.sh_offset + at);
      if (ELF64_ST_TYPE(symbol.st_info) != STT_FUNC || symbol.st_shndx == SHN_UNDEF) continue;
      functions.push_back(
          {text_at(image, names.sh_offset + symbol.st_name), symbol.st_value, symbol.st_size});
    }
  }
  if (functions.empty()) fail("the vDSO image names no functions");
  return functions;
}

std::vector<std::byte> stand_in_for(std::span<const std::byte> image,
                                    std::span<const std::byte> here, Address address) {
  std::vector<std::byte> made(image.begin(), image.end());
  const std::vector<VdsoFunction> known = vdso_functions(here);
  for (const VdsoFunction& function : vdso_functions(image)) {
    const auto same = std::find_if(known.begin(), known.end(), [&](const VdsoFunction& other) {
      return other.name == function.name;
    });
    const std::vector<std::byte> code = same != known.end()
                                            ? arch::jump_code(address + same->offset)
                                            : arch::vdso_call_code(function.name);
    if (code.empty()) fail("the kernel has no {}", function.name);
    if (function.bytes < code.size() || function.offset > made.size() ||
        made.size() - function.offset < code.size()) {
      fail("{} of the vDSO has {} bytes", function.name, function.bytes);
    }
    std::copy(code.begin(), code.end(),
              made.begin() + static_cast<std::ptrdiff_t>(function.offset));
  }
  return made;
}

}  // namespace godwit
