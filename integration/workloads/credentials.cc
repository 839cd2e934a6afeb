// Credentials that are nobody's default: mixed user and group ids, supplementary groups, capability
// sets, secure bits, no_new_privs, the same in every thread. Run as root; it gives up root itself.
#include <grp.h>
#include <linux/capability.h>
#include <linux/prctl.h>
#include <linux/securebits.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include <sys/stat.h>

#include <atomic>
#include <thread>
#include <vector>

#include "integration/workloads/selfcheck.h"

namespace {

using selfcheck::expect;
using selfcheck::expect_equal;
using selfcheck::must;

constexpr uid_t kReal = 4101, kEffective = 4102, kSaved = 4103;
constexpr gid_t kGroupReal = 4201, kGroupEffective = 4202, kGroupSaved = 4203;
constexpr unsigned kSecureBits = SECBIT_NOROOT | SECBIT_KEEP_CAPS | SECBIT_NO_SETUID_FIXUP;
const std::vector<gid_t> kGroups = {4301, 4302, 65000};
constexpr std::uint64_t bit(int capability) { return 1ULL << capability; }
constexpr std::uint64_t kPermitted =
    bit(CAP_CHOWN) | bit(CAP_KILL) | bit(CAP_NET_RAW) | bit(CAP_SYS_NICE);
constexpr std::uint64_t kEffectiveSet = bit(CAP_KILL);
constexpr std::uint64_t kInheritable = bit(CAP_NET_RAW) | bit(CAP_CHOWN);

std::atomic<bool> stop{false};
std::atomic<int> checks{0};

void set_capabilities(std::uint64_t effective, std::uint64_t permitted, std::uint64_t inheritable) {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  const auto low = [](std::uint64_t set) { return static_cast<std::uint32_t>(set); };
  const auto high = [](std::uint64_t set) { return static_cast<std::uint32_t>(set >> 32); };
  const __user_cap_data_struct data[2] = {{low(effective), low(permitted), low(inheritable)},
                                          {high(effective), high(permitted), high(inheritable)}};
  must(syscall(SYS_capset, &header, data), "capset");
}

void give_up_root() {
  must(setgroups(kGroups.size(), kGroups.data()), "setgroups");
  must(prctl(PR_SET_SECUREBITS, kSecureBits), "secure bits");
  must(prctl(PR_CAPBSET_DROP, CAP_SYS_BOOT), "bounding set");
  must(prctl(PR_CAPBSET_DROP, CAP_MKNOD), "bounding set");
  must(setresgid(kGroupReal, kGroupEffective, kGroupSaved), "setresgid");
  must(setresuid(kReal, kEffective, kSaved), "setresuid");
  set_capabilities(kEffectiveSet | bit(CAP_SETPCAP), kPermitted | bit(CAP_SETPCAP), kInheritable);
  must(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_NET_RAW, 0, 0), "ambient set");
  set_capabilities(kEffectiveSet, kPermitted, kInheritable);
  must(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs");
}

std::uint64_t join(std::uint32_t low, std::uint32_t high) {
  return low | static_cast<std::uint64_t>(high) << 32;
}

void check_capabilities() {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2];
  must(syscall(SYS_capget, &header, data), "capget");
  expect_equal(join(data[0].effective, data[1].effective), kEffectiveSet, "effective set");
  expect_equal(join(data[0].permitted, data[1].permitted), kPermitted, "permitted set");
  expect_equal(join(data[0].inheritable, data[1].inheritable), kInheritable, "inheritable set");
  expect_equal(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, CAP_NET_RAW, 0, 0), 1, "ambient set");
  expect_equal(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, CAP_CHOWN, 0, 0), 0, "ambient set");
  expect_equal(prctl(PR_CAPBSET_READ, CAP_SYS_BOOT), 0, "bounding set");
  expect_equal(prctl(PR_CAPBSET_READ, CAP_MKNOD), 0, "bounding set");
  expect_equal(prctl(PR_CAPBSET_READ, CAP_CHOWN), 1, "bounding set");
  expect_equal(prctl(PR_GET_SECUREBITS), kSecureBits, "secure bits");
  expect_equal(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), 1, "no_new_privs");
}

void check() {
  uid_t uids[3];
  gid_t gids[3];
  must(getresuid(&uids[0], &uids[1], &uids[2]), "getresuid");
  must(getresgid(&gids[0], &gids[1], &gids[2]), "getresgid");
  expect(uids[0] == kReal && uids[1] == kEffective && uids[2] == kSaved, "user ids");
  expect(gids[0] == kGroupReal && gids[1] == kGroupEffective && gids[2] == kGroupSaved,
         "group ids");
  expect_equal(setfsuid(-1), kEffective, "filesystem user id");
  expect_equal(setfsgid(-1), kGroupEffective, "filesystem group id");
  std::vector<gid_t> groups(64);
  groups.resize(must(getgroups(groups.size(), groups.data()), "getgroups"));
  expect(groups == kGroups, "supplementary groups");
  check_capabilities();
  ++checks;
}

}  // namespace

int main(int argc, char** argv) {
  std::thread other;
  return selfcheck::run_workload(
      argc, argv,
      [&] {
        // The status file must be open to the one that we become.
        must(chmod(argv[1], 0666) == 0 || errno == ENOENT ? 0 : -1, "chmod");
        selfcheck::report("STARTING");
        chmod(argv[1], 0666);
        give_up_root();
        check();
        other = std::thread([] {
          while (!stop) {
            check();
            selfcheck::sleep_ms(3);
          }
        });
      },
      check,
      [&] {
        stop = true;
        other.join();
        expect(checks > 1, "the second thread never looked");
      });
}
