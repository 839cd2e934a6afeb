"""The stage of every benchmark and of the demonstration: two hosts with agents and a place for
clients, as a context manager."""

import contextlib
import os
import pathlib
import tempfile
import time

from .host import Host, Keys
from .network import Network


class Stage:
    """Hosts `a` and `b` with agents, and `clients`; taken away at the end."""

    def __init__(self):
        self._stack = contextlib.ExitStack()

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            self.folder = pathlib.Path(stack.enter_context(
                tempfile.TemporaryDirectory(prefix="godwit-bench-", ignore_cleanup_errors=True)))
            self.folder.chmod(0o711)
            self.network = stack.enter_context(Network())
            self.keys = Keys(self.folder / "keys")
            self.hosts = [Host(self.network, part, self.keys, self.folder) for part in "ab"]
            self.clients = Host(self.network, "c", None, self.folder)
            for host in self.hosts:
                host.start_agent()
                stack.callback(host.stop_agent)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *failure):
        return self._stack.__exit__(*failure)

    def callback(self, step) -> None:
        """Runs `step` at the end, before the agents are stopped and the hosts taken away."""
        self._stack.callback(step)

    def other(self, host: Host) -> Host:
        """The host to move to from `host`."""
        return next(other for other in self.hosts if other is not host)


def stolen_ms() -> float:
    """What the hypervisor has given to others while this machine wanted to run, of all processors
    together (proc_stat(5): steal)."""
    with open("/proc/stat", encoding="ascii") as file:
        return int(file.readline().split()[8]) * 1000 / os.sysconf("SC_CLK_TCK")


def describe_machine() -> dict:
    """What the figures were taken on, and how much of its processors others took just before."""
    def ticks():
        with open("/proc/stat", encoding="ascii") as file:
            values = [int(word) for word in file.readline().split()[1:9]]
        return sum(values), values[3] + values[4]  # idle and waiting for a disk
    total, idle = ticks()
    time.sleep(0.4)
    total_after, idle_after = ticks()
    return {"processors": os.cpu_count(), "kernel": os.uname().release,
            "busy_before": round(1 - (idle_after - idle) / max(1, total_after - total), 3)}


def failure_of(run) -> str:
    """Why a run of `migrate` did not move the process."""
    report = run.report
    error = report.get("error") or {}
    stories = [error.get("story", "")] if error else []
    stories += [f"{finding['object']}: {finding['problem']} ({finding['id']})"
                for finding in report.get("findings") or [] if not finding.get("warning")]
    told = "; ".join(story for story in stories if story) or run.said.strip()[-500:]
    return f"migrate ended with {run.code} ({report.get('state', 'no report')}): {told}"
