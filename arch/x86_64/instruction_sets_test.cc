// Against what the kernel (proc(5), /proc/cpuinfo) and the compiler say of this processor.
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <set>
#include <sstream>
#include <string>
#include <utility>

#include "arch/arch.h"

namespace godwit::arch {
namespace {

std::set<std::string> told_by_kernel() {
  std::ifstream text("/proc/cpuinfo");
  for (std::string line; std::getline(text, line);) {
    if (!line.starts_with("flags")) continue;
    std::istringstream words(line.substr(line.find(':') + 1));
    return {std::istream_iterator<std::string>(words), {}};
  }
  return {};
}

TEST(InstructionSets, AreKnownToTheKernel) {
  const std::set<std::string> kernel = told_by_kernel();
  std::set<std::string_view> seen;
  for (const std::string_view name : instruction_sets()) {
    EXPECT_TRUE(kernel.contains(std::string(name))) << name;
    EXPECT_TRUE(seen.insert(name).second) << name << " twice";
  }
  EXPECT_TRUE(seen.contains("sse2")) << "every such processor has it";
}

TEST(InstructionSets, AreThoseThatACompilerFinds) {
  const auto names = instruction_sets();
  const std::set<std::string_view> sets(names.begin(), names.end());
  const std::pair<const char*, bool> found[] = {
      {"sse4_2", __builtin_cpu_supports("sse4.2")},
      {"popcnt", __builtin_cpu_supports("popcnt")},
      {"avx", __builtin_cpu_supports("avx")},
      {"fma", __builtin_cpu_supports("fma")},
      {"avx2", __builtin_cpu_supports("avx2")},
      {"bmi2", __builtin_cpu_supports("bmi2")},
      {"avx512f", __builtin_cpu_supports("avx512f")},
      {"avx512_vnni", __builtin_cpu_supports("avx512vnni")},
      {"vaes", __builtin_cpu_supports("vaes")},
      {"gfni", __builtin_cpu_supports("gfni")}};
  for (const auto& [name, is_there] : found) EXPECT_EQ(sets.contains(name), is_there) << name;
}

}  // namespace
}  // namespace godwit::arch
