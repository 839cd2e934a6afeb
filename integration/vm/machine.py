"""One virtual machine: started, talked to, ended. It is emulated (qemu -accel tcg), so that it needs
nothing of the processor that it runs on.

The harness talks to guest/agent.py through a virtio port; the serial console goes to a file and to a
socket, where a person can take it.
"""

import base64
import itertools
import json
import pathlib
import signal
import socket
import subprocess
import threading
import time
from dataclasses import dataclass, field

from harness import cleanup
from harness.programs import wait_until

from .image import get_image
from .kernels import Kernel

CONSOLE_LINES = 25
BOOT_TIMEOUT_S = 120
# cx16 is off because QEMU 7.2's emulation of cmpxchg16b crashes newer kernels now and then.
CPU = "max,cx16=off"
# QEMU's own method of signing pointers: the emulation of the standard's is many times as slow.
ARM64_CPU = "max,pauth-impdef=on"


class MachineFailed(Exception):
    """A machine that does not boot, or that is gone; with the end of its console."""


@dataclass
class Done:
    """How a program in a machine ended."""

    code: int
    said: str

    def __str__(self):
        return f"exit code {self.code}\n{self.said.strip()}"


@dataclass
class MachineOptions:
    """What is peculiar about one machine."""

    name: str
    kernel: Kernel
    memory_mib: int = 512
    cpu: str = CPU
    addresses: list[str] = field(default_factory=list)
    tap: str = ""  # the interface of the network that it is joined to
    mac: str = ""
    arguments: str = ""  # more words for the kernel's command line
    image: pathlib.Path | None = None  # instead of the one that is made for the kernel


class Machine:
    """A machine from its start to its end. Everything that it is asked has a time limit."""

    def __init__(self, options: MachineOptions, folder: pathlib.Path, enter: list[str] = ()):
        self.options = options
        self.name = options.name
        self.console = folder / f"{options.name}.console"
        self.console_socket = folder / f"{options.name}.serial"
        self._answers: dict[int, dict] = {}
        self._arrived = threading.Condition()
        self._ids = itertools.count(1)
        self._write_lock = threading.Lock()
        self._is_open = True
        ours, theirs = socket.socketpair()
        self._port = ours
        command = [*enter, *self._command(theirs.fileno())]
        self.log = folder / f"{options.name}.qemu"
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            pass_fds=[theirs.fileno()], start_new_session=True)
        theirs.close()
        self._cleanup = cleanup.register(self._end)
        threading.Thread(target=self._read, daemon=True).start()

    def _command(self, port: int) -> list[str]:
        options = self.options
        program, cpu, console = ["qemu-system-x86_64"], options.cpu, "ttyS0"
        if options.kernel.architecture == "arm64":
            program, console = ["qemu-system-aarch64", "-M", "virt"], "ttyAMA0"
            cpu = ARM64_CPU if cpu == CPU else cpu
        words = [f"console={console}", "panic=-1", "quiet", f"gw.name={options.name}",
                 f"gw.addresses={','.join(options.addresses)}", options.arguments]
        command = [*program, "-accel", "tcg", "-smp", "1", "-cpu", cpu, "-m",
                   str(options.memory_mib), "-nodefaults", "-no-user-config", "-display", "none",
                   "-no-reboot", "-kernel", str(options.kernel.image), "-initrd",
                   str(options.image or get_image(options.kernel)), "-append", " ".join(words),
                   "-chardev", f"socket,id=serial,path={self.console_socket},server=on,wait=off,"
                   f"logfile={self.console}", "-serial", "chardev:serial",
                   "-device", "virtio-serial-pci", "-chardev", f"socket,id=agent,fd={port}",
                   "-device", "virtserialport,chardev=agent,name=agent",
                   "-device", "virtio-rng-pci"]
        if options.tap:
            command += ["-netdev", f"tap,id=net,ifname={options.tap},script=no,downscript=no",
                        "-device", f"virtio-net-pci,netdev=net,mac={options.mac},romfile="]
        return command

    def wait_ready(self, timeout_s: float = BOOT_TIMEOUT_S) -> None:
        """Returns when the machine has booted. Throws MachineFailed, with its console's end."""
        def is_ready():
            if self.process.poll() is not None:
                raise MachineFailed(self._story(f"qemu ended with {self.process.returncode}"))
            return 0 in self._answers
        try:
            wait_until("boot", is_ready, timeout_s, every_s=0.1)
        except TimeoutError as error:
            raise MachineFailed(self._story(f"it did not boot within {timeout_s:g} s")) from error

    def console_end(self) -> str:
        """The last lines of the serial console."""
        if not self.console.exists():
            return ""
        lines = self.console.read_text(errors="replace").replace("\r", "").splitlines()
        return "\n".join(lines[-CONSOLE_LINES:])

    def _story(self, what: str) -> str:
        said = self.log.read_text(errors="replace").strip()
        return (f"machine {self.name} (kernel {self.options.kernel.release}): {what}\n"
                f"--- qemu\n{said or '(it said nothing)'}\n"
                f"--- the end of its console\n{self.console_end() or '(nothing came)'}")

    def ask(self, what: str, within_s: float = 30, **words):
        """One request to the agent inside, and its answer. Throws MachineFailed or RuntimeError."""
        number = next(self._ids)
        line = json.dumps({"id": number, "do": what, **words}).encode() + b"\n"
        try:
            with self._write_lock:
                self._port.sendall(line)
        except OSError as error:
            raise MachineFailed(self._story(f"it does not listen: {error}")) from error
        deadline = time.monotonic() + within_s
        with self._arrived:
            while number not in self._answers:
                if not self._is_open:
                    raise MachineFailed(self._story(f"it is gone, in the middle of {what}"))
                left = deadline - time.monotonic()
                if left <= 0:
                    raise MachineFailed(self._story(
                        f"no answer to {what} within {within_s:g} s"))
                self._arrived.wait(left)
            answer = self._answers.pop(number)
        if "error" in answer:
            raise RuntimeError(f"machine {self.name}: {what} {words}: {answer['error']}")
        return answer["value"]

    def run(self, *argv: str, timeout_s: float = 60, **environment: str) -> Done:
        """Runs a program to its end; it is killed after `timeout_s`."""
        words = list(map(str, argv))
        return Done(**self.ask("run", timeout_s + 20, argv=words, timeout_s=timeout_s,
                               environment=environment))

    def start(self, *argv: str, log: str, **environment: str) -> int:
        """Starts a program that goes on; its process id."""
        return self.ask("start", argv=list(map(str, argv)), log=log, environment=environment)

    def wait(self, pid: int, timeout_s: float) -> int | None:
        """The exit code of a started program, None when it still runs."""
        return self.ask("wait", timeout_s + 20, pid=pid, timeout_s=timeout_s)

    def is_alive(self, pid: int) -> bool:
        """True when there is a process of that id, and it is no zombie."""
        return self.ask("alive", pid=pid)

    def send_signal(self, pid: int, number: int = signal.SIGTERM) -> None:
        """Signals one process."""
        self.ask("signal", pid=pid, number=int(number))

    def read(self, path: str, bytes_max: int = 1 << 20) -> str | None:
        """The end of a file, None when there is none."""
        return self.ask("read", path=str(path), bytes_max=bytes_max)

    def write(self, path: str, content: bytes, mode: int = 0o644) -> None:
        """Makes a file and its folder."""
        self.ask("write", path=str(path), content=base64.b64encode(content).decode(), mode=mode)

    def set_clock(self, ahead_s: int = 0) -> None:
        """Gives it the time of day of this machine, as an NTP client would, or a later one."""
        self.ask("set_clock", realtime_ns=time.time_ns() + ahead_s * 10**9)

    def _read(self) -> None:
        text = b""
        while True:
            try:
                piece = self._port.recv(65536)
            except OSError:
                piece = b""
            if not piece:
                break
            *lines, text = (text + piece).split(b"\n")
            with self._arrived:
                for line in lines:
                    answer = json.loads(line)
                    self._answers[answer["id"]] = answer
                self._arrived.notify_all()
        with self._arrived:
            self._is_open = False
            self._arrived.notify_all()

    def reboot(self, timeout_s: float = 60) -> None:
        """The kernel restarts, at which QEMU ends (-no-reboot): another machine takes its place."""
        self.start("reboot", "-f", log="/dev/null")
        wait_until(f"machine {self.name} to go down", lambda: self.process.poll() is not None,
                   timeout_s, every_s=0.1)
        self.close()

    def clock_ahead_ns(self) -> int:
        """How far its CLOCK_REALTIME is ahead of this machine's, to half of the shortest answer."""
        best = None
        for _ in range(10):
            before = time.time_ns()
            there = self.ask("clock")
            after = time.time_ns()
            if best is None or after - before < best[0]:
                best = (after - before, there - (before + after) // 2)
        return best[1]

    def close(self) -> None:
        """Ends the machine, if it still runs."""
        cleanup.run(self._cleanup)

    def _end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._port.close()
