"""`bench throughput`: the page stream of a real migration against plain TLS over the same path."""

import json
import statistics
import subprocess
import time

from .backed_memory import BackedMemory
from .bench_stage import Stage, failure_of
from .figures import print_summary, spread, summary_of
from .host import AGENT_PORT, Host
from .programs import program, touch_and_release, wait_until
from .workload import Workload

FIGURES = ("stream_bytes_per_s", "tls_bytes_per_s", "first_round_ms", "total_ms",
           "bytes_over_resident", "agents_rss_mib")
TLS_PORT = 7100
PAGE_BYTES = 4096
# Handed to the kernel at once: one record after the other as OpenSSL does it by itself, and in
# larger pieces. The better of both is what the page stream is held against.
TLS_BUFFERS_BYTES = (0, 262144)


def connections_to_agent(pid: int) -> int:
    """Established connections of the network of `pid` to the port of an agent."""
    try:
        with open(f"/proc/{pid}/net/tcp", encoding="ascii") as table:
            rows = [line.split() for line in table.readlines()[1:]]
    except (FileNotFoundError, ProcessLookupError, OSError):
        return 0
    return sum(row[3] == "01" and row[2].endswith(f":{AGENT_PORT:04X}") for row in rows)


def move(workload: Workload, to: Host) -> tuple:
    """(run of migrate, number of page streams that it used, MiB of the agents)."""
    source = workload.host
    # Without the connection for page faults, which no page of a round goes over.
    run = source.migrate(workload.pid, to, "--mode", "pre", watch_memory=True, timeout_s=600,
                         observe=connections_to_agent)
    if run.code != 0:
        raise RuntimeError(f"{failure_of(run)}\n{to.agent.log_tail()}")
    workload.follow(to, run)
    # One of them is the control connection.
    return run, max(1, source.observed - 1), source.largest_agent_bytes / (1 << 20)


def plain_tls(stage: Stage, source: Host, to: Host, mib: int, streams: int, buffer_bytes: int) -> dict:
    """What client_tls_stream sends from host to host."""
    log = stage.folder / f"tls-{time.time_ns()}.log"
    common = ["--port", TLS_PORT, "--streams", streams, "--buffer-bytes", buffer_bytes]
    receiver = to.start([program("client_tls_stream"), "--listen", to.management, "--keys",
                         stage.keys.path(to.part, "destination"), *common], log=log)
    try:
        wait_until(lambda: f"client_tls_stream to listen: {log.read_text()}",
                   lambda: "running" in log.read_text())
        sender = stage.network.run(
            source.part, program("client_tls_stream"), "--connect", to.management, "--keys",
            str(stage.keys.path(source.part, "source")), "--mib", str(mib), *map(str, common))
        if sender.returncode != 0:
            raise RuntimeError(f"client_tls_stream: {sender.stderr.strip()} {log.read_text()}")
        receiver.wait(timeout=10)
        return json.loads(sender.stdout)
    except subprocess.TimeoutExpired as error:
        raise RuntimeError("client_tls_stream: the receiver does not end") from error
    finally:
        receiver.kill()
        receiver.wait()


def one_run(stage: Stage, workload: Workload, options) -> dict:
    """One migration, and plain TLS the same way before and after it."""
    source, to = workload.host, stage.other(workload.host)
    with BackedMemory(options.rss_mib):
        run, streams, agents_rss_mib = move(workload, to)
    tls = [plain_tls(stage, source, to, options.rss_mib, streams, buffer_bytes)
           for buffer_bytes in TLS_BUFFERS_BYTES]
    best = max(tls, key=lambda sent: sent["bytes_per_s"])
    first = run.report["rounds"][0]
    stream_bytes_per_s = first["pages"] * PAGE_BYTES / (first["ms"] / 1e3)
    return {
        "stream_bytes_per_s": stream_bytes_per_s,
        "tls_bytes_per_s": best["bytes_per_s"],
        "stream_over_tls": stream_bytes_per_s / best["bytes_per_s"],
        "tls_variants": [{"buffer_bytes": buffer_bytes, **sent}
                         for buffer_bytes, sent in zip(TLS_BUFFERS_BYTES, tls)],
        "cipher": best["cipher"],
        "streams": streams,
        "first_round_pages": first["pages"],
        "first_round_zero_pages": first["zero_pages"],
        "first_round_ms": first["ms"],
        "first_round_scan_ms": first["scan_ms"],
        "total_ms": run.report["total_ms"],
        "bytes_over_resident": run.report["bytes_sent"] / run.report["resident_bytes"],
        "agents_rss_mib": agents_rss_mib,
    }


def measure(options) -> dict:
    """Runs the benchmark; the result as it goes into the JSON."""
    runs = []
    with Stage() as stage:
        touch_and_release(2 * options.rss_mib + 64)
        # Idle: nothing is written while it moves.
        workload = Workload(stage.hosts[0], "crowd", "--mib", options.rss_mib, "--writes-per-s", 0,
                            ready_timeout_s=600)
        try:
            for number in range(1, options.runs + 1):
                runs.append(one_run(stage, workload, options))
                figures = runs[-1]
                print(f"run {number}: pages {figures['stream_bytes_per_s'] / 1e9:.2f} GB/s, plain "
                      f"TLS {figures['tls_bytes_per_s'] / 1e9:.2f} GB/s ({figures['cipher']}, "
                      f"streams: {figures['streams']}), ratio {figures['stream_over_tls']:.2f}",
                      flush=True)
            verdict = workload.stop(timeout_s=120)
        finally:
            workload.kill()
    ratios = [run["stream_over_tls"] for run in runs]
    return {"bench": "throughput", "rss_mib": options.rss_mib, "runs": runs,
            "summary": {"stream_over_tls": statistics.median(ratios),
                        "stream_over_tls_spread": spread(ratios), **summary_of(runs, FIGURES)},
            "verdict": verdict}


def show(result: dict) -> None:
    """The table."""
    summary = dict(result["summary"])
    summary["stream_over_tls"] = summary.pop("stream_over_tls_spread")
    for name in ("stream", "tls"):
        values = summary.pop(f"{name}_bytes_per_s")
        summary[f"{name}_gb_per_s"] = {key: value / 1e9 for key, value in values.items()}
    print_summary(summary)
    print(f"the moved process says: {result['verdict']}")


def is_bad(result: dict) -> bool:
    """Whether the process found its memory changed."""
    return result["verdict"] != "PASS"
