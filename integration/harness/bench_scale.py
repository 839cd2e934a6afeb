"""`bench scale`: the blackout against how much there is of one thing."""

import statistics
import time

from .backed_memory import BackedMemory
from .bench_stage import Stage, failure_of
from .figures import median_phases, phases_line
from .network import SERVICE
from .programs import touch_and_release
from .redis import largest_ms
from .streams import Client
from .workload import Workload

# kind: unit, option of workload_crowd, sizes, the one size of --quick
KINDS = {
    "resident": ("MiB", "--mib", (64, 512, 1024, 4096, 8192), 64),
    "threads": ("threads", "--threads", (1, 10, 100, 1000), 100),
    "descriptors": ("descriptors", "--descriptors", (10, 100, 1000, 10000), 1000),
    "connections": ("connections", "", (1, 10, 100, 1000), 100),
    "mappings": ("mappings", "--mappings", (100, 1000, 10000, 30000), 1000),
    "mixed": ("connections", "", (1, 100, 1000), 100),  # of a service as they are
}
MIXED = {"--threads": 40, "--descriptors": 200, "--mappings": 200}
PORT = 7000
BASE_MIB = 16  # of the points that are not about memory


class PointFailed(Exception):
    """Something at this size could not be moved, or was not whole afterwards."""


def arguments_of(kind: str, size: int) -> list[str]:
    """Of workload_crowd."""
    words = {"--mib": BASE_MIB, "--address": SERVICE, "--port": PORT}
    if KINDS[kind][1]:
        words[KINDS[kind][1]] = size
    if kind == "mixed":
        words.update(MIXED)
    return [str(word) for pair in words.items() for word in pair]


def one_move(stage: Stage, workload: Workload, mib: int, quiet_s: float) -> tuple:
    """(run, when it was quiet) of one move to the other host."""
    to = stage.other(workload.host)
    start_ns = time.time_ns()
    time.sleep(quiet_s)
    quiet_ns = (start_ns, time.time_ns())
    with BackedMemory(mib):
        run = workload.host.migrate(workload.pid, to, "--addresses", "move", watch_memory=True,
                                    timeout_s=600)
    if run.code != 0:
        raise PointFailed(failure_of(run))
    return run, quiet_ns


def moves(stage: Stage, workload: Workload, mib: int, options) -> list[dict]:
    """The figures of some moves, there and back; those of the clients come later."""
    found = []
    for _ in range(options.runs):
        source = workload.host
        run, quiet_ns = one_move(stage, workload, mib, options.quiet_s)
        workload.follow(stage.other(source), run)
        report = run.report
        found.append({"blackout_ms": report["blackout_ms"],
                      "blackout_phases_ms": report["blackout_phases_ms"],
                      "total_ms": report["total_ms"], "rounds": len(report["rounds"]),
                      "last_round_pages": report["rounds"][-1]["pages"],
                      "agents_rss_mib": source.largest_agent_bytes / (1 << 20),
                      "windows": (run.switch_window_ns(), quiet_ns)})
    time.sleep(0.3)
    return found


def add_gaps(runs: list[dict], seen: dict) -> None:
    """What the client that asks all the time saw of each move."""
    for run in runs:
        around, quiet = run.pop("windows")
        length_ns = around[1] - around[0]
        windows = range(max(1, (quiet[1] - quiet[0]) // length_ns))
        run["client_gap_ms"] = largest_ms(seen, *around)
        run["client_gap_noise_ms"] = statistics.median(
            largest_ms(seen, quiet[0] + i * length_ns, quiet[0] + (i + 1) * length_ns)
            for i in windows)


def measure_point(stage: Stage, kind: str, size: int, options) -> list[dict]:
    """The figures of the moves of one point. Throws PointFailed."""
    mib = size if kind == "resident" else BASE_MIB
    touch_and_release(2 * mib + 64)
    workload = Workload(stage.hosts[0], "crowd", *arguments_of(kind, size), ready_timeout_s=300)
    try:
        client = Client(stage.clients, "client_crowd", SERVICE, PORT, "--connections",
                        size if kind in ("connections", "mixed") else 1)
        try:
            runs = moves(stage, workload, mib, options)
        finally:
            seen = client.stop(timeout_s=60)
        if seen["exit_code"] != 0:
            raise PointFailed(f"connections: {seen['story']}")
        add_gaps(runs, seen)
        verdict = workload.stop(timeout_s=300)
        if verdict != "PASS":
            raise PointFailed(verdict)
        return runs
    finally:
        workload.kill()


def point_of(kind: str, size: int, options) -> dict:
    """One point: its figures, or why there are none."""
    point = {"kind": kind, "size": size, "unit": KINDS[kind][0]}
    try:
        with Stage() as stage:
            runs = measure_point(stage, kind, size, options)
    except (PointFailed, RuntimeError, TimeoutError, AssertionError) as error:
        return {**point, "error": str(error)}
    medians = {name: statistics.median(run[name] for run in runs)
               for name in ("blackout_ms", "client_gap_ms", "client_gap_noise_ms", "total_ms",
                            "agents_rss_mib")}
    return {**point, **medians, "blackout_phases_ms": median_phases(runs), "runs": runs}


def show_point(point: dict) -> None:
    """One line of the table."""
    head = f"{point['size']:>7} {point['unit']:<12}"
    if "error" in point:
        print(f"{head} failed: {point['error']}", flush=True)
        return
    print(f"{head} {point['blackout_ms']:>9.2f} {point['client_gap_ms']:>8.1f} "
          f"{point['client_gap_noise_ms']:>8.1f} {point['total_ms']:>9.0f} "
          f"{point['agents_rss_mib']:>7.1f}  {phases_line(point['blackout_phases_ms'])}", flush=True)


def measure(options) -> dict:
    """Runs the benchmark; every point is shown when it is there."""
    print(f"{'':>20} {'blackout':>9} {'gap':>8} {'noise':>8} {'total':>9} {'agents':>7}\n"
          f"{'':>20} {'ms':>9} {'ms':>8} {'ms':>8} {'ms':>9} {'MiB':>7}", flush=True)
    points = []
    for kind in options.only or KINDS:
        _, _, sizes, quick = KINDS[kind]
        for size in options.sizes or ((quick,) if options.quick else sizes):
            points.append(point_of(kind, size, options))
            show_point(points[-1])
    return {"bench": "scale", "runs_of_each": options.runs, "points": points}


def show(result: dict) -> None:
    """What did not work, once more at the end."""
    failed = [point for point in result["points"] if "error" in point]
    if failed:
        print(f"\n{len(failed)} of {len(result['points'])} points failed")


def is_bad(result: dict) -> bool:
    """Whether something could not be moved."""
    return any("error" in point for point in result["points"])
