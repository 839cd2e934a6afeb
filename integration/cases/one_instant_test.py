"""An image that is made while its process runs on is the memory of one instant."""

import os
import random
import signal
import time
import unittest

from harness import images
from harness.image_case import ImageCase
from harness.programs import is_alive, wait_until


class OneInstant(ImageCase):
    """Of a program that would notice a mixture of two."""

    MIB = "96"
    TRIES = 40

    def save_running(self, workload, name, *extra):
        """A checkpoint; one that meets a child of the program is tried again."""
        for _ in range(self.TRIES):
            run = images.checkpoint(self.a, workload.pid, self.images / name, "--leave-running",
                                    *extra)
            if run.code == 0 or "process-has-children" not in str(run):
                break
            time.sleep(0.05)
        self.assertEqual(run.code, 0, str(run))
        self.tell(f"pause {run.report['blackout_ms']:.1f} ms of {run.report['total_ms']:.0f} ms")
        return run

    def check_restored(self, workload, name, *extra):
        """What comes back finds its memory as it must be, and goes on."""
        (workload.folder / "stop").unlink()
        workload.status.write_text("")
        self.bring_back(workload, self.b, name, "--pids", "namespace", *extra)
        time.sleep(0.4)
        self.assert_passes(workload)
        self.assert_nothing_left()

    def test_again_and_again(self):
        """Saved several times while it writes, gives memory back, moves it and forks; restored from
        each image."""
        workload = self.workload("one_instant", self.MIB, "forks")
        names = [f"image{number}" for number in range(4)]
        for name in names:
            self.save_running(workload, name, "--compress", "lz4")
            verified = images.look("images", "verify", self.images / name)
            self.assertEqual(verified.returncode, 0, verified.stderr)
        self.assert_passes(workload)
        for number, name in enumerate(names):
            self.check_restored(workload, name, *(["--lazy"] if number % 2 else []))

    def test_chain(self):
        """The second image rests on the first."""
        workload = self.workload("one_instant", self.MIB)
        self.save_running(workload, "one")
        self.save_running(workload, "two", "--base", str(self.images / "one"))
        self.assert_passes(workload)
        self.check_restored(workload, "two")

    def test_of_an_ordinary_user(self):
        """A process without privileges can't ask for what holds up its writers: it is given it."""
        workload = self.workload("one_instant", self.MIB, "nobody")
        run = self.save_running(workload, "one", "-v")
        self.assertIn("saved while it ran", str(run))
        self.assert_passes(workload)


class Killed(ImageCase):
    """The agents are killed while a process is saved that runs on."""

    TURNS = 6

    def test_at_any_instant(self):
        """It runs on unharmed, and the image before is whole."""
        workload = self.workload("one_instant", "64")
        self.save(workload, "before", "--leave-running")
        pace = random.Random(4)
        for turn in range(self.TURNS):
            began = images.start_checkpoint(self.a, workload.pid, self.images / "next",
                                            "--leave-running")
            time.sleep(pace.uniform(0.05, 0.6))
            victim = began.pid
            if turn % 2:
                victim = next(iter(children_of(victim)), victim)
            try:
                os.kill(victim, signal.SIGKILL)
            except ProcessLookupError:
                pass
            began.wait()
            self.assertTrue(is_alive(workload.pid), workload.story())
            time.sleep(0.1)
        verified = images.look("images", "verify", self.images / "before")
        self.assertEqual(verified.returncode, 0, verified.stderr)
        wait_until("the program to go on", lambda: workload.is_running())
        self.save(workload, "after", "--leave-running")
        self.assert_passes(workload)


def children_of(pid):
    """Of the agent: its page server."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
            return [int(child) for child in file.read().split()]
    except OSError:
        return []


if __name__ == "__main__":
    unittest.main(verbosity=2)
