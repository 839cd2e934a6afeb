// Against what the kernel (proc(5), /proc/cpuinfo) says of this processor.
#include <gtest/gtest.h>
#include <sys/prctl.h>

#include <fstream>
#include <iterator>
#include <set>
#include <sstream>
#include <string>

#include "arch/arch.h"

namespace godwit::arch {
namespace {

std::set<std::string> told_by_kernel() {
  std::ifstream text("/proc/cpuinfo");
  for (std::string line; std::getline(text, line);) {
    if (!line.starts_with("Features")) continue;
    std::istringstream words(line.substr(line.find(':') + 1));
    return {std::istream_iterator<std::string>(words), {}};
  }
  return {};
}

TEST(InstructionSets, AreKnownToTheKernel) {
  const std::set<std::string> kernel = told_by_kernel();
  std::set<std::string> seen;
  for (const std::string_view name : instruction_sets()) {
    if (name.starts_with("sve-")) continue;
    EXPECT_TRUE(kernel.contains(std::string(name))) << name;
    EXPECT_TRUE(seen.insert(std::string(name)).second) << name << " twice";
  }
  EXPECT_TRUE(seen.contains("asimd")) << "every such processor has it";
  // Names that later kernels have added are not missed.
  for (const char* name : {"fp", "aes", "crc32", "atomics", "sve", "sve2", "paca", "pacg", "bti"}) {
    EXPECT_EQ(seen.contains(name), kernel.contains(name)) << name;
  }
}

// The one that a program has from its start is among them, and asking changes nothing of it.
TEST(InstructionSets, TellTheVectorLengths) {
  const int own = ::prctl(PR_SVE_GET_VL, 0, 0, 0, 0);
  std::set<std::string> lengths;
  for (const std::string_view name : instruction_sets()) {
    if (name.starts_with("sve-")) lengths.emplace(name);
  }
  EXPECT_EQ(lengths.empty(), own < 0);
  if (own < 0) GTEST_SKIP() << "this processor has no SVE";
  EXPECT_TRUE(lengths.contains("sve-128")) << "every such processor has it";
  EXPECT_TRUE(lengths.contains("sve-" + std::to_string((own & PR_SVE_VL_LEN_MASK) * 8)));
  EXPECT_EQ(::prctl(PR_SVE_GET_VL, 0, 0, 0, 0), own);
}

}  // namespace
}  // namespace godwit::arch
