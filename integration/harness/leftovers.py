"""Looks for what a migration may leave behind: tasks, rules, addresses, cgroups, journals, descriptors."""

import json
import os
import pathlib
import time

from . import programs
from .host import Host
from .network import SERVICE, SERVICE6, Network, processes_in

CGROUP_MOUNTS = ("/sys/fs/cgroup/unified", "/sys/fs/cgroup")


class Baseline:
    """What there was before the first migration of a test."""

    def __init__(self, network: Network, hosts: list[Host]):
        self._network = network
        self._hosts = hosts
        self._addresses = {host.part: network.addresses(host.part) for host in hosts}
        self._cgroups = _cgroups()
        self._descriptors = {host.agent.pid: host.agent.open_fds() for host in hosts if host.agent}

    def problems(self, running: tuple[int, ...] = (), service_on: str | None = None,
                 timeout_s: float = 15) -> list[str]:
        """What is there now and was not before; waits for it to go away.

        `running`: processes that are meant to live (services that were moved).
        `service_on`: the part that has the service addresses now, None: the one that had them.
        """
        deadline = time.monotonic() + timeout_s
        found = self._look(running, service_on)
        while found and time.monotonic() < deadline:
            time.sleep(0.1)
            # What comes and goes belongs to a test that runs at the same time.
            found = [problem for problem in self._look(running, service_on) if problem in found]
        return found

    def _look(self, running, service_on) -> list[str]:
        meant = set(running) | {host.agent.pid for host in self._hosts if host.agent}
        for pid in running:
            meant |= _init_of(pid)
        found = []
        for host in self._hosts:
            inside = processes_in(self._network.namespace(host.part))
            found += [f"host {host.part}: process {pid} ({programs.name_of(pid)})"
                      for pid in inside if pid not in meant and programs.is_alive(pid)]
            found += [f"host {host.part}: nftables {table}"
                      for table in self._network.nft_tables(host.part) if "godwit" in table]
            found += [f"host {host.part}: journal {entry}" for entry in _files(host.state_dir)]
            found += self._address_problems(host.part, service_on)
            if host.agent:
                found += self._agent_problems(host)
        own = {_cgroup_of(pid) for pid in meant}
        found += [f"cgroup {path}" for path in _cgroups() - self._cgroups
                  if path not in own and not _has_strangers(path, self._pids())]
        return found

    def _pids(self) -> set[int]:
        return {pid for host in self._hosts
                for pid in processes_in(self._network.namespace(host.part))}

    def _address_problems(self, part: str, service_on: str | None) -> list[str]:
        want, have = self._addresses[part], self._network.addresses(part)
        if service_on is not None:
            # Which prefix length a moved address gets is the agent's business.
            want = {address for address in want if not _is_service(address)}
            missing = [address for address in (SERVICE, SERVICE6) if part == service_on
                       and not any(address == _bare(entry) for entry in have)]
            surplus = [entry for entry in have if _is_service(entry) and part != service_on]
            have = {address for address in have if not _is_service(address)}
            want |= set(missing)
            have |= set(surplus)
        return ([f"host {part}: address {address} is new" for address in sorted(have - want)] +
                [f"host {part}: address {address} is gone" for address in sorted(want - have)])

    def _agent_problems(self, host: Host) -> list[str]:
        agent = host.agent
        if agent.process.poll() is not None:
            return [f"host {host.part}: dest-agent ended with {agent.process.returncode}"]
        found = []
        before, now = self._descriptors.get(agent.pid), agent.open_fds()
        if before is not None and now > before:
            found.append(f"host {host.part}: dest-agent has {now} descriptors open, had {before}")
        found += [f"host {host.part}: zombie {pid} ({programs.name_of(pid)}) below dest-agent"
                  for pid in programs.descendants(agent.pid)
                  if programs.process_state(pid) == "Z"]
        return found


def remove_groups(state_dir: pathlib.Path) -> None:
    """Control groups of migrations that a failed test left unfinished; their processes have ended."""
    for journal in state_dir.rglob("*.json") if state_dir.exists() else ():
        path = json.loads(journal.read_text()).get("cgroup_path", "")
        deadline = time.monotonic() + 2
        while path and os.path.isdir(path) and time.monotonic() < deadline:
            try:
                os.rmdir(path)
            except OSError:
                time.sleep(0.02)


def _bare(entry: str) -> str:
    return entry.split()[1].split("/")[0]


def _is_service(entry: str) -> bool:
    return _bare(entry) in (SERVICE, SERVICE6)


def _files(folder: pathlib.Path) -> set[str]:
    return {str(path) for path in folder.rglob("*") if path.is_file()} if folder.exists() else set()


def _cgroups() -> set[str]:
    found = set()
    for mount in CGROUP_MOUNTS:
        if not pathlib.Path(mount, "cgroup.procs").exists():
            continue
        for folder, names, _ in os.walk(mount):
            found |= {os.path.join(folder, name) for name in names if name.startswith("godwit")}
    return found


def _cgroup_of(pid: int) -> str:
    try:
        lines = pathlib.Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    except OSError:
        return ""
    path = next((line[3:] for line in lines if line.startswith("0::")), "")
    return next((mount + path for mount in CGROUP_MOUNTS
                 if pathlib.Path(mount + path, "cgroup.procs").exists()), "")


def _has_strangers(cgroup: str, ours: set[int]) -> bool:
    """True when processes of another test sit in the group: it is that test's."""
    try:
        inside = {int(line) for line in pathlib.Path(cgroup, "cgroup.procs").read_text().split()}
    except OSError:
        return False
    return bool(inside) and not inside & ours


def _init_of(pid: int) -> set[int]:
    """The init of the pid namespace that a moved process may live in."""
    found = set()
    while pid > 1:
        if programs.name_of(pid) == "godwit-init":
            found.add(pid)
        pid = programs.parent_of(pid)
    return found
