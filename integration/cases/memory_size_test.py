"""What the agents hold and how long the blackout is do not depend on the size of the workload.

GODWIT_LARGE_MIB (1024): the large one; the small one has 64 MiB.
"""

import unittest

from harness import MoveCase, touch_and_release
from harness.cases import number_from_environment

SMALL_MIB = 64
AGENTS_MIB_MAX = 100


class MemorySizeTest(MoveCase):
    """One move at each size, figures side by side."""

    def measure(self, mib):
        """(blackout, most resident memory of agents and page servers) of a move there and back."""
        touch_and_release(2 * mib + 64)
        workload = self.workload("memory_checker", str(mib), "2", "2000", ready_timeout_s=120)
        blackouts = []
        for _ in range(2):
            source = workload.host
            source.largest_agent_bytes = 0
            run = workload.move(self.other(source), watch_memory=True)
            self.assert_moved(run)
            blackouts.append(run.report["blackout_ms"])
            held_mib = source.largest_agent_bytes / (1 << 20)
            self.tell(f"{mib} MiB: blackout {blackouts[-1]:.1f} ms "
                      f"{run.report.get('blackout_phases_ms')}, agents and page servers "
                      f"{held_mib:.1f} MiB, {run.report['total_ms']:.0f} ms in all")
            self.assertGreater(held_mib, 1, "the measurement saw nothing")
            self.assertLess(held_mib, AGENTS_MIB_MAX)
        self.assert_passes(workload)
        self.assert_nothing_left()
        return min(blackouts)

    def test_small_and_large(self):
        """The large one costs no more in the blackout than the small one, noise aside."""
        large_mib = number_from_environment("GODWIT_LARGE_MIB", 1024)
        small_ms = self.measure(SMALL_MIB)
        large_ms = self.measure(large_mib)
        self.tell(f"blackout {small_ms:.1f} ms at {SMALL_MIB} MiB, {large_ms:.1f} ms at "
                  f"{large_mib} MiB")
        self.assertLess(large_ms, 2 * small_ms + 10)


if __name__ == "__main__":
    unittest.main(verbosity=2)
