"""A redis server to be moved, filled with random values, and the load that watches it."""

import json
import pathlib
import signal
import subprocess
import tempfile

from . import programs
from .host import Host
from .network import SERVICE, SERVICES
from .programs import program, touch_and_release, wait_until


class Redis:
    """A redis-server on a host: no persistence, values that can be told from each other."""

    def __init__(self, host: Host, mib: int, port: int = 6379, value_bytes: int = 1000,
                 addresses: tuple[str, str] = SERVICES):
        self.host = host
        self.addresses = addresses
        self.mib = mib
        self.port = port
        self.value_bytes = value_bytes
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="redis-", dir=host.folder))
        self.log = self.folder / "redis.log"
        touch_and_release(2 * mib + 64)
        self.process = host.start(
            ["redis-server", "--bind", *addresses, "--port", port, "--dir", self.folder,
             "--save", "", "--appendonly", "no", "--daemonize", "no", "--logfile", self.log,
             "--protected-mode", "no", "--enable-debug-command", "yes"], cwd=self.folder)
        self.pid = self.process.pid
        wait_until("redis to accept connections", self._is_ready)

    def _is_ready(self) -> bool:
        if self.process.poll() is not None:
            raise RuntimeError(f"redis-server ended: {self.log.read_text()[-1000:]}")
        return self.log.exists() and "Ready to accept" in self.log.read_text()

    def fill(self, clients: Host) -> dict:
        """Fills it with random values from the clients' part."""
        return self._filler(clients)

    def settle(self, clients: Host) -> None:
        """Lets redis finish growing its table of keys, which it does for a minute after filling:
        meanwhile every command writes somewhere else in the table. Each read does a bit of it."""
        def has_one_table():
            told = clients.network.run(clients.part, "redis-cli", "-h", self.addresses[0], "-p",
                                       str(self.port), "debug", "htstats", "0", check=True).stdout
            if "table 0" not in told:
                raise RuntimeError(f"redis does not tell about its table: {told.strip()}")
            return "table 1" not in told
        wait_until("redis to have one table of keys",
                   lambda: has_one_table() or not self.verify(clients), 120)

    def verify(self, clients: Host) -> dict:
        """Reads every value back and compares."""
        return self._filler(clients, "--verify")

    def _filler(self, clients: Host, *extra: str) -> dict:
        done = clients.network.run(
            clients.part, program("client_redis_fill"), "--host", self.addresses[0], "--port",
            str(self.port), "--mib", str(self.mib), "--value-bytes", str(self.value_bytes), *extra)
        if done.returncode != 0:
            raise AssertionError(f"client_redis_fill {extra}: {done.stderr.strip()} {done.stdout}")
        return json.loads(done.stdout)

    def follow(self, to: Host, run) -> None:
        """Notes that it lives on another host now."""
        if self.process is not None:
            self.process.wait(timeout=10)
            self.process = None
        self.pid = run.report["pid_destination"]
        self.host = to

    def kill(self) -> None:
        """Ends it without asking, wherever it is."""
        if programs.name_of(self.pid) == "redis-server":
            programs.send_signal(self.pid)
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def stop(self, clients: Host) -> None:
        """SHUTDOWN NOSAVE, then waits for its end."""
        clients.network.run(clients.part, "redis-cli", "-h", self.addresses[0], "-p", str(self.port),
                            "shutdown", "nosave")
        if self.process is not None:
            self.process.wait(timeout=20)
            self.process = None
        wait_until("redis to end", lambda: not pathlib.Path(f"/proc/{self.pid}").exists(), 20)


class RedisLoad:
    """client_redis_load in the clients' part: verifies every reply and times every gap.

    `only`: "paced" (the clients that share the rate) or "continuous" (the one that makes no pauses);
    both when it is empty. Two loads with the same number of clients never use the same keys.
    `samples`: a file for a line about every reply.
    """

    def __init__(self, clients: Host, port: int = 6379, clients_count: int = 50, rate: int = 10000,
                 write_share: float = 0.25, seconds: int = 600, value_bytes: int = 64,
                 host: str = SERVICE, only: str = "", samples: pathlib.Path | None = None):
        self.file = pathlib.Path(tempfile.mkdtemp(prefix="load-", dir=clients.folder)) / "load.json"
        self.log = self.file.with_suffix(".log")
        self.process = clients.start(
            [program("client_redis_load"), "--host", host, "--port", port, "--clients",
             clients_count, "--rate", rate, "--write-share", write_share, "--seconds", seconds,
             "--json", self.file, "--value-bytes", value_bytes,
             *(["--only", only] if only else []),
             *(["--samples", samples] if samples else [])], log=self.log)
        wait_until("the load to run", self._is_ready)

    def _is_ready(self) -> bool:
        if self.process.poll() is not None:
            raise RuntimeError(f"client_redis_load ended: {self.log.read_text()[-1000:]}")
        return "running" in self.log.read_text()

    def stop(self) -> dict:
        """Ends the load and gives its report."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired as error:
            self.process.kill()
            self.process.wait()
            raise AssertionError("the load did not end: a reply never came") from error
        if not self.file.exists():
            raise AssertionError(f"client_redis_load: {self.log.read_text()[-2000:]}")
        return json.loads(self.file.read_text())


def largest_ms(report: dict, start_ns: int, end_ns: int, key: str = "gap_max_ns") -> float:
    """The largest gap (or latency_max_ns) of any bucket that touches [start_ns, end_ns]."""
    line = report["timeline"]
    width = line["bucket_ms"] * 1_000_000
    first = max(0, (start_ns - line["start_unix_ns"]) // width)
    last = (end_ns - line["start_unix_ns"]) // width
    return max(line[key][first:last + 1], default=0) / 1e6


def operations_per_s(report: dict, start_ns: int, end_ns: int) -> float:
    """Mean rate of all clients between two instants of CLOCK_REALTIME."""
    line = report["timeline"]
    width = line["bucket_ms"] * 1_000_000
    first = max(0, (start_ns - line["start_unix_ns"]) // width)
    last = max(first + 1, (end_ns - line["start_unix_ns"]) // width)
    counts = line["ops"][first:last]
    return sum(counts) / (len(counts) * width / 1e9) if counts else 0.0


def percentile_ms(report: dict, start_ns: int, end_ns: int, share: float) -> float:
    """A percentile of the latency between two instants; as coarse as the histogram's bins."""
    return percentile_of_all_ms([report], start_ns, end_ns, share)


def percentile_of_all_ms(reports: list[dict], start_ns: int, end_ns: int, share: float) -> float:
    """The same over the clients of several loads."""
    bins: dict[int, int] = {}
    for line in (report["timeline"] for report in reports):
        width = line["bucket_ms"] * 1_000_000
        first = max(0, (start_ns - line["start_unix_ns"]) // width)
        last = (end_ns - line["start_unix_ns"]) // width
        for bucket in line["latency_bins"][first:last + 1]:
            for index, count in bucket:
                bins[index] = bins.get(index, 0) + count
    left = share * sum(bins.values())
    for index in sorted(bins):
        left -= bins[index]
        if left <= 0:
            return 2 ** ((index + 1) / reports[0]["timeline"]["bins_per_octave"]) / 1e6
    return 0.0
