"""One host of the test network: starts services and the destination agent, runs `migrate` from it."""

import json
import os
import pathlib
import signal
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass, field

from . import programs
from .network import MANAGEMENT, Network
from .programs import listens_on, program, wait_until

AGENT_PORT = 7070


@dataclass
class Run:
    """How one run of `migrate` ended."""

    code: int
    report: dict
    said: str  # standard output and error
    started_ns: int = 0  # CLOCK_REALTIME
    ended_ns: int = 0
    command: list[str] = field(default_factory=list)

    def finding_ids(self) -> list[str]:
        """Ids of everything that preflight found, and of the error."""
        ids = [finding["id"] for finding in self.report.get("findings") or []]
        error = self.report.get("error") or {}
        return ids + ([error["id"]] if error.get("id") else [])

    def switch_window_ns(self, margin_ms: int = 250) -> tuple[int, int]:
        """The blackout with a margin around it, CLOCK_REALTIME; all hosts here have one clock.

        The whole run when it does not tell when it froze.
        """
        frozen_ns = self.report.get("frozen_unix_ns")
        if not frozen_ns:
            return self.started_ns, self.ended_ns
        blackout_ns = int(self.report.get("blackout_ms", 0) * 1e6)
        return frozen_ns - margin_ms * 1_000_000, frozen_ns + blackout_ns + margin_ms * 1_000_000

    def __str__(self):
        return f"exit code {self.code}\n{self.said.strip()}\n{json.dumps(self.report)[:2000]}"


class Keys:
    """A certificate authority and the keys of both hosts in both roles, made by `migrate keys`."""

    def __init__(self, folder: pathlib.Path, names=("a", "b")):
        self.folder = pathlib.Path(folder)
        self.init(self.folder)
        for name in names:
            for role in ("source", "destination"):
                self.issue(self.folder, name, role, self.path(name, role))

    def path(self, name: str, role: str) -> pathlib.Path:
        """The folder with the keys of host `name` in `role`."""
        return self.folder / f"{name}-{role}"

    @staticmethod
    def init(folder: pathlib.Path) -> None:
        """Makes a new authority in `folder`."""
        pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
        subprocess.run([program("migrate"), "keys", "init", "--dir", str(folder)], check=True,
                       capture_output=True, text=True)

    @staticmethod
    def issue(folder: pathlib.Path, name: str, role: str, out: pathlib.Path) -> None:
        """Issues keys for a host; `out` becomes its folder."""
        subprocess.run([program("migrate"), "keys", "issue", "--dir", str(folder), "--name", name,
                        "--role", role, "--out", str(out)], check=True, capture_output=True,
                       text=True)

    @staticmethod
    def issue_for_seconds(folder: pathlib.Path, name: str, role: str, out: pathlib.Path,
                          seconds: int) -> None:
        """The same with openssl(1), for less than the day that `migrate keys` knows."""
        Keys.issue(folder, name, role, out)
        work = pathlib.Path(tempfile.mkdtemp(dir=folder))
        (work / "index").touch()
        (work / "serial").write_text("1000\n")
        (work / "config").write_text(_OPENSSL_CONFIG.format(work=work))
        start, end = (time.strftime("%Y%m%d%H%M%SZ", time.gmtime(time.time() + offset))
                      for offset in (-60, seconds))
        subprocess.run(["openssl", "req", "-new", "-key", out / "host.key", "-subj",
                        f"/OU=godwit-{role}/CN={name}", "-out", work / "request"], check=True,
                       capture_output=True, text=True)
        subprocess.run(["openssl", "ca", "-batch", "-notext", "-config", work / "config", "-in",
                        work / "request", "-cert", folder / "ca.crt", "-keyfile",
                        folder / "ca.key", "-startdate", start, "-enddate", end, "-out",
                        out / "host.crt"], check=True, capture_output=True, text=True)


_OPENSSL_CONFIG = """
[ca]
default_ca = test
[test]
database = {work}/index
serial = {work}/serial
new_certs_dir = {work}
default_md = sha256
unique_subject = no
policy = names
x509_extensions = host
[names]
organizationalUnitName = supplied
commonName = supplied
[host]
basicConstraints = critical,CA:FALSE
extendedKeyUsage = serverAuth,clientAuth
"""


class Agent:
    """A running dest-agent."""

    def __init__(self, process: subprocess.Popen, address: str, log: pathlib.Path):
        self.process = process
        self.address = address
        self.log = log

    @property
    def pid(self) -> int:
        """Process id of the daemon."""
        return self.process.pid

    def open_fds(self) -> int:
        """How many descriptors the daemon has open."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def log_tail(self, lines: int = 30) -> str:
        """The end of what it wrote."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def stop(self) -> None:
        """SIGTERM, and SIGKILL if that does not end it."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


class Migration:
    """A run of `migrate` that was started and not yet waited for; its lines are read as they come,
    unless they go to the terminal."""

    def __init__(self, process: subprocess.Popen, report_file: pathlib.Path, command: list[str]):
        self.process = process
        self.lines: list[str] = []
        self._report_file = report_file
        self._command = command
        self._started_ns = time.time_ns()
        self._ended_ns = 0
        self._new_line = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Process id of the source agent."""
        return self.process.pid

    def wait_for_line(self, *texts: str, timeout_s: float = 30) -> str | None:
        """The first line (also of the past) with any of `texts`; None when the run ends without."""
        deadline = time.monotonic() + timeout_s
        seen = 0
        with self._new_line:
            while True:
                for line in self.lines[seen:]:
                    if any(text in line for text in texts):
                        return line
                seen = len(self.lines)
                if not self._reader.is_alive() or time.monotonic() > deadline:
                    return None
                self._new_line.wait(0.1)

    def cancel(self, timeout_s: float = 20) -> Run:
        """SIGINT, as Ctrl-C sends it, and how it ended."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        return self.wait(timeout_s)

    def wait(self, timeout_s: float = 120) -> Run:
        """Waits for the end of the run."""
        try:
            self.process.wait(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            self.lines.append(f"(killed by the test after {timeout_s} s)")
        self._reader.join(timeout=5)
        if self.process.stdout:
            self.process.stdout.close()
        report = {}
        if self._report_file.exists() and self._report_file.stat().st_size:
            report = json.loads(self._report_file.read_text())
        return Run(self.process.returncode, report, "\n".join(self.lines), self._started_ns,
                   self._ended_ns or time.time_ns(), self._command)

    def _read(self) -> None:
        if self.process.stdout is None:
            self.process.wait()
        for line in self.process.stdout or ():
            with self._new_line:
                self.lines.append(line.rstrip("\n"))
                self._new_line.notify_all()
        self._ended_ns = time.time_ns()
        with self._new_line:
            self._new_line.notify_all()


class Host:
    """Host a or b (or the clients' part c) of a Network."""

    def __init__(self, network: Network, part: str, keys: Keys | None, folder: pathlib.Path):
        self.network = network
        self.part = part
        self.keys = keys
        self.folder = pathlib.Path(folder)
        self.state_dir = self.folder / f"state-{part}"
        self.state_dir.mkdir(exist_ok=True)
        self.registry = self.folder / f"registry-{part}"
        self.agent: Agent | None = None
        self.largest_agent_bytes = 0
        self.observed = 0

    @property
    def management(self) -> str:
        """The address that agents talk over."""
        return MANAGEMENT[self.part]

    def start(self, argv: list[str], log: pathlib.Path | None = None, **options) -> subprocess.Popen:
        """Starts a program of this host: own session, no terminal, output to `log`."""
        with open(log or os.devnull, "ab") as output:
            options.setdefault("stdin", subprocess.DEVNULL)
            options.setdefault("stdout", output)
            options.setdefault("stderr", output)
            return subprocess.Popen([*self.network.enter(self.part), *map(str, argv)],
                                    start_new_session=True, **options)

    def start_agent(self, keys: pathlib.Path | None = None, before: tuple = (),
                    port: int = AGENT_PORT) -> Agent:
        """Starts dest-agent and waits until it listens. `before`: words in front of the command."""
        handle, log = tempfile.mkstemp(prefix=f"agent-{self.part}-", suffix=".log", dir=self.folder)
        os.close(handle)
        keys = keys or self.keys.path(self.part, "destination")
        process = self.start([*before, program("dest-agent"), "--listen",
                              f"{self.management}:{port}", "--keys", keys, "--state-dir",
                              self.state_dir, "--registry", self.registry], log=log)
        self.agent = Agent(process, f"{self.management}:{port}", pathlib.Path(log))

        def listens():
            if process.poll() is not None:
                raise RuntimeError(f"dest-agent ended with {process.returncode}:\n"
                                   f"{self.agent.log_tail()}")
            return listens_on(process.pid, port)
        wait_until("dest-agent to listen", listens)
        return self.agent

    def stop_agent(self) -> None:
        """Ends the destination agent, if there is one."""
        if self.agent:
            self.agent.stop()
            self.agent = None

    def start_migrate(self, pid: int, to, *extra: str, keys: pathlib.Path | None = None,
                      before: tuple = (), terminal: bool = False) -> Migration:
        """Starts `migrate --pid ...` here. `to`: a Host with an agent, or ADDR:PORT. `terminal`: it
        writes where this program does."""
        return self._begin(["--pid", str(pid)], to, extra, keys, before, terminal)

    def migrate(self, pid: int, to, *extra: str, keys: pathlib.Path | None = None,
                timeout_s: float = 120, before: tuple = (), watch_memory: bool = False,
                observe=None) -> Run:
        """Runs `migrate` to its end. `watch_memory`: notes what the agents hold at most, and the
        largest number that `observe(pid of migrate)` gives meanwhile.
        """
        migration = self.start_migrate(pid, to, *extra, keys=keys, before=before)
        if not watch_memory:
            return migration.wait(timeout_s)
        watched = [migration.pid]
        if isinstance(to, Host) and to.agent:
            watched.append(to.agent.pid)
        self.largest_agent_bytes = self.observed = 0
        stop = threading.Event()
        watcher = threading.Thread(target=self._watch_memory, args=(watched, stop, observe))
        watcher.start()
        try:
            return migration.wait(timeout_s)
        finally:
            stop.set()
            watcher.join()

    def recover(self, *extra: str) -> subprocess.CompletedProcess:
        """Runs `migrate recover`: what a killed source agent left is put right, and pages that are
        lost here are told of."""
        return self.network.run(self.part, program("migrate"), "recover", "--state-dir",
                                str(self.state_dir), *extra)

    def check(self, pid: int, to, *extra: str, keys: pathlib.Path | None = None) -> Run:
        """Runs `migrate check`."""
        return self._begin(["check", "--pid", str(pid)], to, extra, keys, ()).wait()

    def _begin(self, words, to, extra, keys, before, terminal=False) -> Migration:
        address = to.agent.address if isinstance(to, Host) else to
        keys = keys or self.keys.path(self.part, "source")
        handle, report = tempfile.mkstemp(prefix="report-", suffix=".json", dir=self.folder)
        os.close(handle)
        command = [*before, program("migrate"), *words, "--to", address, "--keys", str(keys)]
        command += ["--json", report]
        if words[0] != "check":
            command += ["--state-dir", str(self.state_dir)]
        command += extra
        output = (dict(stdout=None, stderr=None) if terminal else
                  dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
        process = self.start(command, **output)
        return Migration(process, pathlib.Path(report), command)

    def _watch_memory(self, roots: list[int], stop: threading.Event, observe) -> None:
        """Samples what the agents and page servers of one migration hold resident together.

        It runs beside what is measured: rarely, and behind everything else that wants to run. To
        list connections takes milliseconds: more rarely then.
        """
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        os.setpriority(os.PRIO_PROCESS, 0, 10)  # 0: this thread
        pause_s = 0.05
        while not stop.wait(pause_s):
            pids = list(roots)
            for pid in pids:  # grows while it is walked
                # The tasks being restored hang below the agent as well: they are not it.
                pids += [child for child in programs.children_of(pid)
                         if programs.name_of(child) in ("page-server", "dest-agent", "migrate")]
            total = sum(programs.resident_bytes(pid) for pid in pids)
            self.largest_agent_bytes = max(self.largest_agent_bytes, total)
            if observe:
                self.observed = max(self.observed, observe(roots[0]))
                pause_s = min(0.4, pause_s * 1.5)
