"""A process that is moved between hosts: which one it is, where it lives, what becomes of what it leaves."""

import pathlib
import subprocess
import tempfile

from . import programs
from .host import Host, Run
from .network import thaw
from .programs import wait_until


class Moved:
    """One process, followed from host to host."""

    def __init__(self, host: Host, name: str, process: subprocess.Popen):
        self.name = name
        self.host = host
        self.process: subprocess.Popen | None = process
        self.pid = process.pid
        self.moves = 0

    def move(self, to: Host, *extra: str, **options) -> Run:
        """Moves it to another host; follows it there when that worked."""
        run = self.host.migrate(self.pid, to, *extra, **options)
        if run.code == 0:
            self.follow(to, run)
        return run

    def follow(self, to: Host, run: Run) -> None:
        """Notes that it lives on another host now; the process left behind must be gone."""
        self.forget_original()
        left = self.pid
        wait_until(f"{self.name}: the end of process {left} on host {self.host.part}",
                   lambda: not programs.is_alive(left))
        self.pid = run.report["pid_destination"]
        self.host = to
        self.moves += 1

    def forget_original(self) -> None:
        """Reaps the process that was started here, if it has been moved away from."""
        if self.process is not None:
            try:
                self.process.wait(timeout=10)
            except subprocess.TimeoutExpired as error:
                raise AssertionError(f"{self.name}: process {self.process.pid} still runs on "
                                     f"{self.host.part} after the move") from error
            self.process = None

    def is_running(self) -> bool:
        """True when the process lives where it is thought to live."""
        return programs.is_alive(self.pid)

    def kill(self) -> None:
        """Ends it without asking."""
        if programs.is_alive(self.pid):
            thaw(self.pid)
            programs.send_signal(self.pid)
        if self.process is not None:
            self.process.wait()
            self.process = None


class Service(Moved):
    """A server of somebody else's that listens on a TCP port; it works in `folder`."""

    def __init__(self, host: Host, argv: list[str], port: int, folder: pathlib.Path | None = None):
        name = pathlib.Path(argv[0]).name
        self.folder = folder or pathlib.Path(tempfile.mkdtemp(prefix=f"{name}-", dir=host.folder))
        self.log = self.folder / "log"
        super().__init__(host, name, host.start(argv, log=self.log, cwd=self.folder))
        wait_until(lambda: f"{name} to listen: {self.story()}", lambda: self._listens(port))

    def _listens(self, port: int) -> bool:
        if self.process.poll() is not None:
            raise RuntimeError(f"{self.name} ended with {self.process.returncode}: {self.story()}")
        return programs.listens_on(self.pid, port)

    def story(self) -> str:
        """The end of what it printed, for a failure's message."""
        return self.log.read_text(errors="replace")[-1000:] if self.log.exists() else ""
