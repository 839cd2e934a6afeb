"""A host boots into another kernel, and nobody notices: its workloads are drained to another machine,
it reboots, and they come back. Clients work all the time.
"""

import json
import pathlib
import subprocess
import sys
import time
from dataclasses import dataclass, field

from harness.host import Run
from harness.redis import RedisLoad, largest_ms

from .machine import Machine
from .pair import MIGRATE, Pair, VmHost
from .scenarios import Outcome, Program, VmRedis

REGISTRY = "/var/lib/godwit/workloads"
# What a client may wait at the switch on hosts that are not emulated.
GAP_MS_MAX = 50.0
# System calls, page faults and arithmetic, about as much of each; prints how long it took.
SLOWNESS = """
import mmap, os, time
began = time.perf_counter()
for _ in range(20000): os.getppid()
for _ in range(40):
    with mmap.mmap(-1, 1 << 20) as area:
        for at in range(0, 1 << 20, 4096): area[at] = 1
sum(each * each for each in range(60000))
print(time.perf_counter() - began)
"""


def slowness_of(machine: Machine) -> float:
    """How many times as long an emulated machine takes as this one does when nobody is in its way."""
    def seconds(said: str) -> float:
        return float(said.strip().splitlines()[-1])
    there = max(seconds(machine.run("/usr/bin/python3", "-c", SLOWNESS, timeout_s=60).said)
                for _ in range(2))
    here = min(seconds(subprocess.run([sys.executable, "-c", SLOWNESS], check=True, text=True,
                                      capture_output=True).stdout) for _ in range(3))
    return there / here


def register(host: VmHost, pid: int, name: str, *options: str) -> None:
    """`migrate register` in a machine."""
    done = host.machine.run(MIGRATE, "register", "--pid", str(pid), "--name", name, *options)
    if done.code != 0:
        raise AssertionError(f"{name} was not registered: {done}")


def registered(host: VmHost) -> dict[str, dict]:
    """What is registered in a machine, by name."""
    done = host.machine.run(MIGRATE, "registered", "--json")
    if done.code != 0:
        raise AssertionError(f"migrate registered: {done}")
    return {entry["name"]: entry for entry in json.loads(done.said)}


@dataclass
class Drained:
    """One drain: when, and what became of each workload. Times are this machine's CLOCK_REALTIME."""

    started_ns: int
    ended_ns: int
    said: str
    runs: dict[str, Run] = field(default_factory=dict)

    def pid(self, name: str) -> int:
        """Where a workload is now."""
        return self.runs[name].report["pid_destination"]


def drain(pair: Pair, host: VmHost, *words: str) -> Drained:
    """`migrate drain` in a machine, of which all move. Throws AssertionError when one does not."""
    ahead_ns = host.machine.clock_ahead_ns()
    command = [MIGRATE, "drain", *words, "--keys", "/run/keys/source", "--json", "/run/drain.json"]
    started_ns = time.time_ns()
    done = host.machine.run(*command, timeout_s=150)
    ended_ns = time.time_ns()
    report = json.loads(host.machine.read("/run/drain.json") or "{}")
    if done.code != 0 or any(each["outcome"] != "moved" for each in report["workloads"]):
        raise AssertionError(f"not drained: {done}\n{pair.story()}")
    drained = Drained(started_ns, ended_ns, done.said)
    for each in report["workloads"]:
        run = Run(0, each["report"], "", command=command)
        _to_this_clock(run.report, ahead_ns)
        run.started_ns, run.ended_ns = _when(run.report, drained)
        drained.runs[each["name"]] = run
    return drained


def _to_this_clock(report: dict, ahead_ns: int) -> None:
    for part in [report, *report["rounds"]]:
        for name in ("frozen_unix_ns", "began_unix_ns"):
            if part.get(name):
                part[name] -= ahead_ns


def _when(report: dict, drained: Drained) -> tuple[int, int]:
    """The migration of one of a drain: from some states before its first round."""
    before_ms = sum(report["phases_ms"].get(name, 0)
                    for name in ("Connecting", "Preflight", "Building"))
    began = [part["began_unix_ns"] for part in report["rounds"]] or [drained.started_ns]
    started_ns = min(began) - int(before_ms * 1e6)
    return started_ns, started_ns + int(report["total_ms"] * 1e6)


class Upgrade:
    """Machine a with a redis and a python program, both registered; b waits; clients are outside."""

    def __init__(self, pair: Pair, mib: int, samples: pathlib.Path | None = None,
                 clients_count: int = 8, rate: int = 200):
        self.pair = pair
        self.slowness = slowness_of(pair.a.machine)
        self.redis = VmRedis(pair, mib)
        self.redis.fill()
        self.program = Program(pair, "compute_check.py")
        register(pair.a, self.redis.pid, "cache", "--addresses=move", "--max-downtime=100ms",
                 "--priority=1")
        register(pair.a, self.program.pid, "compute", "--max-downtime=500ms")
        self.load = RedisLoad(self.redis.clients, clients_count=clients_count, rate=rate,
                              seconds=600, samples=samples)
        self.away: Drained | None = None
        self.back: Drained | None = None
        self.booted_ns = (0, 0)

    def drain(self) -> Drained:
        """Everything moves to b."""
        self.away = drain(self.pair, self.pair.a, "--to", self.pair.b.address)
        self._follow(self.away, self.pair.b)
        return self.away

    def reboot(self, kernel: str) -> None:
        """Machine a comes up with another kernel. It has no disk: what is on one comes along."""
        kept = registered(self.pair.a)
        if {entry["whereabouts"] for entry in kept.values()} != {"away"}:
            raise AssertionError(f"the registrations on a: {kept}")
        files = {name: self.pair.a.machine.read(f"{REGISTRY}/{name}.workload") for name in kept}
        before_ns = time.time_ns()
        self.pair.reboot("a", kernel)
        self.booted_ns = (before_ns, time.time_ns())
        for name, text in files.items():
            self.pair.a.machine.write(f"{REGISTRY}/{name}.workload", text.encode(), 0o600)

    def drain_back(self) -> Drained:
        """Everything comes back."""
        self.back = drain(self.pair, self.pair.b, "--return")
        self._follow(self.back, self.pair.a)
        known = registered(self.pair.a)
        if {entry["whereabouts"] for entry in known.values()} != {"here"} or len(known) != 2:
            raise AssertionError(f"the registrations on a: {known}")
        return self.back

    def _follow(self, drained: Drained, to: VmHost) -> None:
        for item, name in ((self.redis, "cache"), (self.program, "compute")):
            item.host, item.pid = to, drained.pid(name)
        self.program.expect_well(0.5)

    def finish(self) -> dict:
        """Ends the clients and looks at everything; what they tell. Throws AssertionError."""
        report = self.load.stop()
        for name in ("failed_commands", "wrong_replies", "reconnects", "counter_errors"):
            if report[name] != 0:
                raise AssertionError(f"{name} {report[name]}\n{self.pair.story()}")
        self.redis.fill("--verify")
        self.program.finish()
        return report

    def gap_ms(self, report: dict) -> float:
        """The longest wait of a client, from the beginning of the drain to the end of the way back."""
        return largest_ms(report, self.away.started_ns, self.back.ended_ns)

    def switch_gap_ms(self, report: dict) -> float:
        """The longest at one of the two switches."""
        return max(largest_ms(report, *drained.runs["cache"].switch_window_ns())
                   for drained in (self.away, self.back))

    @property
    def gap_ms_max(self) -> float:
        """The bar for hosts, at this speed."""
        return GAP_MS_MAX * self.slowness


def kernel_upgrade(pair: Pair) -> Outcome:
    """The first machine's kernel becomes the second's: drained, rebooted, brought back."""
    upgrade = Upgrade(pair, 16)
    try:
        time.sleep(2)
        away = upgrade.drain()
        upgrade.reboot(pair.kernels["b"].name)
        back = upgrade.drain_back()
        time.sleep(1)
    except BaseException:
        upgrade.load.stop()
        raise
    report = upgrade.finish()
    # Others may have come to this machine meanwhile.
    upgrade.slowness = max(upgrade.slowness, slowness_of(pair.a.machine))
    gap_ms = upgrade.gap_ms(report)
    if gap_ms > upgrade.gap_ms_max:
        raise AssertionError(f"a client waited {gap_ms:.0f} ms, more than {upgrade.gap_ms_max:.0f}")
    boot_s = (upgrade.booted_ns[1] - upgrade.booted_ns[0]) / 1e9
    return Outcome([*away.runs.values(), *back.runs.values()],
                   f"client gap {gap_ms:.0f} ms of {upgrade.gap_ms_max:.0f} "
                   f"({upgrade.slowness:.0f} times as slow), {report['ops']} operations, "
                   f"reboot {boot_s:.0f} s")
