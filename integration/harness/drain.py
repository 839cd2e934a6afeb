"""Registered workloads of a host, and the commands that move them all."""

import json
import os
import pathlib
import subprocess
import tempfile

from .host import Host, Migration
from .programs import program


def register(host: Host, pid: int, name: str, *options: str) -> None:
    """`migrate register`; throws when it is refused."""
    done = run(host, "register", "--pid", str(pid), "--name", name, *options)
    if done.returncode != 0:
        raise AssertionError(f"{name} was not registered: {done.stdout}{done.stderr}")


def run(host: Host, *words: str) -> subprocess.CompletedProcess:
    """One of the commands that only look at registrations."""
    return host.network.run(host.part, program("migrate"), *words, "--registry",
                            str(host.registry))


def registered(host: Host) -> dict[str, dict]:
    """`migrate registered --json`, by name."""
    done = run(host, "registered", "--json")
    if done.returncode != 0:
        raise AssertionError(f"{done.stdout}{done.stderr}")
    return {entry["name"]: entry for entry in json.loads(done.stdout)}


def start_drain(host: Host, *words: str, before: tuple = (), terminal: bool = False) -> Migration:
    """Starts `migrate drain` on a host, with its keys and folders."""
    return start(host, "drain", *words, before=before, terminal=terminal)


def start(host: Host, *words: str, before: tuple = (), terminal: bool = False) -> Migration:
    """Starts a command of `migrate` that moves registered workloads."""
    handle, report = tempfile.mkstemp(prefix="drain-", suffix=".json", dir=host.folder)
    os.close(handle)
    command = [*before, program("migrate"), *words, "--keys", str(host.keys.path(host.part, "source")),
               "--state-dir", str(host.state_dir), "--registry", str(host.registry), "--json",
               report]
    output = (dict(stdout=None, stderr=None) if terminal else
              dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
    return Migration(host.start(command, **output), pathlib.Path(report), command)


def outcomes(report: dict) -> dict[str, str]:
    """What became of each workload."""
    return {entry["name"]: entry["outcome"] for entry in report["workloads"]}
