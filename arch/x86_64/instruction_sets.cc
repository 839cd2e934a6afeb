// What CPUID tells programs of this processor (Intel SDM 2A CPUID, AMD APM 3 appendix E): what may
// be used of it in user space, and needs no driver or permission of its own. What only makes
// something faster (erms), and what old processors ignore (prefetches), no program fails without.
#include <cpuid.h>
#include <sys/auxv.h>

#include <array>

#include "arch/arch.h"

namespace godwit::arch {
namespace {

enum Register : std::uint8_t { kEax, kEbx, kEcx, kEdx };

struct Leaf {
  std::uint32_t leaf;
  std::uint32_t subleaf;
};
constexpr std::array<Leaf, 7> kLeaves = {
    {{1, 0}, {7, 0}, {7, 1}, {0xd, 1}, {0x19, 0}, {0x80000001, 0}, {0x80000008, 0}}};
enum LeafIndex : std::uint8_t { kBasic, kMore, kLater, kXsave, kKeyLocker, kAmd, kAmdMore };

// Components that the kernel must have enabled (XCR0).
constexpr std::uint64_t kAvx = 0x6;
constexpr std::uint64_t kAvx512 = 0xe6;
constexpr std::uint64_t kAmx = 0x60000;

struct InstructionSet {
  const char* name;
  LeafIndex leaf;
  Register in;
  std::uint8_t bit;
  std::uint64_t needs = 0;
};

constexpr InstructionSet kSets[] = {
    {"cx8", kBasic, kEdx, 8},
    {"cmov", kBasic, kEdx, 15},
    {"clflush", kBasic, kEdx, 19},
    {"mmx", kBasic, kEdx, 23},
    {"fxsr", kBasic, kEdx, 24},
    {"sse", kBasic, kEdx, 25},
    {"sse2", kBasic, kEdx, 26},
    {"pni", kBasic, kEcx, 0},
    {"pclmulqdq", kBasic, kEcx, 1},
    {"ssse3", kBasic, kEcx, 9},
    {"fma", kBasic, kEcx, 12, kAvx},
    {"cx16", kBasic, kEcx, 13},
    {"sse4_1", kBasic, kEcx, 19},
    {"sse4_2", kBasic, kEcx, 20},
    {"movbe", kBasic, kEcx, 22},
    {"popcnt", kBasic, kEcx, 23},
    {"aes", kBasic, kEcx, 25},
    {"xsave", kBasic, kEcx, 27},  // OSXSAVE: the kernel has enabled it
    {"avx", kBasic, kEcx, 28, kAvx},
    {"f16c", kBasic, kEcx, 29, kAvx},
    {"rdrand", kBasic, kEcx, 30},
    {"bmi1", kMore, kEbx, 3},
    {"hle", kMore, kEbx, 4},
    {"avx2", kMore, kEbx, 5, kAvx},
    {"bmi2", kMore, kEbx, 8},
    {"rtm", kMore, kEbx, 11},
    {"avx512f", kMore, kEbx, 16, kAvx512},
    {"avx512dq", kMore, kEbx, 17, kAvx512},
    {"rdseed", kMore, kEbx, 18},
    {"adx", kMore, kEbx, 19},
    {"avx512ifma", kMore, kEbx, 21, kAvx512},
    {"clflushopt", kMore, kEbx, 23},
    {"clwb", kMore, kEbx, 24},
    {"avx512pf", kMore, kEbx, 26, kAvx512},
    {"avx512er", kMore, kEbx, 27, kAvx512},
    {"avx512cd", kMore, kEbx, 28, kAvx512},
    {"sha_ni", kMore, kEbx, 29},
    {"avx512bw", kMore, kEbx, 30, kAvx512},
    {"avx512vl", kMore, kEbx, 31, kAvx512},
    {"avx512vbmi", kMore, kEcx, 1, kAvx512},
    {"pku", kMore, kEcx, 4},  // OSPKE: the kernel has enabled it
    {"waitpkg", kMore, kEcx, 5},
    {"avx512_vbmi2", kMore, kEcx, 6, kAvx512},
    {"gfni", kMore, kEcx, 8},
    {"vaes", kMore, kEcx, 9, kAvx},
    {"vpclmulqdq", kMore, kEcx, 10, kAvx},
    {"avx512_vnni", kMore, kEcx, 11, kAvx512},
    {"avx512_bitalg", kMore, kEcx, 12, kAvx512},
    {"avx512_vpopcntdq", kMore, kEcx, 14, kAvx512},
    {"rdpid", kMore, kEcx, 22},
    {"movdiri", kMore, kEcx, 27},
    {"movdir64b", kMore, kEcx, 28},
    {"avx512_4vnniw", kMore, kEdx, 2, kAvx512},
    {"avx512_4fmaps", kMore, kEdx, 3, kAvx512},
    {"avx512_vp2intersect", kMore, kEdx, 8, kAvx512},
    {"serialize", kMore, kEdx, 14},
    {"tsxldtrk", kMore, kEdx, 16},
    {"amx_bf16", kMore, kEdx, 22, kAmx},
    {"avx512_fp16", kMore, kEdx, 23, kAvx512},
    {"amx_tile", kMore, kEdx, 24, kAmx},
    {"amx_int8", kMore, kEdx, 25, kAmx},
    {"sha512", kLater, kEax, 0, kAvx},
    {"sm3", kLater, kEax, 1, kAvx},
    {"sm4", kLater, kEax, 2, kAvx},
    {"avx_vnni", kLater, kEax, 4, kAvx},
    {"avx512_bf16", kLater, kEax, 5, kAvx512},
    {"cmpccxadd", kLater, kEax, 7},
    {"amx_fp16", kLater, kEax, 21, kAmx},
    {"avx_ifma", kLater, kEax, 23, kAvx},
    {"avx_vnni_int8", kLater, kEdx, 4, kAvx},
    {"avx_ne_convert", kLater, kEdx, 5, kAvx},
    {"amx_complex", kLater, kEdx, 8, kAmx},
    {"avx_vnni_int16", kLater, kEdx, 10, kAvx},
    {"xsaveopt", kXsave, kEax, 0},
    {"xsavec", kXsave, kEax, 1},
    {"xgetbv1", kXsave, kEax, 2},
    {"aeskle", kKeyLocker, kEbx, 0},
    {"syscall", kAmd, kEdx, 11},
    {"mmxext", kAmd, kEdx, 22},
    {"rdtscp", kAmd, kEdx, 27},
    {"3dnowext", kAmd, kEdx, 30},
    {"3dnow", kAmd, kEdx, 31},
    {"lahf_lm", kAmd, kEcx, 0},
    {"abm", kAmd, kEcx, 5},
    {"sse4a", kAmd, kEcx, 6},
    {"misalignsse", kAmd, kEcx, 7},
    {"xop", kAmd, kEcx, 11, kAvx},
    {"fma4", kAmd, kEcx, 16, kAvx},
    {"tbm", kAmd, kEcx, 21},
    {"mwaitx", kAmd, kEcx, 29},
    {"clzero", kAmdMore, kEbx, 0},
    {"rdpru", kAmdMore, kEbx, 4},
};

using Answers = std::array<std::array<unsigned, 4>, kLeaves.size()>;

Answers ask_processor() {
  Answers answers{};
  for (std::size_t i = 0; i < kLeaves.size(); ++i) {
    auto& [a, b, c, d] = answers[i];
    if (__get_cpuid_count(kLeaves[i].leaf, kLeaves[i].subleaf, &a, &b, &c, &d) == 0) {
      answers[i] = {};
    }
  }
  return answers;
}

}  // namespace

std::vector<std::string_view> instruction_sets() {
  constexpr unsigned long kFsgsbase = 1 << 1;  // in AT_HWCAP2: the kernel has enabled it
  const Answers answers = ask_processor();
  std::vector<std::string_view> names;
  for (const InstructionSet& set : kSets) {
    const bool has = (answers[set.leaf][set.in] >> set.bit & 1) != 0;
    if (has && (set.needs & ~vector_state_mask()) == 0) names.emplace_back(set.name);
  }
  if ((getauxval(AT_HWCAP2) & kFsgsbase) != 0) names.emplace_back("fsgsbase");
  return names;
}

}  // namespace godwit::arch
