"""From a machine to this one: programs are saved in the machine as images, which are fetched and
restored here, in the network namespace of the clients, under the kernel that all of this runs on.
"""

import os
import pathlib

from harness.host import Host, Run
from harness.images import restore
from harness.network import MANAGEMENT
from harness.programs import ROOT, is_alive, program, send_signal, wait_until

from .folders import receive_folder, send_folder
from .image import PYTHON
from .machine import CPU
from .pair import MIGRATE, Pair
from .scenarios import Outcome

# Every machine has as much; the most that QEMU emulates has sets of several makers. Without XSAVE:
# QEMU 7.2 lacks XSAVEC, so that a C library's room for registers would be too small here.
PROCESSOR = "Nehalem,cx16=off"
PROGRAMS = (("memory_checker", "16", "2", "300"), ("vector_state",), ("compute_check.py",))


class _Saved:
    """A program of a machine at the paths that it has here: those of an image are looked for."""

    def __init__(self, pair: Pair, name: str, arguments: tuple[str, ...]):
        self.pair = pair
        self.name = name
        self.folder = pair.folder / name
        self.folder.mkdir()
        self.status = self.folder / "status"
        self.pid = 0
        is_script = name.endswith(".py")
        file = pathlib.Path(ROOT / "integration/workloads" / name if is_script else
                            program(f"workload_{name}"))
        pair.a.machine.write(str(file), file.read_bytes(), 0o755)
        pair.a.machine.write(f"{self.folder}/made", b"")
        interpreter = [str(PYTHON.resolve())] if is_script else []
        self.pid = pair.a.machine.start(*interpreter, str(file), str(self.status),
                                        f"{self.folder}/stop", *arguments, log="/dev/null")
        wait_until(f"{name} to be ready",
                   lambda: "READY" in (pair.a.machine.read(str(self.status)) or ""), 90, 0.2)

    def save(self) -> Run:
        """Saved in the machine, and brought here."""
        image, report = f"{self.folder}/image", f"{self.folder}/report.json"
        done = self.pair.a.machine.run(MIGRATE, "checkpoint", "--pid", str(self.pid), "--to",
                                       f"file:{image}", "--json", report, timeout_s=120)
        run = self.pair.a.run_of(done, report)
        if run.code != 0:
            raise AssertionError(f"no image of {self.name}: {run}\n{self.pair.story()}")
        send_folder(self.pair.a.machine, MANAGEMENT["a"], str(self.folder), "image")
        receive_folder(MANAGEMENT["a"], str(self.folder),
                       lambda *words: self.pair.network.run("c", *words))
        return run

    def bring_back(self, host: Host) -> None:
        """Restored here, it goes on for a while and finds nothing wrong."""
        run = restore(host, self.folder / "image", "--pids", "namespace")
        if run.code != 0:
            raise AssertionError(f"{self.name} was not restored: {run}")
        pid = run.report["pid_destination"]
        try:
            (self.folder / "stop").touch()
            wait_until(f"the verdict of {self.name}", lambda: self._said() or not is_alive(pid), 60)
            if "PASS" not in self._said() or "FAIL" in self._said():
                raise AssertionError(f"{self.name} on this machine: {self._said()!r}")
            wait_until(f"the end of {self.name}", lambda: not is_alive(pid), 30)
        finally:
            if is_alive(pid):
                send_signal(pid)

    def _said(self) -> str:
        return self.status.read_text(errors="replace") if self.status.exists() else ""


def here(pair: Pair) -> Outcome:
    """Images of a machine live on here, each program checks itself."""
    host = Host(pair.network, "c", None, pair.folder)
    outcome = Outcome()
    for name, *arguments in PROGRAMS:
        saved = _Saved(pair, name, tuple(arguments))
        outcome.runs.append(saved.save())
        saved.bring_back(host)
    outcome.notes = f"restored by kernel {os.uname().release}"
    return outcome


SCENARIOS = {"here": here}
CPUS = {"here": (PROCESSOR, CPU)}
KERNELS = {"here": [("6.1", "6.1"), ("6.12", "6.12")]}
