"""It runs there before its pages are there."""

import os
import re
import signal
import time
import unittest

import workloads_test
from harness import MoveCase, programs
from harness.programs import wait_until


class PostCopyTest(MoveCase):
    """Self-checking programs, moved with pages missing."""

    def move_lazily(self, workload, mode="post", *arguments):
        run = workload.move(self.other(workload.host), "--mode", mode, *arguments)
        self.assert_moved(run)
        return run

    def test_every_page_arrives(self):
        """A program that writes and checks all its memory, there and back."""
        workload = self.workload("memory_checker", "256", "2", "2000")
        for _ in range(2):
            run = self.move_lazily(workload)
            self.tell(f"blackout {run.report['blackout_ms']} ms {run.report['post_copy']}")
            self.assertGreater(run.report["post_copy"]["pages"], 60_000)
            self.assertEqual(run.report["post_copy"]["missing_pages"], 0)
            self.assertGreater(run.report["post_copy"]["faults"], 0)
        self.assert_passes(workload)
        self.assert_nothing_left()

    def test_layout_changes_and_children(self):
        """Pages are missing for seconds, while the layout changes and children are forked."""
        workload = self.workload("changing_layout")
        for _ in range(2):
            target = self.other(workload.host)
            migration = workload.host.start_migrate(
                workload.pid, target, "--mode", "post", "--max-bandwidth", "20M", "-v")
            line = migration.wait_for_line("it runs there as pid")
            self.assertIsNotNone(line, migration.lines)
            there = int(re.search(r"as pid (\d+)", line)[1])
            for _ in range(5):
                os.kill(there, signal.SIGUSR1)
                time.sleep(0.1)
            run = migration.wait(60)
            self.assert_moved(run)
            self.tell(f"{run.report['post_copy']}")
            self.assertEqual(run.report["post_copy"]["missing_pages"], 0)
            self.assertGreater(run.report["post_copy"]["faults"], 100)
            workload.follow(target, run)
            self.assertTrue(workload.is_running(), workload.story())
            wait_until("the children to be gone", lambda: not programs.children_of(workload.pid), 30)
        self.assert_passes(workload)
        self.assert_nothing_left()


class ProgramsTest(workloads_test.WorkloadsTest):
    """Every self-checking program, released before its pages are there."""

    MODE = "post"
    MOVES = 2


if __name__ == "__main__":
    unittest.main(verbosity=2)
