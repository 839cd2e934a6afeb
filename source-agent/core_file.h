// An ELF core file (core(5), elf(5)) out of an image, as the kernel would have dumped it: for gdb.
#pragma once

#include <string>

#include "common/image/image.h"

namespace godwit {

// What a private mapping of a file has unchanged is not in it: gdb looks into the file. Zero pages
// are holes. Throws Error naming the file; nothing is left under its name then.
void write_core_file(const Image& image, const std::string& path);

}  // namespace godwit
