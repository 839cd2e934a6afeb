"""Any failure before the commit leaves the workload running at the source, and both hosts clean.

The first round is stretched with --max-bandwidth, so that a failure can be placed in the middle.
"""

import time
import unittest

from harness import Client, Keys, MoveCase, programs
from harness.network import SERVICE
from harness.programs import send_signal, wait_until

SLOW = ("-v", "--max-bandwidth", "20M")


class RollbackCase(MoveCase):
    """A workload, a slow migration and what must hold after it has failed."""

    def setUp(self):
        super().setUp()
        self.moved = self.workload("memory_checker", "64", "2", "2000")

    def begin(self, phase="PreCopy"):
        """Starts a migration that takes some seconds and waits until it is in a phase."""
        migration = self.a.start_migrate(self.moved.pid, self.b, *SLOW)
        line = migration.wait_for_line(f"phase={phase} ")
        self.assertIsNotNone(line, f"never in {phase}: {migration.lines}")
        time.sleep(0.2)
        return migration

    def assert_rolled_back(self, run, story=""):
        """Exit code 1, the report says so and why, and the workload passes at the source."""
        self.assertEqual(run.code, 1, f"{run}\n{self.agent_logs()}")
        self.assertEqual(run.report["state"], "RolledBack", str(run))
        self.assertEqual(run.report["pid_destination"], 0, str(run))
        self.assertIn(story, run.report["error"]["story"])
        self.tell(run.report["error"]["story"])
        self.assert_clean()

    def assert_clean(self):
        """The workload runs, nothing is left, and it passes."""
        self.assertTrue(self.moved.is_running())
        self.assert_nothing_left(running=(self.moved,))
        self.assert_passes(self.moved)

    def below(self, root, name):
        """Processes called `name` below `root`."""
        return [pid for pid in programs.descendants(root) if programs.name_of(pid) == name]

    def restart_agent(self):
        """A new destination agent, which cleans up after the killed one."""
        self.b.stop_agent()
        self.b.start_agent()

    def restored_copies(self):
        """Processes of the workload's program other than the one that was started."""
        return [pid for pid in programs.all_pids() if pid != self.moved.pid and self.is_ours(pid)]

    def is_ours(self, pid):
        """True for a process that was given this test's status file."""
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as words:
                return str(self.moved.status).encode() in words.read()
        except OSError:
            return False


class Connections(RollbackCase):
    """The destination can't be talked to: refused before anything was touched."""

    def assert_not_begun(self, run, name):
        """Exit code 2 and this id; the workload passes at the source."""
        self.assertEqual(run.code, 2, f"{run}\n{self.agent_logs()}")
        self.assertIn(name, run.finding_ids())
        self.assert_clean()

    def test_connection_refused(self):
        """Nothing listens."""
        self.b.stop_agent()
        self.assert_not_begun(self.a.migrate(self.moved.pid, "10.77.0.2:7070"),
                              "destination-unreachable")

    def test_tls_refused(self):
        """The destination has keys of another authority."""
        self.b.stop_agent()
        strangers = Keys(self.folder / "strangers")
        self.b.start_agent(keys=strangers.path("b", "destination"))
        self.assert_not_begun(self.a.migrate(self.moved.pid, self.b), "certificate-refused")


class Kills(RollbackCase):
    """A program of the migration is killed in the middle."""

    def test_destination_in_precopy(self):
        """The daemon and its session."""
        migration = self.begin()
        for pid in [self.b.agent.pid, *self.below(self.b.agent.pid, "dest-agent")]:
            send_signal(pid)
        run = migration.wait(60)
        self.restart_agent()
        self.assert_rolled_back(run)

    def test_destination_session_in_precopy(self):
        """Only the session: the daemon goes on."""
        migration = self.begin()
        sessions = self.below(self.b.agent.pid, "dest-agent")
        self.assertTrue(sessions, "the daemon has no session")
        for pid in sessions:
            send_signal(pid)
        self.assert_rolled_back(migration.wait(60))

    def test_destination_at_phases(self):
        """At whatever instant the destination dies, one copy lives."""
        for phase in ("Preflight", "Building", "PreCopy", "Freezing", "Switching", "Prepared"):
            with self.subTest(phase):
                self.one_copy_after_death_in(phase)

    def one_copy_after_death_in(self, phase):
        """Kills the session when the phase is announced; follows the workload if it had moved."""
        moved = self.workload("memory_checker", "16", "2", "2000")
        self.moved = moved
        migration = self.a.start_migrate(moved.pid, self.b, "-v")
        migration.wait_for_line(f"phase={phase} ")
        for pid in self.below(self.b.agent.pid, "dest-agent"):
            send_signal(pid)
        run = migration.wait(60)
        self.tell(f"killed in {phase}: code {run.code}, {run.report.get('state')}")
        if run.code == 0:
            moved.follow(self.b, run)
        else:
            self.assertIn(run.code, (1, 2) if phase == "Preflight" else (1,), str(run))
        self.assertTrue(moved.is_running())
        copies = [pid for pid in self.restored_copies() if programs.is_alive(pid)]
        wait_until(lambda: f"the end of the other copies {copies}",
                   lambda: not [pid for pid in self.restored_copies() if programs.is_alive(pid)])
        self.assert_passes(moved)

    def test_source_page_server(self):
        """The source's page server."""
        migration = self.begin()
        for pid in self.below(migration.pid, "page-server"):
            send_signal(pid)
        self.assert_rolled_back(migration.wait(60), "page server of the source")

    def test_destination_page_server(self):
        """The destination's page server."""
        migration = self.begin()
        servers = self.below(self.b.agent.pid, "page-server")
        self.assertTrue(servers, "the destination has no page server")
        for pid in servers:
            send_signal(pid)
        self.assert_rolled_back(migration.wait(60), "page server of the destination")

    def test_source_agent(self):
        """The source agent: the workload runs on, the destination cleans up by itself."""
        migration = self.begin()
        send_signal(migration.pid)
        migration.wait(60)
        time.sleep(0.5)
        self.assertTrue(self.moved.is_running())
        recovered = self.a.recover()
        self.assertEqual(recovered.returncode, 0, str(recovered))
        run = self.moved.move(self.b)
        self.assert_moved(run)
        self.assert_clean()

    def test_interrupted(self):
        """SIGINT to the source agent rolls back in order."""
        migration = self.begin()
        send_signal(migration.pid, 2)
        self.assert_rolled_back(migration.wait(60))


class Instants(RollbackCase):
    """Around the commit: whatever dies or is cut off, exactly one copy goes on.

    The agents stop themselves at the instant (integration/faults/stop_at.cc).
    """

    def setUp(self):
        super().setUp()
        self.moved.kill()
        self.moved = self.workload("memory_checker", "8", "2", "500")

    def begin_stopping(self, side, instant, *extra):
        """Starts a migration whose agent on `side` stops at the instant; returns both."""
        preload = ("env", f"LD_PRELOAD={programs.build_dir() / 'faults' / 'stop_at.so'}",
                   f"STOP_AT={instant}")
        if side == "destination":
            self.b.stop_agent()
            self.b.start_agent(before=preload)
        migration = self.a.start_migrate(self.moved.pid, self.b, "-v", *extra,
                                         before=preload if side == "source" else ())

        def stopped():
            candidates = [migration.pid] if side == "source" else self.below(self.b.agent.pid,
                                                                              "dest-agent")
            return next((pid for pid in candidates if programs.process_state(pid) == "T"), None)
        return migration, wait_until(f"an agent stopped at {instant}", stopped)

    def living_copies(self):
        """The copies that can run: not those in a frozen group."""
        pids = [self.moved.pid] if self.moved.is_running() else []
        pids += [pid for pid in self.restored_copies() if programs.is_alive(pid)]
        return [pid for pid in pids if not programs.is_frozen(pid)]

    def assert_moved_on(self, run):
        """The restored copy alone lives, and passes."""
        self.assert_moved(run)
        self.moved.follow(self.b, run)
        self.assertEqual(self.living_copies(), [self.moved.pid])
        self.assert_passes(self.moved)
        self.assert_nothing_left()

    def test_file_that_is_moved_meanwhile(self):
        """A file is no more where it was described: that try fails, and the next one moves it."""
        migration, first = self.begin_stopping("destination", "building")
        self.moved.log.rename(self.moved.log.with_suffix(".away"))
        send_signal(first, 18)

        def stopped():
            return next((pid for pid in self.below(self.b.agent.pid, "dest-agent")
                         if pid != first and programs.process_state(pid) == "T"), None)
        send_signal(wait_until("another try", stopped), 18)
        run = migration.wait(60)
        self.assertTrue(any("begins again" in line for line in migration.lines), migration.lines)
        self.assert_moved_on(run)

    def test_session_dies_before_release(self):
        """Commit has come and nothing was done about it: the source has to ask, and runs on."""
        migration, session = self.begin_stopping("destination", "before-release")
        self.assertEqual(self.living_copies(), [])
        send_signal(session)
        self.assert_rolled_back(migration.wait(60))

    def test_session_dies_after_release(self):
        """It runs there and the source has not heard of it: it asks, and ends its copy."""
        migration, session = self.begin_stopping("destination", "after-release")
        self.assertEqual(len(self.living_copies()), 1)
        send_signal(session)
        self.assert_moved_on(migration.wait(60))

    def test_cut_after_commit(self):
        """The answer to Commit is lost with the network: in doubt, until it can be asked."""
        migration, session = self.begin_stopping("destination", "after-release")
        self.network.cut("b")
        send_signal(session, 18)
        self.assertIsNotNone(migration.wait_for_line("phase=InDoubt"), str(migration.lines))
        self.assertEqual(len(self.living_copies()), 1)
        self.network.heal("b")
        self.assert_moved_on(migration.wait(60))

    def test_silent_before_release(self):
        """A session that hangs with Commit unread must not get to it once the source asked."""
        migration, session = self.begin_stopping("destination", "before-release")
        self.assertIsNotNone(migration.wait_for_line("phase=InDoubt"), str(migration.lines))
        run = migration.wait(60)
        self.assertFalse(programs.is_alive(session))
        self.assert_rolled_back(run)

    def test_source_dies_before_commit(self):
        """The source is frozen, the destination waits: recovery brings it back."""
        migration, agent = self.begin_stopping("source", "after-freeze")
        send_signal(agent)
        migration.wait(60)
        self.assertEqual(self.living_copies(), [])
        recovered = self.a.recover()
        self.assertEqual(recovered.returncode, 0, str(recovered))
        self.assert_clean()

    def test_source_dies_after_commit(self):
        """Recovery asks and ends the copy here: the other one runs."""
        migration, agent = self.begin_stopping("source", "after-commit")
        send_signal(agent)
        migration.wait(60)
        here = self.moved.pid
        wait_until("the release", lambda: len(self.living_copies()) == 1)
        recovered = self.a.recover()
        self.assertEqual(recovered.returncode, 0, str(recovered))
        self.moved.forget_original()
        self.assertFalse(programs.is_alive(here))
        [self.moved.pid] = self.living_copies()
        self.assert_passes(self.moved)
        self.assert_nothing_left()

    def test_sockets_after_recovery(self):
        """The killed agent had closed the sockets off: they are given back, nothing is lost."""
        self.moved.kill()
        self.moved = self.workload("tcp_server", "7000", SERVICE)
        client = Client(self.c, "client_tcp_stream", SERVICE, 7000, "--connections", "3",
                        "--bytes-per-s", "1e6")
        time.sleep(0.3)
        migration, agent = self.begin_stopping("source", "before-commit", "--addresses", "move")
        send_signal(agent)
        migration.wait(60)
        recovered = self.a.recover()
        self.assertEqual(recovered.returncode, 0, str(recovered))
        time.sleep(1)
        found = client.stop()
        self.assertEqual(found["exit_code"], 0, str(found))
        self.assert_clean()

    def test_next_run_recovers(self):
        """The next `migrate` of a process does what `migrate recover` would."""
        migration, agent = self.begin_stopping("source", "after-freeze")
        send_signal(agent)
        migration.wait(60)
        self.assert_moved_on(self.a.migrate(self.moved.pid, self.b))


class Resources(RollbackCase):
    """The destination has no room."""

    def test_pid_taken(self):
        """Both hosts of this test share a pid namespace: the id is taken."""
        run = self.a.migrate(self.moved.pid, self.b, "--pids", "same")
        self.assertEqual(run.code, 2, str(run))
        self.assertIn("pid-taken", run.finding_ids())
        self.assert_clean()

    def test_out_of_memory(self):
        """The restored process may not map as much as the source's does."""
        moved = self.workload("mappings")
        self.b.stop_agent()
        self.b.start_agent(before=("prlimit", f"--as={4 << 30}"))
        run = self.a.migrate(moved.pid, self.b)
        self.assertEqual(run.code, 1, str(run))
        # The destination's own words, not that a connection broke.
        self.assertIn("Cannot allocate memory", run.report["error"]["story"])
        self.tell(run.report["error"]["story"])
        self.assert_passes(moved)
        self.assert_clean()


if __name__ == "__main__":
    unittest.main(verbosity=2)
