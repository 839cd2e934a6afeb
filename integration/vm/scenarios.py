"""What is moved between machines, and what must hold of it. A scenario is a function that gets a pair
of machines, moves something and returns an Outcome; what is wrong is an AssertionError.
"""

import itertools
import time
from dataclasses import dataclass, field

from harness.host import Host, Run
from harness.network import SERVICE
from harness.programs import program, wait_until
from harness.redis import RedisLoad, largest_ms

from .pair import Pair, VmHost

FOLDER = "/run/w"


@dataclass
class Outcome:
    """What a scenario tells in the table."""

    runs: list[Run] = field(default_factory=list)
    notes: str = ""

    @property
    def blackout_ms(self) -> float | None:
        """The longest one."""
        return max((run.report.get("blackout_ms", 0) for run in self.runs), default=None)

    @property
    def pages(self) -> int | None:
        """All pages that travelled."""
        return sum(run.report.get("pages_sent", 0) for run in self.runs) if self.runs else None

    @property
    def tracker(self) -> str:
        """How written pages were found, in the order of the moves."""
        return ", ".join(dict.fromkeys(run.report.get("tracker", "") for run in self.runs))


def move(pair: Pair, pid: int, source: VmHost, *extra: str) -> Run:
    """Moves a process to the other machine. Throws AssertionError when that did not work."""
    run = source.migrate(pid, pair.other(source), *extra)
    if run.code != 0 or run.report.get("state") != "Completed":
        raise AssertionError(f"not moved: {run}\n{pair.story()}")
    if run.report.get("verify_differences"):
        raise AssertionError(f"--verify found differences: {run.report['verify_differences']}")
    return run


class Program:
    """A self-checking program (integration/workloads) that is moved from machine to machine."""

    _numbers = itertools.count(1)

    def __init__(self, pair: Pair, name: str, *arguments: str, before: tuple = (),
                 host: VmHost | None = None):
        self.pair = pair
        self.name = name
        self.host = host or pair.a
        self._files = f"{FOLDER}/{name}-{next(self._numbers)}"
        self.status = f"{self._files}.status"
        command = ["/usr/bin/python3", f"/godwit/workloads/{name}"] if name.endswith(".py") else [
            f"/godwit/workloads/workload_{name}"]
        self.pid = self.host.machine.start(*before, *command, self.status, f"{self._files}.stop", *arguments,
                                        log="/dev/null")
        wait_until(lambda: f"{name} to be ready: {self._said()}",
                   lambda: "READY" in self._said(), 90, 0.2)

    def _said(self) -> str:
        return self.host.machine.read(self.status) or ""

    def move(self, *extra: str) -> Run:
        """Moves it to the other machine."""
        run = move(self.pair, self.pid, self.host, *extra)
        self.host = self.pair.other(self.host)
        self.pid = run.report["pid_destination"]
        return run

    def expect_well(self, seconds: float = 1) -> None:
        """It runs, and goes on running for a while."""
        time.sleep(seconds)
        if not self.host.machine.is_alive(self.pid) or "FAIL" in self._said():
            raise AssertionError(f"{self.name} on {self.host.part}: {self._said()!r}\n"
                                 f"{self.pair.story()}")

    def finish(self) -> str:
        """Asks it to end and looks at its verdict. What it said on this machine."""
        self.host.machine.write(f"{self._files}.stop", b"")
        wait_until(lambda: f"the verdict of {self.name}: {self._said()!r}",
                   lambda: "PASS" in self._said() or "FAIL" in self._said() or
                   not self.host.machine.is_alive(self.pid), 60, 0.2)
        if "PASS" not in self._said() or "FAIL" in self._said():
            raise AssertionError(f"{self.name} on {self.host.part}: {self._said()!r}")
        return self._said()


def _move_program(pair: Pair, name: str, *arguments: str, options: tuple = (), moves: int = 2,
                  verify: bool = True) -> Outcome:
    """There and back, verified; the program checks itself all the time."""
    program = Program(pair, name, *arguments)
    outcome = Outcome()
    for _ in range(moves):
        outcome.runs.append(program.move(*(["--verify"] if verify else []), *options))
        program.expect_well()
    program.finish()
    return outcome


def memory(pair: Pair) -> Outcome:
    """Pages that are rewritten, patched and given back all the time, each one checked."""
    return _move_program(pair, "memory_checker", "16", "2", "300", options=("--max-downtime", "200ms"))


def post_copy(pair: Pair) -> Outcome:
    """The same, with pages that follow when the program runs already."""
    return _move_program(pair, "memory_checker", "16", "2", "300", options=("--mode", "post"),
                         verify=False)


def layout(pair: Pair) -> Outcome:
    """Areas that come, go, grow and move."""
    return _move_program(pair, "changing_layout", options=("--max-downtime", "500ms"))


def shared(pair: Pair) -> Outcome:
    """Shared memory; without a file, since the machines share no storage."""
    return _move_program(pair, "shared_memory", "no-file", options=("--max-downtime", "500ms"))


def threads(pair: Pair) -> Outcome:
    """A program of C++ with threads that come, go, wait and hold locks."""
    return _move_program(pair, "threads", options=("--max-downtime", "200ms"))


def blocking_calls(pair: Pair) -> Outcome:
    """Threads in every sort of call that waits: it goes on with the time that was left."""
    return _move_program(pair, "blocking_calls", options=("--max-downtime", "500ms"))


def python(pair: Pair) -> Outcome:
    """An interpreter at work."""
    return _move_program(pair, "compute_check.py", options=("--max-downtime", "500ms"))


def vector_state(pair: Pair) -> Outcome:
    """Registers beyond the general ones, in signal frames too."""
    return _move_program(pair, "vector_state", options=("--max-downtime", "500ms"))


class VmRedis:
    """A redis in a machine, with random values; clients reach it from this machine."""

    def __init__(self, pair: Pair, mib: int, before: tuple = ()):
        self.pair = pair
        self.host = pair.a
        self.mib = mib
        self.clients = Host(pair.network, "c", None, pair.folder)
        self.pid = pair.a.machine.start(
            *before, "redis-server", "--bind", SERVICE, "--port", "6379", "--dir", FOLDER, "--save", "",
            "--appendonly", "no", "--daemonize", "no", "--logfile", "", "--protected-mode", "no",
            log="/dev/null")
        wait_until("redis to accept connections",
                   lambda: self._cli("ping").strip() == "PONG", 60, 0.2)

    def _cli(self, *words: str) -> str:
        return self.pair.network.run("c", "redis-cli", "-h", SERVICE, *words).stdout

    def fill(self, *extra: str) -> None:
        """Fills it with random values, or compares them (--verify)."""
        done = self.pair.network.run(
            "c", program("client_redis_fill"), "--host", SERVICE, "--port", "6379", "--mib",
            str(self.mib), "--value-bytes", "1000", *extra)
        if done.returncode != 0:
            raise AssertionError(f"client_redis_fill {extra}: {done.stderr} {done.stdout}")

    def move(self, *extra: str) -> Run:
        """Moves it, with its address, to the other machine."""
        run = move(self.pair, self.pid, self.host, "--addresses", "move", *extra)
        self.host = self.pair.other(self.host)
        self.pid = run.report["pid_destination"]
        return run


def redis(pair: Pair, mib: int = 16, moves: int = 2) -> Outcome:
    """A redis with clients that write, read back and count; nobody notices."""
    server = VmRedis(pair, mib)
    server.fill()
    load = RedisLoad(server.clients, clients_count=8, rate=200, seconds=300)
    outcome = Outcome()
    try:
        time.sleep(2)
        for _ in range(moves):
            outcome.runs.append(server.move("--max-downtime", "300ms"))
            time.sleep(1)
    finally:
        report = load.stop()
    for name in ("failed_commands", "wrong_replies", "reconnects", "counter_errors"):
        if report[name] != 0:
            raise AssertionError(f"{name} {report[name]}\n{pair.story()}")
    server.fill("--verify")
    gaps = [largest_ms(report, run.started_ns, run.ended_ns) for run in outcome.runs]
    outcome.notes = f"client gap {max(gaps):.0f} ms, {report['ops']} operations"
    return outcome


def stop_and_copy(pair: Pair, mib: int = 256) -> Outcome:
    """What tracking is for: the blackout of pre-copy is at most a twentieth of stop-and-copy's."""
    server = VmRedis(pair, mib)
    server.fill()
    load = RedisLoad(server.clients, clients_count=4, rate=20)
    try:
        stopped = server.move("--mode", "pre", "--max-rounds", "0")
        moved = server.move("--mode", "pre", "--max-downtime", "300ms")
    finally:
        load.stop()
    before, after = (run.report["blackout_ms"] for run in (stopped, moved))
    if after * 20 > before:
        raise AssertionError(f"blackout {after:.0f} ms with rounds, {before:.0f} ms without")
    return Outcome([moved], f"stop-and-copy {before:.0f} ms, {before / after:.0f} times as long")


SCENARIOS = {function.__name__.replace("_", "-"): function for function in
             (memory, post_copy, layout, shared, threads, vector_state, blocking_calls, python, redis, stop_and_copy)}
MEMORY_MIB = {"stop-and-copy": 1280}
