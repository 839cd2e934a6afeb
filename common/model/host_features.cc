#include "common/model/host_features.h"

#include <elf.h>
#include <fmt/format.h>
#include <link.h>
#include <sys/auxv.h>
#include <sys/utsname.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <cstring>
#include <set>
#include <string>
#include <vector>

#include "arch/arch.h"
#include "common/base/error.h"
#include "common/base/unique_fd.h"
#include "common/kernel/proc_maps.h"
#include "common/kernel/proc_text.h"
#include "common/model/vdso_image.h"

namespace godwit {
namespace {

// Where the ELF file ends: behind its last segment or its section headers.
std::size_t elf_bytes(std::span<const std::byte> image) {
  const auto header = read_vdso_struct<ElfW(Ehdr)>(image, 0);
  if (std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 ||
      header.e_phentsize != sizeof(ElfW(Phdr))) {
    fail("the vDSO image is no ELF file of this processor");
  }
  std::uint64_t end = sizeof(header);
  end = std::max<std::uint64_t>(
      end, header.e_shoff + static_cast<std::uint64_t>(header.e_shnum) * header.e_shentsize);
  for (std::uint64_t i = 0; i < header.e_phnum; ++i) {
    const auto segment =
        read_vdso_struct<ElfW(Phdr)>(image, header.e_phoff + i * sizeof(ElfW(Phdr)));
    end = std::max<std::uint64_t>(end, segment.p_offset + segment.p_filesz);
  }
  if (end > image.size()) fail("the vDSO image is {} bytes, {} are mapped", end, image.size());
  return end;
}

// AT_SYSINFO_EHDR would do for the start; the end is in maps only.
std::span<const std::byte> own_vdso() {
  for (const MapsLine& line : read_maps(::getpid())) {
    if (line.path != "[vdso]") continue;
    return {reinterpret_cast<const std::byte*>(line.range.start), line.range.bytes()};
  }
  return {};
}

std::string hosts(const proto::HostFeatures& source, const proto::HostFeatures& destination) {
  return fmt::format("{} and {}", source.host_name(), destination.host_name());
}

// Why what programs know of the source's vDSO can't be made to work on the destination; empty: it
// can.
std::string vdso_obstacle(const proto::HostFeatures& source,
                          const proto::HostFeatures& destination) try {
  if (source.vdso_hash() == destination.vdso_hash()) return {};
  if (hash_vdso(bytes_of(source.vdso_image())) != source.vdso_hash()) {
    return "the source's is not the one that it told of";
  }
  stand_in_for(bytes_of(source.vdso_image()), bytes_of(destination.vdso_image()), 0);
  return {};
} catch (const Error& error) {
  return error.what();
}

// In the source's order.
std::vector<std::string> missing_sets(const proto::HostFeatures& source,
                                      const proto::HostFeatures& destination) {
  std::vector<std::string> missing;
  if (destination.instruction_sets().empty()) return missing;
  const std::set<std::string> there(destination.instruction_sets().begin(),
                                    destination.instruction_sets().end());
  for (const std::string& set : source.instruction_sets()) {
    if (!there.contains(set)) missing.push_back(set);
  }
  return missing;
}

std::string missing_components(const proto::HostFeatures& source,
                               const proto::HostFeatures& destination) {
  const std::uint64_t missing = source.vector_state_mask() & ~destination.vector_state_mask();
  std::vector<std::string> names;
  for (std::uint32_t number = 0; number < 64; ++number) {
    if ((missing >> number & 1) != 0) names.push_back(arch::vector_component_name(number));
  }
  return fmt::format("{}", fmt::join(names, ", "));
}

// A component that both have, but not at the same place: signal frames on the program's stacks have
// the source's layout.
std::string moved_component(const proto::HostFeatures& source,
                            const proto::HostFeatures& destination) {
  for (const proto::VectorComponent& here : source.vector_components()) {
    for (const proto::VectorComponent& there : destination.vector_components()) {
      if (here.number() != there.number() ||
          (here.offset() == there.offset() && here.bytes() == there.bytes())) {
        continue;
      }
      return fmt::format("{} ({} bytes at {} there, {} bytes at {} here)",
                         arch::vector_component_name(here.number()), there.bytes(), there.offset(),
                         here.bytes(), here.offset());
    }
  }
  if (source.vector_state_mask() == destination.vector_state_mask() &&
      source.vector_state_bytes() != destination.vector_state_bytes()) {
    return fmt::format("all of it ({} bytes there, {} here)", destination.vector_state_bytes(),
                       source.vector_state_bytes());
  }
  return {};
}

// Frames of signal handlers are as large as the processor's register area, and a kernel takes of a
// larger one than its own only what every processor has (sigreturn(2)).
void warn_of_signal_frames(const proto::HostFeatures& source,
                           const proto::HostFeatures& destination, Findings& findings) {
  if (destination.vector_state_bytes() >= source.vector_state_bytes()) return;
  warn(findings, "signal-frames-cut", destination.host_name(),
       fmt::format("its processor has {} bytes of register state, {} on {}: a thread that moves in "
                   "the middle of a signal handler loses what the interrupted code has in AVX "
                   "registers",
                   destination.vector_state_bytes(), source.vector_state_bytes(),
                   source.host_name()),
       "nothing to do if its signal handlers are not in use, or interrupt no code with vector "
       "registers");
}

// Where a C library binds calls when they are first made, it saves registers around it, in as much
// room as it found necessary when the program started. XSAVE fills more where there are more
// registers (x86-64: MPX, AVX-512); XSAVEC only if they are in use.
void compare_room_for_registers(const proto::HostFeatures& source,
                                const proto::HostFeatures& destination, ProcessorCheck check,
                                Findings& findings) {
  constexpr std::uint64_t kSavedAroundBinding = 0xe8;
  const auto& sets = source.instruction_sets();
  const auto has = [&](const char* set) { return std::count(sets.begin(), sets.end(), set) != 0; };
  const std::uint64_t more = destination.vector_state_mask() & ~source.vector_state_mask();
  if ((more & kSavedAroundBinding) == 0 || !has("xsave") || has("xsavec")) return;
  const bool ignore = check == ProcessorCheck::kIgnore;
  (ignore ? warn : refuse)(
      findings, "register-room-short", destination.host_name(),
      fmt::format("its processor has more registers than that of {}, which lacks xsavec: a C "
                  "library that binds calls late has too little room to save them",
                  source.host_name()),
      ignore ? "nothing to do if all of the process is bound at its start (LD_BIND_NOW) or static; "
               "one that is not may end by SIGSEGV"
             : "move to a host without them; --cpu ignore if all of the process is bound at its "
               "start (LD_BIND_NOW) or static");
}

void compare_processors(const proto::HostFeatures& source, const proto::HostFeatures& destination,
                        ProcessorCheck check, Findings& findings) {
  const auto lacks = [&](const char* id, const std::string& what) {
    const bool ignore = check == ProcessorCheck::kIgnore;
    (ignore ? warn : refuse)(
        findings, id, destination.host_name(),
        fmt::format("its processor lacks {}, which programs on {} may use", what,
                    source.host_name()),
        ignore ? "nothing to do if the process uses none of it; one that does ends by SIGILL"
               : "move to a host whose processor has at least the same; --cpu ignore if the "
                 "process is known to use none of it");
  };
  const std::vector<std::string> sets = missing_sets(source, destination);
  const std::string components = missing_components(source, destination);
  if (!sets.empty()) {
    lacks("instruction-sets-missing", fmt::format("{}", fmt::join(sets, ", ")));
  } else if (!components.empty()) {
    lacks("processor-state-missing", fmt::format("register state ({})", components));
  }
  if (const std::string moved = moved_component(source, destination); !moved.empty()) {
    refuse(findings, "processor-state-differs", destination.host_name(),
           fmt::format("its processor keeps register state elsewhere: {}", moved),
           "move to a host with the same kind of processor");
  } else if (!components.empty() && check == ProcessorCheck::kIgnore) {
    warn_of_signal_frames(source, destination, findings);
  }
}

}  // namespace

std::uint64_t hash_vdso(std::span<const std::byte> mapped) {
  return XXH3_64bits(mapped.data(), elf_bytes(mapped));
}

proto::HostFeatures read_host_features() {
  utsname names{};
  if (::uname(&names) != 0) throw_system("uname");
  proto::HostFeatures features;
  features.set_host_name(names.nodename);
  features.set_kernel_release(names.release);
  features.set_architecture(std::string(arch::name()));
  features.set_vector_state_mask(arch::vector_state_mask());
  features.set_vector_state_bytes(static_cast<std::uint32_t>(arch::vector_state_bytes()));
  for (const std::string_view set : arch::instruction_sets()) {
    features.add_instruction_sets(std::string(set));
  }
  for (const arch::VectorComponent& component : arch::vector_components()) {
    proto::VectorComponent& told = *features.add_vector_components();
    told.set_number(component.number);
    told.set_offset(component.offset);
    told.set_bytes(component.bytes);
  }
  const std::span<const std::byte> vdso = own_vdso();
  if (!vdso.empty()) {
    features.set_vdso_hash(hash_vdso(vdso));
    features.set_vdso_image(vdso.data(), vdso.size());
  }
  features.set_page_bytes(static_cast<std::uint32_t>(::sysconf(_SC_PAGESIZE)));
  const std::string pid_max = read_file("/proc/sys/kernel/pid_max");
  features.set_pid_max(parse_number<std::uint32_t>(trim(pid_max), "/proc/sys/kernel/pid_max"));
  return features;
}

void compare_features(const proto::HostFeatures& source, const proto::HostFeatures& destination,
                      ProcessorCheck check, Findings& findings) {
  if (source.architecture() != destination.architecture()) {
    refuse(findings, "architecture-differs", hosts(source, destination),
           fmt::format("the processors are {} and {}", source.architecture(),
                       destination.architecture()),
           "move to a host with the same kind of processor");
    return;  // Nothing below can be compared between two kinds of processor.
  }
  if (source.page_bytes() != destination.page_bytes()) {
    refuse(findings, "page-size-differs", hosts(source, destination),
           fmt::format("pages are {} and {} bytes", source.page_bytes(), destination.page_bytes()),
           "move to a host whose kernel has the same page size");
  }
  compare_processors(source, destination, check, findings);
  compare_room_for_registers(source, destination, check, findings);
  const std::string obstacle = vdso_obstacle(source, destination);
  if (!obstacle.empty()) {
    refuse(findings, "vdso-differs", hosts(source, destination),
           fmt::format("the kernels ({} and {}) give programs different vDSO code: {}",
                       source.kernel_release(), destination.kernel_release(), obstacle),
           "boot the same kernel on both hosts");
  } else if (source.kernel_release() != destination.kernel_release()) {
    warn(findings, "kernel-differs", hosts(source, destination),
         fmt::format("the kernels are {} and {}", source.kernel_release(),
                     destination.kernel_release()),
         "nothing to do unless the program depends on the kernel's version");
  }
}

}  // namespace godwit
