"""`migrate --leave-running`: a copy of a process is made on another host, and it runs on where it is."""

import random
import time
import unittest

from harness import MoveCase, Redis, RedisLoad, programs
from harness.network import MANAGEMENT, SERVICE
from harness.programs import is_alive, program, wait_until


class RemoteCopy(MoveCase):
    """Both run on: the original with its connections, the copy without."""

    def copy(self, pid, *extra):
        """A copy that must work; its pid."""
        run = self.a.migrate(pid, self.b, "--leave-running", *extra)
        self.assert_moved(run)
        self.assertEqual(run.report["command"], "copy")
        self.assertEqual(run.report["mode"], "pre")
        self.tell(f"pause {run.report['blackout_ms']:.1f} ms of {run.report['total_ms']:.0f} ms")
        copied = run.report["pid_destination"]
        self.addCleanup(lambda: is_alive(copied) and programs.send_signal(copied))
        self.assertTrue(is_alive(pid))
        self.assertTrue(is_alive(copied))
        return copied

    def check_program(self, name, *arguments, extra=()):
        """Original and copy pass, and are two processes."""
        workload = self.workload(name, *arguments)
        copied = self.copy(workload.pid, *extra)
        self.assert_nothing_left(running=(workload, copied))
        time.sleep(0.4)
        self.assertTrue(workload.is_running(), workload.story())
        self.assertTrue(is_alive(copied), workload.story())
        self.assert_passes(workload)
        wait_until("the copy to end", lambda: not is_alive(copied))
        verdicts = [line for line in workload.text().splitlines() if line != "READY"]
        self.assertEqual(verdicts, ["PASS", "PASS"])
        self.assert_nothing_left()

    def test_memory(self):
        """Pages that are written all the time."""
        self.check_program("memory_checker", "64", "2", "5000", extra=("--verify",))

    def test_kinds(self):
        """Threads, pipes, timers: what a process shares with nobody."""
        for name in ("threads", "pipes", "timerfds", "epolls", "signals"):
            with self.subTest(name):
                self.check_program(name, extra=("--verify",))

    def test_redis_with_clients(self):
        """No client of the original notices; the copy has every value, and no client."""
        redis = Redis(self.a, 64, addresses=("0.0.0.0",))
        self.addCleanup(redis.kill)
        redis.addresses = (SERVICE,)
        redis.fill(self.c)
        load = RedisLoad(self.c, clients_count=20)
        time.sleep(0.5)
        copied = self.copy(redis.pid)
        self.addCleanup(lambda: is_alive(copied) and programs.send_signal(copied))
        time.sleep(0.5)
        report = load.stop()
        for name in ("failed_commands", "wrong_replies", "reconnects", "counter_errors"):
            self.assertEqual(report[name], 0, name)
        redis.verify(self.c)
        redis.addresses = (MANAGEMENT["b"],)
        redis.verify(self.c)
        told = self.network.run("c", "redis-cli", "-h", MANAGEMENT["b"], "info", "clients",
                                check=True).stdout
        self.assertIn("connected_clients:1\r", told.replace("\n", "\r"))
        self.assertTrue(is_alive(redis.pid))

    def test_taken_port(self):
        """Somebody there has the port: refused or rolled back, and nothing is there."""
        redis = Redis(self.a, 16, addresses=("0.0.0.0",))
        self.addCleanup(redis.kill)
        other = Redis(self.b, 16, addresses=("0.0.0.0",))
        self.addCleanup(other.kill)
        run = self.a.migrate(redis.pid, self.b, "--leave-running")
        self.assertIn(run.code, (1, 2), str(run))
        self.assertIn("another program here uses this port", str(run))
        self.assertTrue(is_alive(redis.pid))
        self.assert_nothing_left(running=(redis, other))


class NotTogether(MoveCase):
    """What can't be had with it is wrong usage."""

    def test_usage(self):
        """Said before anything is touched."""
        workload = self.workload("threads")
        for extra, story in ((("--mode", "post"), "a copy runs when all its pages are there"),
                             (("--mode", "hybrid"), "a copy runs when all its pages are there"),
                             (("--addresses", "move"), "they stay with the process")):
            run = self.a.migrate(workload.pid, self.b, "--leave-running", *extra)
            self.assertEqual(run.code, 2, str(run))
            self.assertIn(story, str(run))
        checked = self.a.check(workload.pid, self.b, "--leave-running")
        self.assertEqual(checked.code, 0, str(checked))
        self.assert_passes(workload)


class Killed(MoveCase):
    """The agents are killed at any instant."""

    TURNS = 6

    def test_at_any_instant(self):
        """The original runs on; a copy is there whole or not at all."""
        workload = self.workload("threads")
        pace = random.Random(7)
        for turn in range(self.TURNS):
            migration = self.a.start_migrate(workload.pid, self.b, "--leave-running")
            time.sleep(pace.uniform(0.02, 0.5))
            programs.send_signal(migration.pid)
            migration.wait()
            self.assertTrue(is_alive(workload.pid), f"turn {turn}: {workload.story()}")
            self.a.recover()
        wait_until("it to go on", workload.is_running)
        self.assert_passes(workload)
        wait_until("nothing to be left", lambda: not self.baseline.problems((), None), 30)
        self.assertNotIn("FAIL", workload.text())


if __name__ == "__main__":
    unittest.main(verbosity=2)
