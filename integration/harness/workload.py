"""A self-checking program that is moved: started, moved between hosts, stopped and asked for its verdict."""

import pathlib
import sys
import tempfile

from . import programs
from .host import Host
from .moved import Moved
from .programs import ROOT, build_dir, program, wait_until

# Programs that are not compiled here, and what runs them. Python by its own path: a wrapper script
# may stand in front of the interpreter. A JVM that starts removes the counters in /tmp of others
# whose process ids it does not find, and one that was moved may live in a pid namespace.
INTERPRETERS = {
    ".py": [sys.executable],
    ".js": ["node"],
    ".java": ["java", "-Xmx256m", "-XX:+PerfDisableSharedMem"],
}


def workload_names() -> list[str]:
    """Every built self-checking program."""
    return sorted(path.name.removeprefix("workload_")
                  for path in (build_dir() / "workloads").glob("workload_*"))


class Workload(Moved):
    """One running self-checking program.

    Its protocol: argv[1] is a file to which it appends a line READY, and at the end PASS or FAIL
    with the reason; it ends when the file argv[2] appears.
    """

    def __init__(self, host: Host, name: str, *arguments: str, before: tuple = (),
                 ready_timeout_s: float = 60):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix=f"{name}-", dir=host.folder))
        self.folder.chmod(0o711)  # some give up root
        self.status = self.folder / "status"
        self._stop = self.folder / "stop"
        self.log = self.folder / "log"
        interpreter = INTERPRETERS.get(pathlib.Path(name).suffix)
        if interpreter:
            command = [*interpreter, str(ROOT / "integration" / "workloads" / name)]
        else:
            command = [program(f"workload_{name}")]
        super().__init__(host, name, host.start(
            [*before, *command, self.status, self._stop, *map(str, arguments)], log=self.log,
            cwd=self.folder))
        wait_until(lambda: f"{name} to be ready: {self.story()}", self._is_ready, ready_timeout_s)

    def _is_ready(self) -> bool:
        if "READY" in self.text():
            return True
        if self.process.poll() is not None:
            raise RuntimeError(f"{self.name} ended with {self.process.returncode}: {self.story()}")
        return False

    def text(self) -> str:
        """What it has reported so far."""
        return self.status.read_text(errors="replace") if self.status.exists() else ""

    def story(self) -> str:
        """What it reported and printed, for a failure's message."""
        printed = self.log.read_text(errors="replace") if self.log.exists() else ""
        return f"status {self.text().split()!r} log {printed[-1000:]!r}"

    def stop(self, timeout_s: float = 30) -> str:
        """Asks it to end and waits for its verdict: "PASS", or what went wrong."""
        self._stop.touch()
        try:
            wait_until("the verdict", lambda: self._verdict() or not self.is_running(), timeout_s)
            wait_until("its end", lambda: not self.is_running(), timeout_s)
        except TimeoutError as error:
            state = programs.process_state(self.pid)
            return f"{self.name}: {error}; process {self.pid} in state {state}; {self.story()}"
        finally:
            self.kill()
        verdict = self._verdict()
        if verdict == "PASS":
            return "PASS"
        return f"{self.name}: {verdict or 'died without a verdict'}; {self.story()}"

    def _verdict(self) -> str:
        lines = [line for line in self.text().splitlines() if line.startswith(("PASS", "FAIL"))]
        failed = [line for line in lines if line.startswith("FAIL")]
        return failed[0] if failed else (lines[0] if lines else "")
