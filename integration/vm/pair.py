"""Two machines joined by a bridge, with agents; the clients' host is the bridge's network namespace on
this machine, where nothing is emulated: a client's clock and its measurements are real.
"""

import json
import pathlib
import shutil
import subprocess
import tempfile
import time

from harness import cleanup
from harness.host import AGENT_PORT, Keys, Run
from harness.network import (MANAGEMENT, MANAGEMENT6, SERVICES, Network, ip)
from harness.programs import wait_until

from .kernels import get_kernel
from .machine import CPU, Done, Machine, MachineFailed, MachineOptions

MIGRATE = "/godwit/bin/migrate"
# Freshly booted machines give out the same ids; hosts that have run for a while do not.
LAST_PID = {"a": 1000, "b": 20000}
MAC = {"a": "02:77:00:00:00:01", "b": "02:77:00:00:00:02"}


class VmNetwork(Network):
    """The clients' part is the bridge itself; each machine is at a tap device (bridge(8), tun)."""

    PARTS = ("c",)

    def _build(self) -> None:
        here = self.namespace("c")
        subprocess.run(["ip", "netns", "add", here], check=True)
        ip(here, "link set lo up",
           "link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
           "link set br0 up", f"addr add {MANAGEMENT['c']}/24 dev br0",
           f"addr add {MANAGEMENT6['c']}/64 dev br0 nodad")
        for part in MAC:
            ip(here, f"tuntap add dev port-{part} mode tap",
               f"link set port-{part} master br0 up")


class VmHost:
    """A machine as a host of migrations: `migrate`, dest-agent and services run in it."""

    def __init__(self, part: str, machine: Machine, keys: Keys):
        self.part = part
        self.machine = machine
        self.keys = keys
        self.address = f"{MANAGEMENT[part]}:{AGENT_PORT}"
        self._agent_log = f"/run/agent-{part}.log"
        self._reports = 0

    def set_up(self) -> None:
        """Brings the keys and starts dest-agent."""
        for role in ("source", "destination"):
            for file in sorted(self.keys.path(self.part, role).iterdir()):
                self.machine.write(f"/run/keys/{role}/{file.name}", file.read_bytes(), 0o600)
        self.machine.start("/godwit/bin/dest-agent", "--listen", self.address, "--keys",
                           "/run/keys/destination", "--state-dir", "/run/godwit",
                           log=self._agent_log)
        port = f":{AGENT_PORT:04X}"
        wait_until(lambda: f"dest-agent to listen: {self.agent_log()}",
                   lambda: port in (self.machine.read("/proc/net/tcp") or ""), 60, 0.2)

    def agent_log(self, bytes_max: int = 4000) -> str:
        """The end of what dest-agent wrote."""
        return self.machine.read(self._agent_log, bytes_max) or ""

    def migrate(self, pid: int, to: "VmHost", *extra: str, timeout_s: float = 150,
                command: tuple = ()) -> Run:
        """Runs `migrate` (or `migrate check`) to its end."""
        self._reports += 1
        report = f"/run/report-{self._reports}.json"
        words = [MIGRATE, *command, "--pid", str(pid), "--to", to.address, "--keys",
                 "/run/keys/source", "--json", report]
        if not command:
            words += ["--state-dir", "/run/godwit"]
        started_ns = time.time_ns()
        done = self.machine.run(*words, *extra, timeout_s=timeout_s)
        return self.run_of(done, report, started_ns, [*words, *extra])

    def run_of(self, done: Done, report: str, started_ns: int = 0, words: list = ()) -> Run:
        """A run whose report is in a file of the machine."""
        text = self.machine.read(report)
        return Run(done.code, json.loads(text) if text else {}, done.said, started_ns,
                   time.time_ns(), list(words))


class Pair:
    """Machines a and b with hosts around them. A context manager that takes everything away."""

    def __init__(self, source_kernel: str, destination_kernel: str, memory_mib: int = 512,
                 cpus: tuple[str, str] = (CPU, CPU), arguments: tuple[str, str] = ("", "")):
        self.kernels = {"a": get_kernel(source_kernel), "b": get_kernel(destination_kernel)}
        self.memory_mib = memory_mib
        self.cpus = dict(zip("ab", cpus))
        self.arguments = dict(zip("ab", arguments))
        self.machines: dict[str, Machine] = {}

    def __enter__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="godwit-vm-"))
        self._remove = cleanup.register(lambda: shutil.rmtree(self.folder, ignore_errors=True))
        self.network = VmNetwork()
        self.network.__enter__()
        try:
            self._boot()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _boot(self) -> None:
        self.keys = Keys(self.folder / "keys")
        for part in MAC:
            self._start(part, SERVICES if part == "a" else ())
        self.hosts = {}
        for part in self.machines:
            self._set_up(part)

    def _start(self, part: str, services: tuple) -> None:
        addresses = [f"{MANAGEMENT[part]}/24", f"{MANAGEMENT6[part]}/64"]
        addresses += [f"{address}/{64 if ':' in address else 24}" for address in services]
        options = MachineOptions(
            name=part, kernel=self.kernels[part], memory_mib=self.memory_mib,
            cpu=self.cpus[part], addresses=addresses,
            arguments=f"gw.last-pid={LAST_PID[part]} {self.arguments[part]}",
            tap=f"port-{part}", mac=MAC[part])
        self.machines[part] = Machine(options, self.folder, self.network.enter("c"))

    def _set_up(self, part: str) -> None:
        machine = self.machines[part]
        machine.wait_ready()
        self.hosts[part] = VmHost(part, machine, self.keys)
        self.hosts[part].set_up()

    @property
    def a(self) -> "VmHost":
        """The first machine, as it is now."""
        return self.hosts["a"]

    @property
    def b(self) -> "VmHost":
        """The second one."""
        return self.hosts["b"]

    def reboot(self, part: str, kernel: str) -> None:
        """A machine goes down and comes up with another kernel, and nothing that ran there: the same
        name and address, its memory gone, no address of a service."""
        self.machines[part].reboot()
        self.kernels[part] = get_kernel(kernel)
        self._start(part, ())
        self._set_up(part)

    def __exit__(self, *_):
        for machine in self.machines.values():
            machine.close()
        self.network.close()
        cleanup.run(self._remove)

    def other(self, host: VmHost) -> VmHost:
        """b for a, a for b."""
        return self.b if host is self.a else self.a

    def story(self) -> str:
        """What both machines' agents and consoles said last, for a failure's message."""
        parts = []
        for part, machine in self.machines.items():
            try:
                log = self.hosts[part].agent_log() if part in getattr(self, "hosts", {}) else ""
            except (MachineFailed, RuntimeError) as error:
                log = str(error)
            parts.append(f"--- agent of {part}\n{log}\n--- console of {part}\n"
                         f"{machine.console_end()}")
        return "\n".join(parts)
