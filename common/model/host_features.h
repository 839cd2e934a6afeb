// What of a host a restored process depends on, beyond its files: kernel, processor, vDSO.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "common/model/findings.h"
#include "proto/control.pb.h"

namespace godwit {

// Of this host, as this process sees it. Throws Error naming what can't be read.
proto::HostFeatures read_host_features();

// XXH3-64 of a vDSO image from its ELF header to the end of the ELF file: the slack behind it, up
// to the page's end, may hold the code of an agent. `mapped` is the whole [vdso] area. Throws Error
// when it is no ELF image of this processor.
std::uint64_t hash_vdso(std::span<const std::byte> mapped);

// What a program may find in another processor: without what it uses it ends by SIGILL.
enum class ProcessorCheck { kRequire, kIgnore };

// What of the source's host the destination's lacks. Refuses: architecture-differs,
// page-size-differs, instruction-sets-missing, processor-state-missing and register-room-short
// (warnings with kIgnore), processor-state-differs, vdso-differs; warns: signal-frames-cut (with
// kIgnore), kernel-differs. What a host that says nothing of its processor has (an image of an
// earlier release) is not compared.
void compare_features(const proto::HostFeatures& source, const proto::HostFeatures& destination,
                      ProcessorCheck check, Findings& findings);

}  // namespace godwit
