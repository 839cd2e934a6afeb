"""What the harness talks to in a virtual machine: runs programs, reads and writes files.

One JSON object a line over a virtio port, requests and answers with equal ids, in any order.
"""

import base64
import json
import os
import pathlib
import signal
import subprocess
import threading
import time

PORT = "/dev/vport0p1"


class Agent:
    """Serves one port; every request that can take long has its own thread."""

    def __init__(self, port: int):
        self._port = port
        self._write_lock = threading.Lock()
        self._started: dict[int, subprocess.Popen] = {}

    def serve(self) -> None:
        """Answers until the machine ends."""
        self._send({"id": 0, "value": "ready"})
        text = b""
        while True:
            piece = os.read(self._port, 65536)
            if not piece:  # nobody has the other end open
                time.sleep(0.05)
                continue
            *lines, text = (text + piece).split(b"\n")
            for line in lines:
                threading.Thread(target=self._answer, args=(json.loads(line),), daemon=True).start()

    def _answer(self, request: dict) -> None:
        answer = {"id": request.pop("id")}
        try:
            answer["value"] = getattr(self, "do_" + request.pop("do"))(**request)
        except Exception as error:  # every one of them is the harness's to judge
            answer["error"] = f"{type(error).__name__}: {error}"
        self._send(answer)

    def _send(self, answer: dict) -> None:
        line = json.dumps(answer).encode() + b"\n"
        with self._write_lock:
            while line:
                line = line[os.write(self._port, line):]

    def do_run(self, argv: list[str], timeout_s: float, environment: dict) -> dict:
        """Runs a program to its end."""
        with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, start_new_session=True,
                              env=os.environ | environment) as process:
            try:
                said, _ = process.communicate(timeout=timeout_s)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                said, _ = process.communicate()
                said += f"\n(killed after {timeout_s} s)".encode()
            return {"code": process.returncode, "said": said.decode(errors="replace")}

    def do_start(self, argv: list[str], log: str, environment: dict) -> int:
        """Starts a program that goes on, its output in a file; its process id."""
        with open(log, "ab") as output:
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                                       start_new_session=True, cwd="/",
                                       env=os.environ | environment)
        self._started[process.pid] = process
        return process.pid

    def do_wait(self, pid: int, timeout_s: float):
        """The exit code of a started program, None when it still runs."""
        try:
            return self._started[pid].wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def do_alive(self, pid: int) -> bool:
        """True when the process is there and not a zombie."""
        try:
            stat = pathlib.Path(f"/proc/{pid}/stat").read_text(errors="replace")
        except OSError:
            return False
        return stat.rpartition(")")[2].split()[0] not in "ZX"

    def do_clock(self) -> int:
        """CLOCK_REALTIME."""
        return time.time_ns()

    def do_signal(self, pid: int, number: int) -> None:
        """Signals one process."""
        os.kill(pid, number)

    def do_read(self, path: str, bytes_max: int) -> str | None:
        """The end of a file, None when there is none."""
        try:
            with open(path, "rb") as file:
                content = file.read()
        except FileNotFoundError:
            return None
        return content[-bytes_max:].decode(errors="replace")

    def do_set_clock(self, realtime_ns: int) -> None:
        """The time of day; a machine's own is good for a second."""
        time.clock_settime_ns(time.CLOCK_REALTIME, realtime_ns)

    def do_write(self, path: str, content: str, mode: int) -> None:
        """Makes a file, and its folder."""
        file = pathlib.Path(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(base64.b64decode(content))
        file.chmod(mode)


def main() -> None:
    """Waits for the port, which the driver makes."""
    while not os.path.exists(PORT):
        time.sleep(0.05)
    Agent(os.open(PORT, os.O_RDWR)).serve()


main()
