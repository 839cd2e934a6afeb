"""Another mover on the same hosts in the same run: how it is called and what it must answer.

The contract stands in docs/performance.md.
"""

import json
import os
import pathlib
import subprocess
import tempfile
import time

from .bench_stage import Stage
from .host import Host, Run
from .redis import Redis

TIMEOUT_S = 600


class PeerFailed(Exception):
    """The command did not do what the contract asks for."""


def environment(stage: Stage, redis: Redis, to: Host) -> dict[str, str]:
    """What the command gets, beside the environment of the benchmark."""
    source = redis.host
    return {
        "GODWIT_PEER_PID": str(redis.pid),
        "GODWIT_PEER_FROM": stage.network.namespace(source.part),
        "GODWIT_PEER_TO": stage.network.namespace(to.part),
        "GODWIT_PEER_FROM_ADDRESS": source.management,
        "GODWIT_PEER_TO_ADDRESS": to.management,
        "GODWIT_PEER_ADDRESSES": f"{redis.addresses[0]}/24 {redis.addresses[1]}/64",
        "GODWIT_PEER_LINK": "eth0",
        "GODWIT_PEER_FOLDER": tempfile.mkdtemp(prefix="peer-", dir=stage.folder),
        "GODWIT_PEER_KEYS": str(stage.keys.path(source.part, "source")),
        "GODWIT_PEER_AGENT": to.agent.address,
    }


def run_peer(command: str, stage: Stage, redis: Redis, to: Host) -> Run:
    """Runs the command on the source; its answer as the Run of a migration. Throws PeerFailed."""
    log = pathlib.Path(tempfile.mkstemp(prefix="peer-", suffix=".log", dir=stage.folder)[1])
    words = [*stage.network.enter(redis.host.part), "/bin/sh", "-c", command]
    started_ns = time.time_ns()
    with open(log, "wb") as errors:
        try:
            done = subprocess.run(words, env=os.environ | environment(stage, redis, to),
                                  stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors,
                                  timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired as error:
            raise PeerFailed(f"it did not end within {TIMEOUT_S} s") from error
    ended_ns = time.time_ns()
    said = log.read_text(errors="replace")[-1000:]
    if done.returncode != 0:
        raise PeerFailed(f"it ended with {done.returncode}: {said}")
    try:
        report = json.loads(done.stdout)
        pid = int(report["pid_destination"])
    except (ValueError, KeyError, TypeError) as error:
        raise PeerFailed(f"its standard output is no JSON object with pid_destination: {error}; "
                         f"{done.stdout[-200:]!r}") from error
    if not pathlib.Path(f"/proc/{pid}").exists():
        raise PeerFailed(f"there is no process {pid}, its pid_destination")
    return Run(0, report, said, started_ns, ended_ns, words)
