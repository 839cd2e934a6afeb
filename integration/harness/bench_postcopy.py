"""`bench postcopy`: a redis that runs at the destination before its pages are there."""

import time

from .backed_memory import BackedMemory
from .bench_pause import ERRORS, WARM_UP_S, Load, is_bad, show_part as show  # noqa: F401
from .bench_stage import Stage, failure_of
from .figures import median_phases, summary_of
from .host import Run
from .redis import Redis

FIGURES = ("blackout_ms", "client_gap_ms", "client_gap_noise_ms", "fault_latency_p50_ms",
           "fault_latency_p99_ms", "fault_latency_max_ms", "faults", "zero_faults",
           "missing_at_switch_mib", "bare_stream_ms", "postcopy_ms", "postcopy_over_bare",
           "recovery_ms", "recovery_over_bare", "p99_before_ms", "p99_postcopy_ms", "total_ms")
PAGE_BYTES = 4096
MIB = 1 << 20
RECOVERED_SHARE = 0.9
RECOVERED_OVER_S = 0.5
STEP_NS = 10_000_000  # of the clients' line of time


class MoveFailed(Exception):
    """The service runs on where it was, or is lost."""


def move(stage: Stage, redis: Redis, options, mode: str) -> Run:
    """One move to the other host."""
    to = stage.other(redis.host)
    with BackedMemory(options.rss_mib):
        run = redis.host.migrate(redis.pid, to, "--addresses", "move", "--mode", mode, timeout_s=600)
    if run.code != 0:
        raise MoveFailed(failure_of(run))
    redis.follow(to, run)
    return run


def released_ns(run: Run) -> int:
    """The end of the blackout."""
    return run.report["frozen_unix_ns"] + int(run.report["blackout_ms"] * 1e6)


def recovery_ms(load: Load, run: Run, rate_before: float, end_ns: int) -> float | None:
    """From the freeze until the first instant from which, over half a second, clients got 90 % of the
    replies a second that they got before; None if that was not seen."""
    length_ns = int(RECOVERED_OVER_S * 1e9)
    at = released_ns(run)
    while at + length_ns <= end_ns:
        if load.rate(at, at + length_ns) >= RECOVERED_SHARE * rate_before:
            return (at - run.report["frozen_unix_ns"]) / 1e6
        at += STEP_NS
    return None


def figures_of(run: Run, bare: Run, load: Load, quiet_ns: tuple[int, int], end_ns: int) -> dict:
    """The figures of one move, held against the first round of the pre-copy before it."""
    report, lazy = run.report, run.report["post_copy"]
    first = bare.report["rounds"][0]
    bare_ms = first["ms"] * lazy["pages"] / max(1, first["pages"])
    around = run.switch_window_ns()
    switch_ns = released_ns(run)
    back_ms = recovery_ms(load, run, load.rate(*quiet_ns), end_ns)
    return {
        "blackout_ms": report["blackout_ms"],
        "blackout_phases_ms": report["blackout_phases_ms"],
        "client_gap_ms": load.gap_ms(*around),
        "client_gap_noise_ms": load.noise_ms(quiet_ns, around[1] - around[0]),
        **{name: lazy[name] for name in ("fault_latency_p50_ms", "fault_latency_p99_ms",
                                         "fault_latency_max_ms", "faults", "zero_faults",
                                         "fault_bytes", "background_bytes")},
        "missing_at_switch_mib": lazy["pages"] * PAGE_BYTES / MIB,
        "missing_pages": lazy["missing_pages"],
        "bare_stream_ms": bare_ms,
        "postcopy_ms": lazy["ms"],
        "postcopy_over_bare": lazy["ms"] / bare_ms,
        "recovery_ms": back_ms,
        "recovery_over_bare": None if back_ms is None else back_ms / bare_ms,
        "p99_before_ms": load.p99_ms(*quiet_ns),
        "p99_postcopy_ms": load.p99_ms(switch_ns, switch_ns + int(lazy["ms"] * 1e6)),
        "total_ms": report["total_ms"],
    }


def one_run(stage: Stage, redis: Redis, options) -> dict:
    """There with all pages first, back with them missing, under one load."""
    load = Load(stage, redis, options)
    failure, runs, quiet_ns = None, [], (0, 0)
    try:
        time.sleep(WARM_UP_S)
        runs.append(move(stage, redis, options, "pre"))
        time.sleep(WARM_UP_S)
        start_ns = time.time_ns()
        time.sleep(options.quiet_s)
        quiet_ns = (start_ns, time.time_ns())
        runs.append(move(stage, redis, options, "post"))
        time.sleep(options.after_s)
    except MoveFailed as error:
        failure = str(error)
    finally:
        end_ns = time.time_ns()
        load.stop()
    clients = {**load.errors, "tcp_timeouts": load.tcp_timeouts}
    if failure is None and runs[1].report["post_copy"] is None:
        failure = "no page was missing at the switch: all that it has travelled ahead of it"
    if failure:
        return {"error": failure, **clients}
    return {**figures_of(runs[1], runs[0], load, quiet_ns, end_ns), **clients}


def tell(number: int, figures: dict) -> None:
    """One line for a run."""
    if "error" in figures:
        print(f"run {number}: failed: {figures['error']}", flush=True)
        return
    back = figures["recovery_over_bare"]
    print(f"run {number}: blackout {figures['blackout_ms']:.1f} ms, gap "
          f"{figures['client_gap_ms']:.1f} (noise {figures['client_gap_noise_ms']:.1f}), "
          f"{figures['faults']} faults, p50 {1000 * figures['fault_latency_p50_ms']:.0f} us, p99 "
          f"{1000 * figures['fault_latency_p99_ms']:.0f} us, all there after "
          f"{figures['postcopy_ms']:.0f} ms ({figures['postcopy_over_bare']:.2f} of the bare stream), "
          f"90 % after {'-' if back is None else format(back, '.2f')} of it", flush=True)


def measure(options) -> dict:
    """Runs the benchmark; the result as it goes into the JSON."""
    runs: list[dict] = []
    with Stage() as stage:
        redis = Redis(stage.hosts[0], options.rss_mib)
        redis.fill(stage.clients)
        redis.settle(stage.clients)
        for number in range(1, options.runs + 1):
            runs.append(one_run(stage, redis, options))
            tell(number, runs[-1])
            if "error" in runs[-1]:
                break
        redis.verify(stage.clients)
        redis.stop(stage.clients)
    good = [run for run in runs if "error" not in run]
    return {"bench": "postcopy", "service": "redis", "rss_mib": options.rss_mib,
            "clients": options.clients, "rate": options.rate, "write_share": options.write_share,
            "runs": runs, "summary": summary_of(good, FIGURES),
            "blackout_phases_ms": median_phases(good), "failed_moves": len(runs) - len(good),
            **{name: sum(run[name] for run in runs) for name in (*ERRORS, "tcp_timeouts")}}
