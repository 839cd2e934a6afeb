// Attributes of the process: personality, dumpable, huge pages, subreaper, out-of-memory score,
// core dump filter, parent-death signal, memory barriers.
#include <linux/membarrier.h>
#include <signal.h>
#include <sys/personality.h>
#include <sys/prctl.h>

#include <fstream>

#include "integration/workloads/selfcheck.h"

namespace {

using selfcheck::expect;
using selfcheck::expect_equal;
using selfcheck::must;

constexpr unsigned long kPersonality = ADDR_NO_RANDOMIZE | 0x0200000;  // SHORT_INODE

int barrier(int command) { return static_cast<int>(syscall(SYS_membarrier, command, 0, 0)); }

std::string read_own(const std::string& name) {
  std::ifstream file("/proc/self/" + name);
  std::string text;
  file >> text;
  return text;
}

void write_own(const std::string& name, const std::string& text) {
  std::ofstream file("/proc/self/" + name);
  file << text << std::flush;
  expect(file.good(), "write " + name);
}

void set_up() {
  must(personality(kPersonality), "personality");
  must(prctl(PR_SET_DUMPABLE, 0, 0, 0, 0), "dumpable");
  must(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0), "huge pages");
  must(prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "subreaper");
  must(prctl(PR_SET_PDEATHSIG, SIGWINCH, 0, 0, 0), "parent-death signal");
  must(barrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED), "membarrier");
  write_own("coredump_filter", "0x15");
  write_own("oom_score_adj", "321");
}

void turn() {
  expect_equal(personality(0xffffffff), kPersonality, "personality");
  expect_equal(prctl(PR_GET_DUMPABLE, 0, 0, 0, 0), 0, "dumpable");
  expect_equal(prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0), 1, "huge pages");
  must(barrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED), "a memory barrier");
  int value = -1;
  must(prctl(PR_GET_CHILD_SUBREAPER, &value, 0, 0, 0), "subreaper");
  expect_equal(value, 1, "subreaper");
  must(prctl(PR_GET_PDEATHSIG, &value, 0, 0, 0), "parent-death signal");
  expect_equal(value, SIGWINCH, "parent-death signal");
}

// A file of /proc that is open at the moment of a move is rightly refused: read them at the end
// only.
void final_check() {
  turn();
  expect(read_own("coredump_filter") == "00000015", "core dump filter");
  expect(read_own("oom_score_adj") == "321", "out-of-memory score");
}

}  // namespace

int main(int argc, char** argv) {
  return selfcheck::run_workload(argc, argv, set_up, turn, final_check);
}
