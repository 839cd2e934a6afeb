// What the kernel tells programs of this processor (Documentation/arch/arm64/elf_hwcaps.rst): the
// bits of AT_HWCAP and AT_HWCAP2 by their names in /proc/cpuinfo. evtstrm is of the kernel's timer,
// and no instruction. A vector length of SVE is an instruction set to programs: what they compute
// with depends on it.
#include <sys/auxv.h>
#include <sys/prctl.h>

#include <array>
#include <thread>

#include "arch/arch.h"

namespace godwit::arch {
namespace {

constexpr std::array<const char*, 32> kNames = {
    "fp",      "asimd", nullptr,   "aes",   "pmull",    "sha1",   "sha2", "crc32",
    "atomics", "fphp",  "asimdhp", "cpuid", "asimdrdm", "jscvt",  "fcma", "lrcpc",
    "dcpop",   "sha3",  "sm3",     "sm4",   "asimddp",  "sha512", "sve",  "asimdfhm",
    "dit",     "uscat", "ilrcpc",  "flagm", "ssbs",     "sb",     "paca", "pacg"};

constexpr std::array<const char*, 45> kMoreNames = {
    "dcpodp",    "sve2",      "sveaes",  "svepmull",  "svebitperm", "svesha3",    "svesm4",
    "flagm2",    "frint",     "svei8mm", "svef32mm",  "svef64mm",   "svebf16",    "i8mm",
    "bf16",      "dgh",       "rng",     "bti",       "mte",        "ecv",        "afp",
    "rpres",     "mte3",      "sme",     "smei16i64", "smef64f64",  "smei8i32",   "smef16f32",
    "smeb16f32", "smef32f32", "smefa64", "wfxt",      "ebf16",      "sveebf16",   "cssc",
    "rprfm",     "sve2p1",    "sme2",    "sme2p1",    "smei16i32",  "smebi32i32", "smeb16b16",
    "smef16f16", "mops",      "hbc"};

template <std::size_t kCount>
void add(const std::array<const char*, kCount>& table, unsigned long bits,
         std::vector<std::string_view>& names) {
  for (std::size_t bit = 0; bit < kCount; ++bit) {
    if ((bits >> bit & 1) != 0 && table[bit] != nullptr) names.emplace_back(table[bit]);
  }
}

constexpr std::array<const char*, 16> kVectorLengths = {
    "sve-128",  "sve-256",  "sve-384",  "sve-512",  "sve-640",  "sve-768",  "sve-896",  "sve-1024",
    "sve-1152", "sve-1280", "sve-1408", "sve-1536", "sve-1664", "sve-1792", "sve-1920", "sve-2048"};
constexpr unsigned long kVectorUnitBytes = 16;

// The kernel takes the longest one that there is up to what was asked for
// (Documentation/arch/arm64/sve.rst). It is the thread's, and changing it costs registers.
void add_vector_lengths(std::vector<std::string_view>& names) {
  for (std::size_t i = 0; i < kVectorLengths.size(); ++i) {
    const unsigned long bytes = (i + 1) * kVectorUnitBytes;
    const int got = ::prctl(PR_SVE_SET_VL, bytes, 0, 0, 0);
    if (got < 0) return;  // no SVE
    if ((static_cast<unsigned long>(got) & PR_SVE_VL_LEN_MASK) == bytes) {
      names.emplace_back(kVectorLengths[i]);
    }
  }
}

}  // namespace

std::vector<std::string_view> instruction_sets() {
  std::vector<std::string_view> names;
  add(kNames, getauxval(AT_HWCAP), names);
  add(kMoreNames, getauxval(AT_HWCAP2), names);
  std::thread([&] { add_vector_lengths(names); }).join();
  return names;
}

}  // namespace godwit::arch
