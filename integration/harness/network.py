"""Hosts as network namespaces: a and b move services between them, c has the clients, sw the bridge.

Every namespace is named gw<pid of the test>-<random>-<part>, so that tests may run at the same time
and a later test can take away what a killed one left. Programs are started with nsenter instead of
`ip netns exec`, which would hide /sys/fs/cgroup from them. Needs root (namespaces(7), veth(4)).
"""

import json
import os
import pathlib
import re
import secrets
import subprocess

from . import cleanup
from .programs import all_pids, is_alive, send_signal, wait_until

PREFIX = "10.77.0."
PREFIX6 = "fd77::"
SERVICE = PREFIX + "100"
SERVICE6 = PREFIX6 + "100"
SERVICES = (SERVICE, SERVICE6)
PEER_SERVICES = (PREFIX + "101", PREFIX6 + "101")  # of what another mover moves, see bench_pause.py
MANAGEMENT = {"a": PREFIX + "1", "b": PREFIX + "2", "c": PREFIX + "10"}
MANAGEMENT6 = {"a": PREFIX6 + "1", "b": PREFIX6 + "2", "c": PREFIX6 + "10"}
_OURS = re.compile(r"gw(\d+)-[0-9a-f]{4}-(a|b|c|sw)")


def ip(namespace: str, *lines: str) -> None:
    """Runs lines of `ip` commands inside a namespace."""
    done = subprocess.run(["ip", "-n", namespace, "-batch", "-"], input="\n".join(lines) + "\n",
                          text=True, capture_output=True)
    if done.returncode != 0:
        raise RuntimeError(f"ip in {namespace}: {lines}: {done.stderr.strip()}")


def processes_in(namespace: str) -> list[int]:
    """Every process whose network namespace is `namespace`; zombies have none any more."""
    try:
        wanted = os.stat(f"/run/netns/{namespace}")
    except FileNotFoundError:
        return []
    found = []
    for pid in all_pids():
        try:
            here = os.stat(f"/proc/{pid}/ns/net")
        except OSError:
            continue
        if (here.st_dev, here.st_ino) == (wanted.st_dev, wanted.st_ino):
            found.append(pid)
    return found


def remove_namespace(namespace: str) -> None:
    """Ends every process inside and removes the namespace."""
    def ended():
        inside = [pid for pid in processes_in(namespace) if is_alive(pid)]
        for pid in inside:
            thaw(pid)
            send_signal(pid)
        return not inside
    wait_until(f"the end of the processes in {namespace}", ended, timeout_s=20)
    subprocess.run(["ip", "netns", "del", namespace], capture_output=True)


def thaw(pid: int) -> None:
    """Lets a task out of a freezer that a killed agent left, or it would not even die."""
    try:
        lines = pathlib.Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        if not line.startswith("0::") or "/godwit" not in line:
            continue
        for mount in ("/sys/fs/cgroup/unified", "/sys/fs/cgroup"):
            freeze = pathlib.Path(mount + line[3:]) / "cgroup.freeze"
            if freeze.exists():
                freeze.write_text("0")


def sweep_stale() -> None:
    """Removes namespaces of tests that were killed."""
    folder = pathlib.Path("/run/netns")
    for entry in os.listdir(folder) if folder.exists() else []:
        ours = _OURS.fullmatch(entry)
        if ours and not pathlib.Path(f"/proc/{ours[1]}").exists():
            remove_namespace(entry)


class Network:
    """Two hosts and a place for clients, joined by a bridge. A context manager."""

    def __init__(self):
        self.name = f"gw{os.getpid()}-{secrets.token_hex(2)}"
        self._cleanup = None

    def __enter__(self):
        sweep_stale()
        self._cleanup = cleanup.register(self._remove)
        try:
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_):
        self.close()

    def close(self) -> None:
        """Ends what still runs inside and removes the namespaces."""
        cleanup.run(self._cleanup)

    def namespace(self, part: str) -> str:
        """The name of the namespace of part a, b, c or sw."""
        return f"{self.name}-{part}"

    def enter(self, part: str) -> list[str]:
        """Words to put in front of a command so that it runs inside; the pid stays the command's."""
        return ["nsenter", f"--net=/run/netns/{self.namespace(part)}"]

    def run(self, part: str, *argv: str, **options) -> subprocess.CompletedProcess:
        """Runs a command inside a part and waits for it."""
        options.setdefault("text", True)
        options.setdefault("capture_output", True)
        return subprocess.run([*self.enter(part), *argv], **options)

    def addresses(self, part: str) -> set[str]:
        """Addresses of a part with their prefix length, link-local ones left out."""
        done = subprocess.run(["ip", "-n", self.namespace(part), "-json", "addr", "show"],
                              text=True, capture_output=True, check=True)
        return {f"{link['ifname']} {address['local']}/{address['prefixlen']}"
                for link in json.loads(done.stdout or "[]") if link
                for address in link.get("addr_info", []) if address.get("scope") != "link"}

    def add_service_address(self, part: str, addresses: tuple[str, str] = SERVICES) -> None:
        """Gives a part the addresses that services move with."""
        ip(self.namespace(part), f"addr add {addresses[0]}/24 dev eth0",
           f"addr add {addresses[1]}/64 dev eth0 nodad")

    def remove_service_address(self, part: str, addresses: tuple[str, str] = SERVICES) -> None:
        """Takes the service addresses from a part that has them."""
        for address in self.addresses(part):
            link, _, cidr = address.partition(" ")
            if cidr.split("/")[0] in addresses:
                ip(self.namespace(part), f"addr del {cidr} dev {link}")

    def forget_neighbours(self) -> None:
        """Every part asks anew where an address is, one that was taken from a part and given to
        another without a word."""
        for part in ("a", "b", "c"):
            ip(self.namespace(part), "neigh flush dev eth0")

    def cut(self, part: str) -> None:
        """Nothing comes to a part or from it any more; nobody is told."""
        ip(self.namespace("sw"), f"link set port-{part} down")

    def heal(self, part: str) -> None:
        """Undoes cut()."""
        ip(self.namespace("sw"), f"link set port-{part} up")

    def limit(self, part: str, rate: str) -> None:
        """What reaches a part comes at this rate at most (tc-tbf(8))."""
        self.run("sw", "tc", "qdisc", "replace", "dev", f"port-{part}", "root", "tbf",
                 "rate", rate, "burst", "128kb", "latency", "20ms", check=True)

    def nft_tables(self, part: str) -> list[str]:
        """The nftables tables of a part."""
        return self.run(part, "nft", "list", "tables", check=True).stdout.split("\n")[:-1]

    def _build(self) -> None:
        switch = self.namespace("sw")
        for part in ("sw", "a", "b", "c"):
            subprocess.run(["ip", "netns", "add", self.namespace(part)], check=True)
            ip(self.namespace(part), "link set lo up")
        ip(switch, "link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
           "link set br0 up")
        for part in ("a", "b", "c"):
            here = self.namespace(part)
            ip(here, f"link add eth0 type veth peer name port-{part} netns {switch}")
            ip(switch, f"link set port-{part} master br0 up")
            ip(here, "link set eth0 up", f"addr add {MANAGEMENT[part]}/24 dev eth0",
               f"addr add {MANAGEMENT6[part]}/64 dev eth0 nodad")
        self.add_service_address("a")

    def _remove(self) -> None:
        for part in ("a", "b", "c", "sw"):
            if pathlib.Path(f"/run/netns/{self.namespace(part)}").exists():
                remove_namespace(self.namespace(part))
