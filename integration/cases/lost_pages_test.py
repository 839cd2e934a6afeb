"""The source is gone for good while pages are missing at the destination: what its operator is told, and
may choose."""

import os
import re
import signal
import time
import unittest

from harness import MoveCase, programs
from harness.programs import build_dir, wait_until


class LostPagesTest(MoveCase):
    """A program of which a part never comes."""

    def move_and_lose(self, mib="64"):
        """Moved to b with pages missing, and `migrate` is gone: (workload there, its id)."""
        workload = self.workload("lost_part", mib)
        migration = self.a.start_migrate(workload.pid, self.b, "--mode", "post",
                                         "--max-bandwidth", "20M", "-v")
        line = migration.wait_for_line("it runs there as pid")
        self.assertIsNotNone(line, migration.lines)
        there = int(re.search(r"as pid (\d+)", line)[1])
        time.sleep(0.8)
        self.assert_refused(self.b.recover("--poison"), "waits for lost pages")
        programs.send_signal(migration.pid)
        migration.wait(10)
        self.left = workload.process
        self.addCleanup(self.end_copy, workload.process)
        workload.process, workload.pid, workload.host = None, there, self.b
        wait_until("the session to notice", lambda: self.b.recover().returncode == 3, 10)
        told = self.b.recover()
        return workload, re.search(r"^(\w{16}):", told.stdout)[1]

    def end_copy(self, process):
        """The copy on the source, if it is still there."""
        if process.poll() is None:
            process.kill()
            self.a.recover()
            process.wait()

    def walk(self, workload):
        """A thread of it goes on until it waits for a page: what recovery then tells."""
        os.kill(workload.pid, signal.SIGUSR1)
        wait_until("somebody to wait", lambda: "waits for the page" in self.b.recover().stdout, 10)
        return self.b.recover().stdout

    def assert_refused(self, run, text):
        """Nothing was done, and why is said."""
        self.assertEqual(run.returncode, 2, f"{run.stdout}{run.stderr}")
        self.assertIn(text, run.stdout + run.stderr)

    def settle(self):
        """The source comes back after all: it may not let its copy run."""
        recovered = self.a.recover()
        self.assertEqual(recovered.returncode, 0, str(recovered))
        self.assertIn("has moved; its copy here was ended", recovered.stdout)
        self.assertIsNotNone(self.left.wait(10))
        self.assertEqual(list(self.b.state_dir.iterdir()), [])
        return recovered.stdout

    def test_told_and_poisoned(self):
        """What was lost is SIGBUS; all else goes on with the right bytes."""
        workload, migration = self.move_and_lose()
        told = self.walk(workload)
        self.tell(told)
        missing = int(re.search(r"; (\d+) pages are missing", told)[1])
        self.assertGreater(missing, 1000)
        pages = [int(count) for count in re.findall(rf"pid {workload.pid}: (\d+) pages? of", told)]
        self.assertEqual(sum(pages), missing)
        self.assertRegex(told, rf"pid {workload.pid} thread \d+ \(walker\) waits for the page at "
                               rf"[0-9a-f]+000 \(anonymous\)")
        for choice in ("--wait", "--poison", "--kill"):
            self.assertIn(f"migrate recover --migration {migration} {choice}", told)

        waiting = self.b.recover("--migration", migration, "--wait")
        self.assertEqual(waiting.returncode, 0, str(waiting))
        self.assertIn("goes on waiting", waiting.stdout)
        self.assertNotIn("WALKED", workload.text())

        poisoned = self.b.recover("--migration", migration, "--poison")
        self.assertEqual(poisoned.returncode, 0, str(poisoned))
        self.assertIn(f"{missing} pages are lost", poisoned.stdout)
        wait_until("the walk to end", lambda: "WALKED" in workload.text(), 10)
        right, lost = map(int, re.search(r"WALKED (\d+) (\d+)", workload.text()).groups())
        self.assertEqual(right + lost, 64 * 256 - 64)
        self.assertLessEqual(lost, missing)
        self.assertGreater(lost, missing - 200)
        self.assertGreater(right, 500)
        self.assertTrue(workload.is_running())
        self.assert_refused(self.b.recover("--migration", migration, "--poison"), "no lost pages")
        self.assertEqual(self.b.recover().returncode, 0)

        self.assertIn(f"{missing} pages of it were given up", self.settle())
        self.assert_passes(workload)
        walks = re.findall(r"WALKED (\d+) (\d+)", workload.text())
        self.assertEqual(walks[0], walks[1])
        self.assert_nothing_left()

    def test_killed(self):
        """No process, control group or descriptor is left."""
        workload, migration = self.move_and_lose()
        self.walk(workload)
        killed = self.b.recover("--kill")
        self.assertEqual(killed.returncode, 0, str(killed))
        self.assertIn(f"{migration}: pid {workload.pid}: ", killed.stdout)
        self.assertFalse(programs.is_alive(workload.pid))
        self.assertEqual(self.b.recover().returncode, 0)
        self.settle()
        self.assert_nothing_left()

    def test_source_comes_after_all(self):
        """Whoever waits goes on where it stood."""
        workload, _ = self.move_and_lose()
        self.walk(workload)
        recovered = self.a.recover()
        self.assertEqual(recovered.returncode, 0, str(recovered))
        self.assertIsNotNone(self.left.wait(10))
        wait_until("the walk to end", lambda: "WALKED" in workload.text(), 10)
        self.assertIn(f"WALKED {64 * 256 - 64} 0", workload.text())
        self.assert_passes(workload)
        self.assert_nothing_left()

    def test_session_is_killed_meanwhile(self):
        """Another one takes over, and tells and does the same."""
        workload, migration = self.move_and_lose("32")
        for session in programs.children_of(self.b.agent.pid):
            if programs.name_of(session) == "dest-agent":
                programs.send_signal(session)
        wait_until("another session", lambda: self.b.recover().returncode == 3, 10)
        self.walk(workload)
        poisoned = self.b.recover("--migration", migration, "--poison")
        self.assertEqual(poisoned.returncode, 0, str(poisoned))
        wait_until("the walk to end", lambda: "WALKED" in workload.text(), 10)
        self.settle()
        self.assert_passes(workload)
        self.assert_nothing_left()

    def test_kernel_without_poison(self):
        """It is named, and the other choices are there."""
        self.b.stop_agent()
        preload = build_dir() / "faults" / "without_poison.so"
        self.b.start_agent(before=("env", f"LD_PRELOAD={preload}"))
        self.baseline = type(self.baseline)(self.network, [self.a, self.b])
        workload, migration = self.move_and_lose("32")
        self.walk(workload)
        run = self.b.recover("--migration", migration, "--poison")
        self.assert_refused(run, "no UFFDIO_POISON")
        self.assertIn("--kill", run.stderr)
        self.assertEqual(self.b.recover().returncode, 3)
        self.assertEqual(self.b.recover("--kill").returncode, 0)
        self.assertFalse(programs.is_alive(workload.pid))
        self.settle()
        self.assert_nothing_left()

    def test_bad_input(self):
        """Said on standard error, exit code 2."""
        for arguments, text in (
                (("--poison", "--kill"), "excludes"),
                (("--wait", "--poison"), "excludes"),
                (("--migration", "0123456789abcdef"), "no migration 0123456789abcdef"),
                (("--migration", "0123456789abcdef", "--kill"), "no migration 0123456789abcdef"),
                (("--kill",), "waits for lost pages"),
                (("--wait",), "waits for lost pages"),
                (("--migration",), "--migration")):
            with self.subTest(arguments=arguments):
                self.assert_refused(self.b.recover(*arguments), text)
        self.assertEqual(self.b.recover().returncode, 0)


if __name__ == "__main__":
    unittest.main(verbosity=2)
