"""All registered workloads of a host move away and come back; what can't stays, and is told of."""

import json
import os
import signal
import time
import unittest

from harness import MoveCase, Redis, RedisLoad
from harness import drain, programs
from harness.programs import wait_until

SLOW = "--max-bandwidth=3M"  # a move takes a second or two, so that others see it


class DrainCase(MoveCase):
    """Registered self-checking programs on host a."""

    def checker(self, name, *options, mib=8):
        """A program that rewrites and checks `mib` MiB, registered."""
        workload = self.workload("memory_checker", str(mib))
        drain.register(self.a, workload.pid, name, *options)
        return workload

    def drain_to_b(self, *options):
        """The whole drain, and how it ended."""
        return drain.start_drain(self.a, "--to", self.b.agent.address, *options).wait()

    def assert_outcomes(self, run, code, **expected):
        """The exit code, and what became of each."""
        self.assertEqual(run.code, code, f"{run}\n{self.agent_logs()}")
        self.assertEqual(drain.outcomes(run.report), expected, str(run))

    def follow(self, workload, report, name, to):
        """Notes where a workload went by the report of a drain."""
        entry = next(each for each in report["workloads"] if each["name"] == name)
        workload.forget_original()
        workload.pid, workload.host = entry["pid_destination"], to

    def assert_where(self, host, **expected):
        """What the registrations of a host say."""
        self.assertEqual({name: entry["whereabouts"]
                          for name, entry in drain.registered(host).items()}, expected)


class DrainTest(DrainCase):
    """Away and back."""

    def test_everything_moves_and_comes_back(self):
        """A redis under load, and two more; the order is that of the priorities."""
        redis = Redis(self.a, 16)
        self.addCleanup(redis.kill)
        redis.fill(self.c)
        drain.register(self.a, redis.pid, "cache", "--addresses", "move", "--priority", "5")
        first, last = self.checker("first", "--priority=9"), self.checker("last", "--mode=pre")
        load = RedisLoad(self.c, rate=2000)
        away = self.drain_to_b()
        self.assert_outcomes(away, 0, cache="moved", first="moved", last="moved")
        self.assertEqual([each["name"] for each in away.report["workloads"]],
                         ["first", "cache", "last"])
        self.assert_where(self.a, cache="away", first="away", last="away")
        self.assert_where(self.b, cache="here", first="here", last="here")
        for name, workload in (("first", first), ("last", last)):
            self.follow(workload, away.report, name, self.b)
        known = drain.registered(self.b)["last"]
        self.assertEqual((known["home"], known["options"], known["pid"]),
                         ("a", ["--mode=pre"], last.pid))
        self.assertEqual(known["home_address"], self.a.agent.address)
        redis.process.wait(timeout=10)
        back = drain.start_drain(self.b, "--return", "--parallel", "2").wait()
        self.assert_outcomes(back, 0, cache="moved", first="moved", last="moved")
        report = load.stop()
        for name in ("failed_commands", "wrong_replies", "reconnects", "counter_errors"):
            self.assertEqual(report[name], 0, name)
        for name, workload in (("first", first), ("last", last)):
            self.follow(workload, back.report, name, self.a)
            self.assert_passes(workload)
        redis.pid, redis.process = drain.registered(self.a)["cache"]["pid"], None
        self.assertEqual(drain.registered(self.a)["cache"]["home"], "")
        redis.verify(self.c)
        redis.stop(self.c)
        self.assert_nothing_left(service_on="a")

    def test_a_single_one(self):
        """`migrate --workload` there, and back with --return."""
        one = self.checker("one")
        run = drain.start(self.a, "--workload", "one", "--to", self.b.agent.address).wait()
        self.assert_moved(run)
        one.follow(self.b, run)
        self.assert_where(self.a, one="away")
        run = drain.start(self.b, "--workload", "one", "--return").wait()
        self.assert_moved(run)
        one.follow(self.a, run)
        self.assert_where(self.a, one="here")
        self.assert_where(self.b, one="away")
        self.assert_passes(one)

    def test_no_more_at_once_than_allowed(self):
        """Two of four at a time, never three, and really two."""
        workloads = {name: self.checker(name, SLOW) for name in ("w1", "w2", "w3", "w4")}
        running = drain.start_drain(self.a, "--to", self.b.agent.address, "--parallel", "2")
        most = 0
        while running.process.poll() is None:
            moving = [pid for pid in programs.children_of(running.pid)
                      if programs.name_of(pid) == "migrate"]
            most = max(most, len(moving))
            time.sleep(0.02)
        done = running.wait()
        self.assert_outcomes(done, 0, w1="moved", w2="moved", w3="moved", w4="moved")
        self.assertEqual(most, 2)
        for name, workload in workloads.items():
            self.follow(workload, done.report, name, self.b)
            self.assert_passes(workload)
        self.assert_nothing_left()

    def test_nothing_to_move(self):
        """No workload is registered: that is fine."""
        self.assert_outcomes(self.drain_to_b(), 0)


class StayTest(DrainCase):
    """What can't be moved, fails or is stopped."""

    def immovable(self):
        """A process that is refused (a named pipe), registered."""
        pipe = self.folder / "pipe"
        os.mkfifo(pipe)
        with open(pipe, "r+b", buffering=0) as opened:
            follower = self.a.start(["sleep", "1000"], stdin=opened)
        self.addCleanup(lambda: (follower.kill(), follower.wait()))
        drain.register(self.a, follower.pid, "stuck", "--priority", "1")
        return follower

    def test_one_that_is_refused(self):
        """Found before anything moves; with --keep-going the others move."""
        follower, good = self.immovable(), self.checker("good")
        refused = self.drain_to_b()
        self.assert_outcomes(refused, 2, stuck="stayed", good="stayed")
        self.assertIn("fd-fifo", refused.said)
        self.assert_where(self.a, stuck="here", good="here")
        self.assert_where(self.b)
        self.assertTrue(good.is_running())
        partly = self.drain_to_b("--keep-going")
        self.assert_outcomes(partly, 1, stuck="stayed", good="moved")
        self.follow(good, partly.report, "good", self.b)
        self.assertIsNone(follower.poll())
        self.assert_passes(good)

    def test_one_that_has_died(self):
        """A registered workload that does not run is no reason to think that all have moved."""
        dead, good = self.checker("dead"), self.checker("good")
        dead.kill()
        refused = self.drain_to_b()
        self.assert_outcomes(refused, 2, dead="stayed", good="stayed")
        self.assertIn("workload-gone", refused.said)
        self.assert_where(self.a, dead="gone", good="here")
        again = self.workload("memory_checker", "8")
        drain.register(self.a, again.pid, "dead")
        moved = self.drain_to_b()
        self.assert_outcomes(moved, 0, dead="moved", good="moved")
        self.follow(again, moved.report, "dead", self.b)
        self.follow(good, moved.report, "good", self.b)

    def fail_in_the_middle(self, *options):
        """Three, of which the second dies while the first one moves."""
        workloads = {name: self.checker(name, SLOW, f"--priority={-at}")
                     for at, name in enumerate(("w1", "w2", "w3"))}
        running = drain.start_drain(self.a, "--to", self.b.agent.address, *options)
        self.assertTrue(running.wait_for_line("w1: moving"))
        workloads["w2"].kill()
        done = running.wait()
        for name, outcome in drain.outcomes(done.report).items():
            if outcome == "moved":
                self.follow(workloads[name], done.report, name, self.b)
        return done, workloads

    def test_one_that_dies_meanwhile(self):
        """The drain stops there and says so; what has moved stays moved."""
        done, workloads = self.fail_in_the_middle()
        self.assert_outcomes(done, 1, w1="moved", w2="stayed", w3="stayed")
        self.assertIn("workload-gone", done.said)
        self.assertEqual([each["begun"] for each in done.report["workloads"]], [True, True, False])
        self.assert_where(self.a, w1="away", w2="gone", w3="here")
        self.assert_passes(workloads["w1"])
        self.assert_passes(workloads["w3"])

    def test_keep_going(self):
        """Told otherwise it moves what comes after."""
        done, workloads = self.fail_in_the_middle("--keep-going")
        self.assert_outcomes(done, 1, w1="moved", w2="stayed", w3="moved")
        self.assert_passes(workloads["w1"])
        self.assert_passes(workloads["w3"])
        self.assert_nothing_left()

    def test_interrupted(self):
        """Ctrl-C: the one that moves is rolled back, the rest stays."""
        workloads = [self.checker("w1", "--max-bandwidth=1M", mib=16), self.checker("w2")]
        running = drain.start_drain(self.a, "--to", self.b.agent.address)
        self.assertTrue(running.wait_for_line("w1: moving"))
        time.sleep(1)
        done = running.cancel()
        self.assert_outcomes(done, 1, w1="stayed", w2="stayed")
        self.assertIn("cancelled", done.said)
        self.assert_where(self.a, w1="here", w2="here")
        self.assert_where(self.b)
        for workload in workloads:
            self.assert_passes(workload)
        self.assert_nothing_left()

    def test_killed(self):
        """With the drain gone nothing more is begun, and what moves is rolled back."""
        workloads = [self.checker("w1", "--max-bandwidth=1M", mib=16), self.checker("w2")]
        running = drain.start_drain(self.a, "--to", self.b.agent.address)
        self.assertTrue(running.wait_for_line("w1: moving"))
        time.sleep(1)
        running.process.send_signal(signal.SIGKILL)
        running.wait()
        wait_until("the migration to end", lambda: not list(self.a.state_dir.glob("*.json")))
        self.assert_where(self.a, w1="here", w2="here")
        for workload in workloads:
            self.assert_passes(workload)
        self.assert_nothing_left()

    def test_the_migration_is_killed(self):
        """Whatever befalls one migration is told of, and settled by `migrate recover`."""
        workload = self.checker("w1", "--max-bandwidth=1M", mib=16)
        running = drain.start_drain(self.a, "--to", self.b.agent.address)
        self.assertTrue(running.wait_for_line("w1: moving"))
        wait_until("its journal", lambda: list(self.a.state_dir.glob("*-source.json")))
        for pid in programs.children_of(running.pid):
            programs.send_signal(pid)
        done = running.wait()
        self.assert_outcomes(done, 3, w1="in doubt")
        self.assertEqual(self.a.recover().returncode, 0)
        self.assert_where(self.a, w1="here")
        self.assert_passes(workload)
        self.assert_nothing_left()

    def test_the_name_is_taken_there(self):
        """Another workload of the name is at the destination."""
        mine = self.checker("same")
        other = self.b.start(["sleep", "1000"])
        self.addCleanup(lambda: (other.kill(), other.wait()))
        drain.register(self.b, other.pid, "same")
        refused = self.drain_to_b()
        self.assert_outcomes(refused, 2, same="stayed")
        self.assertIn("workload-name-taken", refused.said)
        self.assert_passes(mine)

    def test_one_drain_at_a_time(self):
        """A second one is refused while the first goes on."""
        workload = self.checker("w1", SLOW)
        running = drain.start_drain(self.a, "--to", self.b.agent.address)
        self.assertTrue(running.wait_for_line("w1: moving"))
        second = self.drain_to_b()
        self.assertEqual(second.code, 2)
        self.assertIn("another drain", second.said)
        done = running.wait()
        self.assert_outcomes(done, 0, w1="moved")
        self.follow(workload, done.report, "w1", self.b)
        self.assert_passes(workload)


class RegisterTest(DrainCase):
    """Registrations."""

    def sleeper(self):
        """A process."""
        process = self.a.start(["sleep", "1000"])
        self.addCleanup(lambda: (process.kill(), process.wait()))
        return process

    def test_they_are_listed(self):
        """With the options that they were given, by priority; until they are taken back."""
        one, two = self.sleeper(), self.sleeper()
        drain.register(self.a, one.pid, "one", "--addresses", "move", "--max-downtime", "20ms")
        drain.register(self.a, two.pid, "two", "--priority", "3", "--verify")
        listed = drain.registered(self.a)
        self.assertEqual(list(listed), ["two", "one"])
        self.assertEqual(listed["one"]["options"], ["--addresses=move", "--max-downtime=20ms"])
        self.assertEqual(listed["two"]["options"], ["--verify"])
        self.assertEqual(listed["one"]["pid"], one.pid)
        self.assertEqual(listed["one"]["program"], "sleep")
        drain.register(self.a, one.pid, "one")  # anew
        self.assertEqual(drain.registered(self.a)["one"]["options"], [])
        self.assertEqual(drain.run(self.a, "unregister", "--name", "one").returncode, 0)
        self.assertEqual(list(drain.registered(self.a)), ["two"])
        self.assertIn("two (sleep): here", drain.run(self.a, "registered").stdout)

    def refuse(self, expected, *words):
        """A command that is refused, with these words."""
        done = drain.run(self.a, *words)
        self.assertEqual(done.returncode, 2, done.stdout)
        self.assertIn(expected, done.stderr)

    def test_what_is_refused(self):
        """Names that can't be, processes that are not there, twice the same."""
        one, two = self.sleeper(), self.sleeper()
        drain.register(self.a, one.pid, "one")
        pid = str(two.pid)
        for name in ("../one", "", ".one", "a/b", "x" * 65, "a b"):
            self.refuse("letters, digits", "register", "--pid", pid, "--name", name)
        self.refuse("no such process", "register", "--pid", "4194303", "--name", "none")
        self.refuse("is registered as one", "register", "--pid", str(one.pid), "--name", "two")
        self.refuse("workload one is pid", "register", "--pid", pid, "--name", "one")
        self.refuse("no workload", "unregister", "--name", "nobody")
        self.refuse("--pid", "register", "--name", "two")
        self.assertEqual(list(drain.registered(self.a)), ["one"])

    def test_a_later_process_of_the_id_is_not_it(self):
        """By the start time, and by the boot."""
        one = self.sleeper()
        drain.register(self.a, one.pid, "one")
        file = self.a.registry / "one.workload"
        known = json.loads(file.read_text())
        for change in ({"start_time_ticks": known["start_time_ticks"] - 1},
                       {"boot_id": "00000000-0000-0000-0000-000000000000"}):
            file.write_text(json.dumps(known | change))
            self.assert_where(self.a, one="gone")
            refused = drain.start(self.a, "--workload", "one", "--to", self.b.agent.address).wait()
            self.assertEqual(refused.code, 2)
            self.assertEqual(refused.finding_ids(), ["workload-gone"])

    def test_a_registration_that_is_damaged(self):
        """It is named; the drain does not pretend that it were not there."""
        workload = self.checker("good")
        (self.a.registry / "bad.workload").write_text("{")
        refused = self.drain_to_b()
        self.assertEqual(refused.code, 2)
        self.assertIn("bad.workload", refused.said)
        (self.a.registry / "bad.workload").write_text("{}")
        done = self.drain_to_b("--keep-going")
        self.assert_outcomes(done, 1, good="moved")
        self.follow(workload, done.report, "good", self.b)
        self.assert_passes(workload)

    def test_foreign_options_do_nothing(self):
        """A registration can't hold any option but of how a process is moved."""
        one = self.sleeper()
        drain.register(self.a, one.pid, "one")
        file = self.a.registry / "one.workload"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"options": ["--json=/etc/x"]}))
        refused = drain.start(self.a, "--workload", "one", "--to", self.b.agent.address).wait()
        self.assertEqual(refused.code, 2)
        self.assertIn("--json=/etc/x", refused.said)


if __name__ == "__main__":
    unittest.main(verbosity=2)
