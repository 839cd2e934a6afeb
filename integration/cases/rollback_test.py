"""Any failure before the commit leaves the workload running at the source, and both hosts clean.

The first round is stretched with --max-bandwidth, so that a failure can be placed in the middle.
"""

import time
import unittest

from harness import Keys, MoveCase, programs
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

    def assert_rolled_back(self, run):
        """Exit code 1, the report says so, and the workload passes at the source."""
        self.assertEqual(run.code, 1, f"{run}\n{self.agent_logs()}")
        self.assertEqual(run.report["state"], "RolledBack", str(run))
        self.assertEqual(run.report["pid_destination"], 0, str(run))
        self.tell(f"{(run.report.get('error') or {}).get('story')}")
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
        name = programs.name_of(self.moved.pid)
        return [pid for pid in programs.all_pids() if programs.name_of(pid) == name
                and pid != self.moved.pid and self.is_ours(pid)]

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
            self.assertEqual(run.code, 1, str(run))
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
        self.assert_rolled_back(migration.wait(60))

    def test_destination_page_server(self):
        """The destination's page server."""
        migration = self.begin()
        servers = self.below(self.b.agent.pid, "page-server")
        self.assertTrue(servers, "the destination has no page server")
        for pid in servers:
            send_signal(pid)
        self.assert_rolled_back(migration.wait(60))

    def test_source_agent(self):
        """The source agent: the workload runs on, the destination cleans up by itself."""
        migration = self.begin()
        send_signal(migration.pid)
        migration.wait(60)
        time.sleep(0.5)
        self.assertTrue(self.moved.is_running())
        recovered = self.a.recover()
        self.assertEqual(recovered.returncode, 0, recovered.stderr)
        run = self.moved.move(self.b)
        self.assert_moved(run)
        self.assert_clean()

    def test_interrupted(self):
        """SIGINT to the source agent rolls back in order."""
        migration = self.begin()
        send_signal(migration.pid, 2)
        self.assert_rolled_back(migration.wait(60))


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
        self.tell(f"{(run.report.get('error') or {}).get('story')}")
        self.assert_passes(moved)
        self.assert_clean()


if __name__ == "__main__":
    unittest.main(verbosity=2)
