"""Processes move between virtual machines with kernels of their own; a machine that does not boot is
told with the end of its console. A few of the scenarios: integration/vm/run --all has them all.
"""

import pathlib
import tempfile
import unittest

from vm import processors
from vm.kernels import get_kernel
from vm.machine import CPU, Machine, MachineFailed, MachineOptions
from vm.pair import Pair
from vm.scenarios import SCENARIOS as PLAIN_SCENARIOS

SCENARIOS = PLAIN_SCENARIOS | processors.SCENARIOS


class VmTest(unittest.TestCase):
    """Each test boots its own machines."""

    def check(self, scenario, source, destination, tracker):
        """One scenario between two kernels."""
        with Pair(source, destination,
                  cpus=processors.CPUS.get(scenario, (CPU, CPU))) as pair:
            outcome = SCENARIOS[scenario](pair)
        print(f"{scenario} {source} -> {destination}: blackout {outcome.blackout_ms:.0f} ms, "
              f"{outcome.pages} pages {outcome.notes}", flush=True)
        self.assertEqual(outcome.tracker, tracker)

    def test_memory_under_soft_dirty(self):
        """A kernel without PAGEMAP_SCAN: every page is right."""
        self.check("memory", "6.1", "6.1", "soft-dirty")

    def test_redis_with_clients(self):
        """Clients that never reconnect see no error."""
        self.check("redis", "6.1", "6.1", "soft-dirty")

    def test_other_kernel(self):
        """There and back between kernels: vDSO calls go on in the other's."""
        self.check("memory", "6.12", "6.1", "write-protect, soft-dirty")

    def test_memory_under_write_protection(self):
        """A kernel that has both trackers takes the one that lets the process run."""
        self.check("memory", "6.12", "6.12", "write-protect")

    def test_other_processors(self):
        """To one with more, and back to one that is refused by the names of what it lacks."""
        self.check("cpu", "6.1", "6.1", "soft-dirty")

    def test_machine_that_does_not_boot(self):
        """The story says which machine, and what it said last."""
        with tempfile.TemporaryDirectory(prefix="godwit-vm-") as work:
            folder = pathlib.Path(work)
            image = folder / "image"
            image.write_bytes(b"no archive")
            machine = Machine(MachineOptions("broken", get_kernel("6.1"), 128, image=image), folder)
            self.addCleanup(machine.close)
            with self.assertRaises(MachineFailed) as failed:
                machine.wait_ready(60)
        self.assertIn("machine broken", str(failed.exception))
        self.assertIn("Kernel panic", str(failed.exception))
        self.assertIsNotNone(machine.process.poll())


if __name__ == "__main__":
    unittest.main(verbosity=2)
