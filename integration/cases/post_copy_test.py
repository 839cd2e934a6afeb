"""It runs there before its pages are there."""

import os
import random
import re
import signal
import time
import unittest

import workloads_test
from harness import MoveCase, programs
from harness.cases import number_from_environment
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
            migration, there = self.begin(workload)
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

    def test_faster_than_the_link(self):
        """It writes more than the link carries: hybrid comes to an end all the same, in time."""
        workload = self.workload("memory_checker", "96", "2", "40000")
        for downtime_ms in (10, 40):
            target = self.other(workload.host)
            self.network.limit(target.part, "160mbit")
            run = self.move_lazily(workload, "hybrid", "--max-downtime", f"{downtime_ms}ms")
            self.tell(f"{len(run.report['rounds'])} rounds, blackout {run.report['blackout_ms']} ms, "
                      f"{run.report['post_copy']}")
            self.assertGreater(run.report["post_copy"]["pages"], 1000)
            self.assertEqual(run.report["post_copy"]["missing_pages"], 0)
            self.assertLessEqual(run.report["blackout_ms"], downtime_ms + 5)
        self.assert_passes(workload)
        self.assert_nothing_left()

    def begin(self, workload, bandwidth="20M", *options):
        """A move that has come to the point where pages are missing for a while: (run, pid there)."""
        migration = workload.host.start_migrate(
            workload.pid, self.other(workload.host), "--mode", "post",
            "--max-bandwidth", bandwidth, "-v", *options)
        line = migration.wait_for_line("it runs there as pid")
        self.assertIsNotNone(line, migration.lines)
        return migration, int(re.search(r"as pid (\d+)", line)[1])

    def page_servers(self, migration):
        """Those of both sides."""
        parents = (migration.pid, *programs.children_of(self.a.agent.pid),
                   *programs.children_of(self.b.agent.pid))
        return [child for parent in parents for child in programs.children_of(parent)
                if programs.name_of(child) == "page-server"]

    def test_page_servers_are_killed(self):
        """Again and again, on either side: the pair is made anew and goes on with what is missing."""
        kills = number_from_environment("GODWIT_KILLS", 10)
        chance = random.Random(4)
        workload = self.workload("memory_checker", "256", "2", "2000")
        target = self.other(workload.host)
        migration, _ = self.begin(workload, "40M")
        for _ in range(kills):
            time.sleep(chance.uniform(0.05, 0.4))
            victims = self.page_servers(migration)
            if victims:
                programs.send_signal(chance.choice(victims))
        run = self.finish(workload, migration, target)
        self.assertGreater(run.report["post_copy"]["reconnects"], kills // 2)

    def finish(self, workload, migration, target):
        """The migration ends as if nothing had happened; the program has all its bytes."""
        run = migration.wait(120)
        self.assert_moved(run)
        self.tell(f"{run.report['post_copy']}")
        self.assertEqual(run.report["post_copy"]["missing_pages"], 0)
        workload.follow(target, run)
        self.assert_passes(workload)
        self.assert_nothing_left()
        return run

    def test_connections_are_cut(self):
        """Again and again: everything goes on over new ones."""
        cuts = number_from_environment("GODWIT_KILLS", 10)
        chance = random.Random(5)
        workload = self.workload("memory_checker", "256", "2", "2000")
        target = self.other(workload.host)
        migration, _ = self.begin(workload, "40M")
        for _ in range(cuts):
            time.sleep(chance.uniform(0.05, 0.3))
            host, end = chance.choice((("a", "dport"), ("b", "sport")))
            self.network.run(host, "ss", "--kill", "--tcp", end, "=", "7070", check=True)
        run = self.finish(workload, migration, target)
        self.assertGreater(run.report["post_copy"]["reconnects"], cuts // 2)

    def test_session_is_killed(self):
        """The destination's session: another one takes over, with what the daemon holds."""
        workload = self.workload("changing_layout")
        target = self.other(workload.host)
        migration, there = self.begin(workload, "10M")
        os.kill(there, signal.SIGUSR1)
        for _ in range(3):
            time.sleep(0.2)
            for session in programs.children_of(self.b.agent.pid):
                if programs.name_of(session) == "dest-agent":
                    programs.send_signal(session)
        self.finish(workload, migration, target)

    def test_migrate_is_killed(self):
        """The copy here stays frozen, and what touches a missing page waits until recovery."""
        workload = self.workload("memory_checker", "128", "2", "2000")
        target = self.other(workload.host)
        left = workload.pid
        migration, there = self.begin(workload, "20M")
        time.sleep(0.2)
        programs.send_signal(migration.pid)
        migration.wait(10)
        self.assertTrue(programs.is_alive(left))
        time.sleep(0.5)
        self.assertTrue(programs.is_alive(there))
        recovered = workload.host.recover()
        self.assertEqual(recovered.returncode, 0, str(recovered))
        workload.forget_original()
        self.assertFalse(programs.is_alive(left))
        workload.pid, workload.host = there, target
        self.assert_passes(workload)
        self.assert_nothing_left()

    def test_nobody_comes_back(self):
        """Without the source for too long: exit code 3, and recovery goes on with it later."""
        workload = self.workload("memory_checker", "128", "2", "2000")
        target = self.other(workload.host)
        migration, there = self.begin(workload, "20M", "--reconnect-timeout", "1s")
        self.network.cut("b")
        for victim in self.page_servers(migration):
            programs.send_signal(victim)
        run = migration.wait(60)
        self.assertEqual((run.code, run.report["state"]), (3, "PostCopy"), str(run))
        self.assertGreater(run.report["post_copy"]["missing_pages"], 0)
        self.network.heal("b")
        self.assertTrue(programs.is_alive(there))
        recovered = workload.host.recover()
        self.assertEqual(recovered.returncode, 0, str(recovered))
        workload.forget_original()
        workload.pid, workload.host = there, target
        self.assert_passes(workload)
        self.assert_nothing_left()


class ProgramsTest(workloads_test.WorkloadsTest):
    """Every self-checking program, released before its pages are there."""

    MODE = "post"
    MOVES = 2


if __name__ == "__main__":
    unittest.main(verbosity=2)
