"""Images: a process is saved on a host, and brought back to life on it or on another."""

import json
import os
import pathlib
import subprocess
import tempfile

from . import programs
from .host import Host, Migration, Run
from .programs import program, wait_until


def start_checkpoint(host: Host, pid: int, image: pathlib.Path, *extra: str,
                     before: tuple = ()) -> Migration:
    """Starts `migrate checkpoint`."""
    return _begin(host, ["checkpoint", "--pid", str(pid), "--to", f"file:{image}", *extra], before)


def checkpoint(host: Host, pid: int, image: pathlib.Path, *extra: str, before: tuple = ()) -> Run:
    """Saves a process."""
    return start_checkpoint(host, pid, image, *extra, before=before).wait()


def restore(host: Host, image: pathlib.Path, *extra: str) -> Run:
    """Brings it back to life."""
    return start_restore(host, image, *extra).wait()


def start_restore(host: Host, image: pathlib.Path, *extra: str) -> Migration:
    """Starts `migrate restore`."""
    return _begin(host, ["restore", "--from", f"file:{image}", *extra], ())


def restore_moved(moved, host: Host, image: pathlib.Path, *extra: str) -> Run:
    """The same, followed: `moved` (a Workload, say) is the restored process from now on."""
    moved.forget_original()
    wait_until("the end of what was saved", lambda: not programs.is_alive(moved.pid))
    run = restore(host, image, *extra)
    if run.code == 0:
        moved.pid = run.report["pid_destination"]
        moved.host = host
    return run


def look(*words) -> subprocess.CompletedProcess:
    """A command that only reads: `migrate images verify DIR`, `migrate inspect DIR`."""
    return subprocess.run([program("migrate"), *map(str, words)], capture_output=True, text=True,
                          timeout=60)


def inspect(image: pathlib.Path) -> dict:
    """What an image holds."""
    done = look("inspect", image)
    if done.returncode != 0:
        raise AssertionError(done.stderr)
    return json.loads(done.stdout)


def _begin(host: Host, words: list[str], before: tuple) -> Migration:
    handle, report = tempfile.mkstemp(prefix="report-", suffix=".json", dir=host.folder)
    os.close(handle)
    command = [*before, program("migrate"), *words, "--json", report, "--state-dir",
               str(host.state_dir)]
    process = host.start(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return Migration(process, pathlib.Path(report), command)
