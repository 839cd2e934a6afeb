"""Certificates that expire meanwhile, hosts that lack something, users without the right.

Each is a clean refusal or, where something has begun, a clean end; the workload is untouched.
"""

import pathlib
import shutil
import subprocess
import tempfile
import time
import unittest

from harness import build_dir, program
from harness.bad_input import BadInputCase
from harness.strangers import Line


class Expiry(BadInputCase):
    """Certificates that expire meanwhile. They are judged when a connection is made."""

    def short_keys(self, host, role, seconds):
        """Keys that are good for some seconds from now, and the moment of their end."""
        out = self.folder / f"short-{host}-{role}"
        self.keys.issue_for_seconds(self.keys.folder, host, role, out, seconds)
        return out, time.monotonic() + seconds

    @staticmethod
    def await_end(moment):
        """Until the keys have expired."""
        time.sleep(max(0.0, moment - time.monotonic()) + 1.5)  # they are judged by whole seconds

    def test_source_between_check_and_migration(self):
        """check warns and passes; the migration is refused."""
        keys, end = self.short_keys("a", "source", 6)
        run = self.a.check(self.moved.pid, self.b, keys=keys)
        self.assertEqual(run.code, 0, str(run))
        self.assertIn("keys-expire-soon", run.finding_ids())
        self.await_end(end)
        self.assert_refused(self.a.migrate(self.moved.pid, self.b, keys=keys), "keys-expired")
        self.assert_untouched()

    def test_destination_between_check_and_migration(self):
        """The source says that it is the destination's."""
        self.b.stop_agent()
        keys, end = self.short_keys("b", "destination", 6)
        self.b.start_agent(keys=keys)
        run = self.a.check(self.moved.pid, self.b)
        self.assertEqual(run.code, 0, str(run))
        self.assertIn("keys-expire-soon", run.finding_ids())
        self.await_end(end)
        self.assert_refused(self.a.migrate(self.moved.pid, self.b), "certificate-refused",
                            'the peer\'s certificate ("b")', "expired")
        self.b.stop_agent()
        with self.assertRaisesRegex(RuntimeError, "expired"):
            self.b.start_agent(keys=keys)
        self.b.stop_agent()
        self.assert_passes(self.moved)

    def test_during_a_migration(self):
        """What has begun is finished."""
        keys, end = self.short_keys("a", "source", 10)
        moved = self.workload("memory_checker", "64", "1", "50")
        migration = self.a.start_migrate(moved.pid, self.b, "-v", "--max-bandwidth", "5M",
                                         keys=keys)
        self.assertIsNotNone(migration.wait_for_line("phase=PreCopy "), migration.lines)
        self.assertLess(time.monotonic(), end, "the machine was too slow for this test")
        run = migration.wait()
        self.assertGreater(time.monotonic(), end + 1)
        self.assert_moved(run)
        moved.follow(self.b, run)
        self.assert_passes(moved)

    def test_between_the_connections(self):
        """It expires after the control connection was made and before that for pages."""
        keys, end = self.short_keys("a", "source", 7)

        def damage(kind, way, at, data):
            if kind == b"P" and way == "out" and at == 0:
                self.await_end(end)
            return data
        line = Line(self.b, damage)
        self.addCleanup(line.close)
        time.sleep(max(0.0, end - 3 - time.monotonic()))
        run = self.a.migrate(self.moved.pid, line.address, keys=keys)
        line.close()
        self.assertEqual(run.code, 1, str(run))
        self.assertIn("expired", run.report["error"]["story"])
        self.assert_untouched()


class Lacking(BadInputCase):
    """Hosts and users that may not or can't do what is needed."""

    AGENTS = ()

    def start_without(self, *words):
        """An agent on b that is run by `words`."""
        self.b.start_agent(before=words)
        self.addCleanup(self.b.stop_agent)

    def refuse_both(self, workload, *words):
        """`migrate check` and `migrate` say the same; nothing was touched."""
        self.assert_refused(self.a.check(workload.pid, self.b), *words)
        self.assert_refused(self.a.migrate(workload.pid, self.b), *words)
        self.b.stop_agent()
        self.assert_nothing_left(running=self.workloads)

    def test_kernel_features(self):
        """The destination's kernel lacks something, as a seccomp filter has it."""
        server = self.workload("udp_server", "7200", "10.77.0.100")
        self.workloads = (self.moved, server)
        for feature, workload, expected in (
                ("userfaultfd", self.moved, ("userfaultfd(2)", "CONFIG_USERFAULTFD")),
                ("clone3", self.moved, ("clone3(2) with set_tid", "CONFIG_CHECKPOINT_RESTORE")),
                ("pidfd_getfd", self.moved, ("pidfd_getfd(2)", "Linux 5.6")),
                ("set-mm", self.moved, ("prctl(PR_SET_MM_MAP)", "CONFIG_CHECKPOINT_RESTORE")),
                ("time-namespace", self.moved, ("no-time-namespace", "CONFIG_TIME_NS")),
                ("tcp-repair", server, ("TCP_REPAIR", "CONFIG_CHECKPOINT_RESTORE")),
                ("nftables", server, ("nftables", "CONFIG_NF_TABLES_INET"))):
            with self.subTest(feature):
                self.b.start_agent(before=(str(build_dir() / "faults" / "without"), feature))
                try:
                    self.refuse_both(workload, *expected)
                finally:
                    self.b.stop_agent()
        self.assert_passes(server)
        self.assert_passes(self.moved)

    def test_several_at_once(self):
        """Everything that is lacking is told at once."""
        self.start_without(str(build_dir() / "faults" / "without"), "userfaultfd,set-mm")
        run = self.a.check(self.moved.pid, self.b)
        self.assert_refused(run, "userfaultfd(2)", "prctl(PR_SET_MM_MAP)")
        self.assertEqual(run.finding_ids().count("kernel-feature-missing"), 3)  # one is the error
        self.assert_passes(self.moved)

    def test_agent_without_capabilities(self):
        """dest-agent does not start with less than it needs."""
        for words, expected in ((("--bounding-set=-net_admin,-sys_ptrace",),
                                 "CAP_SYS_PTRACE, CAP_NET_ADMIN"),
                                (("--reuid=65534", "--regid=65534", "--clear-groups"),
                                 "does not run as root")):
            command = [*self.readable(("setpriv", *words), "dest-agent"), "--listen",
                       "127.0.0.1:0", "--keys", str(self.keys.path("b", "destination"))]
            done = subprocess.run(command, capture_output=True, text=True, timeout=20)
            self.assertEqual(done.returncode, 2, done.stderr)
            self.assertIn(expected, done.stderr)
            self.assertIn("run it as root", done.stderr)

    def test_another_user(self):
        """migrate is run by somebody who is not root, for his own process and for another's."""
        self.start_without()
        mine = subprocess.Popen(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups",
                                 "sleep", "100"])
        try:
            for pid in (mine.pid, self.moved.pid):
                for words in ((), ("check",)):
                    self.refused_for_user(pid, words, "agent-lacks-privilege",
                                          "does not run as root")
            self.assertIsNone(mine.poll())
        finally:
            mine.kill()
            mine.wait()
        self.assert_untouched()

    def test_root_without_capabilities(self):
        """Root in a container that was given little."""
        self.start_without()
        run = self.a.migrate(self.moved.pid, self.b,
                             before=("setpriv", "--bounding-set=-sys_ptrace,-net_raw"))
        self.assert_refused(run, "agent-lacks-privilege", "CAP_SYS_PTRACE, CAP_NET_RAW")
        self.assert_untouched()

    def refused_for_user(self, pid, words, *expected):
        """Exit code 2 with these words, as user 65534."""
        user = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
        done = self.network.run("a", *self.readable(user, "migrate"), *words, "--pid", str(pid),
                                "--to", self.b.agent.address, "--keys",
                                str(self.keys.path("a", "source")))
        self.assertEqual(done.returncode, 2, done.stderr)
        for word in expected:
            self.assertIn(word, done.stdout + done.stderr)

    def readable(self, before, name):
        """A command line with a copy of a program that every user may run."""
        folder = pathlib.Path(tempfile.mkdtemp(prefix="godwit-programs-"))
        self.addCleanup(shutil.rmtree, folder, ignore_errors=True)
        folder.chmod(0o755)
        return [*before, shutil.copy(program(name), folder / name)]


if __name__ == "__main__":
    unittest.main(verbosity=2)
