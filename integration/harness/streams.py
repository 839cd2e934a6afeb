"""Clients of the network workloads, in the clients' part; each judges what it gets."""

import json
import pathlib
import signal
import subprocess
import tempfile

from .host import Host
from .programs import program, wait_until


class Client:
    """A client program that runs until it is stopped and then says what it found, as JSON."""

    def __init__(self, clients: Host, name: str, host: str, port: int, *extra):
        self.name = name
        self._file = pathlib.Path(tempfile.mkdtemp(prefix=f"{name}-", dir=clients.folder)) / "json"
        self._log = self._file.with_suffix(".log")
        self._process = clients.start([program(name), "--host", host, "--port", port, "--json",
                                       self._file, *extra], log=self._log)
        wait_until(f"{name} to run", self._is_ready)

    def _is_ready(self) -> bool:
        if self._process.poll() is not None:
            raise RuntimeError(f"{self.name} ended: {self._log.read_text()[-1000:]}")
        return "running" in self._log.read_text()

    def stop(self, timeout_s: float = 30) -> dict:
        """Ends the client; its figures. `exit_code` is 0 when nothing was lost, doubled or wrong."""
        self._process.send_signal(signal.SIGTERM)
        try:
            code = self._process.wait(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            return {"exit_code": -1, "story": f"{self.name} waits for an answer that never comes"}
        found = json.loads(self._file.read_text()) if self._file.exists() else {}
        return {"exit_code": code, "story": self._log.read_text()[-1000:], **found}
