"""The base of a case: a network with keys, two hosts with agents and a part for clients."""

import os
import pathlib
import shutil
import tempfile
import unittest

from . import cleanup
from .host import Host, Keys
from .leftovers import Baseline, remove_groups
from .network import Network
from .redis import Redis
from .workload import Workload


class MoveCase(unittest.TestCase):
    """Each test gets its own hosts a and b (agents running) and c (clients).

    Nothing may be left behind at the end of a test, whatever happened in it.
    """

    AGENTS = ("a", "b")

    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="godwit-test-"))
        self.folder.chmod(0o711)  # programs that have given up root find their files below it
        remove = cleanup.register(lambda: shutil.rmtree(self.folder, ignore_errors=True))
        self.addCleanup(cleanup.run, remove)
        self.network = self.enterContext(Network())
        self.keys = Keys(self.folder / "keys")
        self.a, self.b = (Host(self.network, part, self.keys, self.folder) for part in "ab")
        self.c = Host(self.network, "c", None, self.folder)
        for host in (self.a, self.b):
            self.addCleanup(remove_groups, host.state_dir)
            if host.part in self.AGENTS:
                host.start_agent()
                self.addCleanup(host.stop_agent)
        self.baseline = Baseline(self.network, [self.a, self.b])

    def workload(self, name: str, *arguments: str, **options) -> Workload:
        """Starts a self-checking program on host a."""
        started = Workload(self.a, name, *arguments, **options)
        self.addCleanup(started.kill)
        return started

    def other(self, host: Host) -> Host:
        """b for a and a for b."""
        return self.b if host is self.a else self.a

    def assert_moved(self, run) -> None:
        """The run of `migrate` says that the process lives at the destination."""
        self.assertEqual(run.code, 0, f"{run}\n--- agents\n{self.agent_logs()}")
        self.assertEqual(run.report["state"], "Completed", str(run))
        self.assertEqual(run.report.get("verify_differences", []), [], "--verify found differences")

    def assert_passes(self, workload: Workload) -> None:
        """It still runs, ends when asked to and finds nothing wrong."""
        self.assertTrue(workload.is_running(), f"{workload.name} is dead: {workload.story()}\n"
                                               f"--- agents\n{self.agent_logs()}")
        self.assertEqual(workload.stop(), "PASS")

    def assert_nothing_left(self, running: tuple = (), service_on: str | None = None) -> None:
        """No task, rule, address, cgroup, journal or descriptor more than before."""
        pids = tuple(getattr(item, "pid", item) for item in running)
        self.assertEqual(self.baseline.problems(pids, service_on), [], self.agent_logs())

    def agent_logs(self) -> str:
        """The end of what both agents wrote, for a failure's message."""
        return "\n".join(f"[{host.part}] {host.agent.log_tail()}" for host in (self.a, self.b)
                         if host.agent)

    def tell(self, text: str) -> None:
        """Prints a figure, visible with ctest --verbose and in the log of a failure."""
        print(f"{self.id().split('.')[-1]}: {text}", flush=True)


def number_from_environment(name: str, otherwise: int) -> int:
    """A size or count that a longer run scales up, e.g. GODWIT_REDIS_MIB."""
    return int(os.environ.get(name, otherwise))
