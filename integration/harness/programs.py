"""Where the built programs are, and small helpers around processes and memory."""

import mmap
import os
import pathlib
import signal
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]


def build_dir() -> pathlib.Path:
    """The build folder under test: GODWIT_BUILD, else the release preset's."""
    return pathlib.Path(os.environ.get("GODWIT_BUILD", ROOT / "build" / "release"))


def program(name: str) -> str:
    """Path of a built program: an agent, `client_*` or `workload_*`."""
    folder = {"client": "clients", "workload": "workloads"}.get(name.split("_")[0], "bin")
    path = build_dir() / folder / name
    if not path.exists():
        raise FileNotFoundError(f"{path} is not built: cmake --build --preset release")
    return str(path)


def wait_until(what, condition, timeout_s: float = 10.0, every_s: float = 0.02):
    """Polls `condition` until it gives something true and returns that; `what` names it on failure."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout_s:g} s for {what() if callable(what) else what}")
        time.sleep(every_s)


def is_alive(pid: int) -> bool:
    """True when `pid` is a process that still runs: a zombie does not."""
    return process_state(pid) not in (None, "Z", "X")


def process_state(pid: int) -> str | None:
    """The state letter of /proc/PID/stat, None when there is no such process."""
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    return stat.rpartition(")")[2].split()[0]


def is_frozen(pid: int) -> bool:
    """True when the control group of `pid` is frozen, or asked to be."""
    try:
        lines = pathlib.Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    except OSError:
        return False
    path = next((line[3:] for line in lines if line.startswith("0::")), "/")
    for mount in ("/sys/fs/cgroup/unified", "/sys/fs/cgroup"):
        file = pathlib.Path(mount + path, "cgroup.freeze")
        if file.exists():
            return file.read_text().strip() == "1"
    return False


def parent_of(pid: int) -> int:
    """The parent of `pid`, 0 when it is gone."""
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(stat.rpartition(")")[2].split()[1])


def name_of(pid: int) -> str:
    """comm of `pid`, empty when it is gone."""
    try:
        return pathlib.Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def all_pids() -> list[int]:
    """Every process id in /proc at this moment."""
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]


def children_of(pid: int) -> list[int]:
    """The children of every thread of `pid` (/proc/PID/task/TID/children, proc(5))."""
    found = []
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
    except (FileNotFoundError, ProcessLookupError):
        return []
    for task in tasks:
        try:
            found += map(int, pathlib.Path(f"/proc/{pid}/task/{task}/children").read_text().split())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def descendants(pid: int) -> list[int]:
    """All processes below `pid`, parents before children."""
    found = children_of(pid)
    for other in found:  # grows while it is walked
        found += children_of(other)
    return found


def resident_bytes(pid: int) -> int:
    """VmRSS of `pid`, 0 when it is gone."""
    try:
        status = pathlib.Path(f"/proc/{pid}/status").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return 0
    for line in status.splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


def listens_on(pid: int, port: int) -> bool:
    """True when something listens on TCP `port` in the network of `pid` (/proc/PID/net/tcp)."""
    table = pathlib.Path(f"/proc/{pid}/net/tcp").read_text()
    rows = [line.split() for line in table.splitlines()[1:]]
    return any(row[3] == "0A" and row[1].endswith(f":{port:04X}") for row in rows)


def send_signal(pid: int, number: int = signal.SIGKILL) -> bool:
    """Signals one process; False when it is gone already."""
    try:
        os.kill(pid, number)
        return True
    except ProcessLookupError:
        return False


def touch_and_release(mib: int) -> None:
    """Touches `mib` MiB once and gives them back.

    A hypervisor that took free memory away returns it at the first touch, slowly. What is measured
    after this is the program, not the hypervisor.
    """
    block = b"\xa5" * (1 << 20)
    with mmap.mmap(-1, mib << 20) as area:
        for start in range(0, mib << 20, 1 << 20):
            area[start:start + (1 << 20)] = block
