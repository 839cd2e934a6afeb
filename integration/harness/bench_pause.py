"""`bench pause`: what the clients of a redis notice when it moves under load."""

import statistics
import time

from .backed_memory import BackedMemory
from .bench_stage import Stage, failure_of, stolen_ms
from .counters import TcpCounters
from .figures import median_phases, print_phases, print_summary, summary_of
from .host import Run
from .network import PEER_SERVICES
from .peer import PeerFailed, run_peer
from .redis import Redis, RedisLoad, largest_ms, operations_per_s, percentile_of_all_ms

FIGURES = ("client_gap_ms", "client_gap_noise_ms", "client_gap_whole_ms",
           "client_gap_whole_noise_ms", "blackout_ms", "precopy_throughput_ratio",
           "precopy_continuous_ratio", "p99_before_ms", "p99_whole_ms", "total_ms",
           "bytes_over_resident", "agents_rss_mib", "stolen_ms")
ERRORS = ("failed_commands", "reconnects", "counter_errors", "wrong_replies")
WARM_UP_S = 0.3
AFTER_S = 0.3  # more than the margin around the switch


class MoveFailed(Exception):
    """The service runs on where it was."""


class Load:
    """The clients, in two processes: those that share the rate, and the one that makes no pauses."""

    def __init__(self, stage: Stage, redis: Redis, options):
        self._counters = TcpCounters(stage.network, "c")
        self._running = [RedisLoad(stage.clients, clients_count=options.clients, rate=options.rate,
                                   write_share=options.write_share, host=redis.addresses[0],
                                   only=only) for only in ("paced", "continuous")]
        self.reports: list[dict] = []
        self.errors: dict[str, int] = {}
        self.tcp_timeouts = 0

    def stop(self) -> None:
        """Ends both and takes their reports."""
        self.reports = [load.stop() for load in self._running]
        self.errors = {name: sum(report[name] for report in self.reports) for name in ERRORS}
        self.tcp_timeouts = self._counters.delta()["TcpExt.TCPTimeouts"]

    def gap_ms(self, start_ns: int, end_ns: int) -> float:
        """The longest wait of any client: reply to reply of the one that makes no pauses, command
        to reply of the others."""
        return max(largest_ms(report, start_ns, end_ns, key) for report in self.reports
                   for key in ("gap_max_ns", "latency_max_ns"))

    def noise_ms(self, quiet_ns: tuple[int, int], length_ns: int) -> float:
        """The longest gap in a window of this length before the move: median of all such windows."""
        start, end = quiet_ns
        length_ns = max(1, min(length_ns, end - start))
        return statistics.median(self.gap_ms(start + i * length_ns, start + (i + 1) * length_ns)
                                 for i in range((end - start) // length_ns))

    def rate(self, start_ns: int, end_ns: int, continuous_only: bool = False) -> float:
        """Commands a second."""
        return sum(operations_per_s(report, start_ns, end_ns)
                   for report in (self.reports[1:] if continuous_only else self.reports))

    def p99_ms(self, start_ns: int, end_ns: int) -> float:
        """Of all clients."""
        return percentile_of_all_ms(self.reports, start_ns, end_ns, 0.99)


def precopy_window_ns(run: Run) -> tuple[int, int] | None:
    """From the first round to the freeze; None when the run does not tell when it froze."""
    frozen_ns = run.report.get("frozen_unix_ns")
    if not frozen_ns:
        return None
    phases = run.report.get("phases_ms") or {}
    before_ms = sum(phases.get(name, 0) for name in ("Connecting", "Preflight", "Building"))
    return run.started_ns + int(before_ms * 1e6), frozen_ns


def figures_of(run: Run, load: Load, quiet_ns: tuple[int, int], agents_rss_mib) -> dict:
    """The figures of one move."""
    around = run.switch_window_ns()
    report = run.report
    precopy = precopy_window_ns(run)
    resident = report.get("resident_bytes")
    rounds = report.get("rounds")
    return {
        "client_gap_ms": load.gap_ms(*around),
        "client_gap_noise_ms": load.noise_ms(quiet_ns, around[1] - around[0]),
        "client_gap_whole_ms": load.gap_ms(run.started_ns, run.ended_ns),
        "client_gap_whole_noise_ms": load.noise_ms(quiet_ns, run.ended_ns - run.started_ns),
        "blackout_ms": report.get("blackout_ms"),
        "blackout_phases_ms": report.get("blackout_phases_ms"),
        "precopy_throughput_ratio":
            precopy and load.rate(*precopy) / max(1, load.rate(*quiet_ns)),
        "precopy_continuous_ratio":
            precopy and load.rate(*precopy, True) / max(1, load.rate(*quiet_ns, True)),
        "p99_before_ms": load.p99_ms(*quiet_ns),
        "p99_whole_ms": load.p99_ms(run.started_ns, run.ended_ns),
        "frozen_after_ms": precopy and (precopy[1] - run.started_ns) / 1e6,
        "rounds": len(rounds) if rounds else None,
        "last_round_pages": rounds[-1]["pages"] if rounds else None,
        "total_ms": report.get("total_ms", (run.ended_ns - run.started_ns) / 1e6),
        "bytes_over_resident": report["bytes_sent"] / resident if resident else None,
        "agents_rss_mib": agents_rss_mib,
        **load.errors,
        "tcp_timeouts": load.tcp_timeouts,
    }


def one_move(stage: Stage, redis: Redis, options, quiet_s: float, mover) -> dict:
    """The figures of one move to the other host under load, or why there are none, with what the
    clients met then. `mover(to)` gives (Run, MiB)."""
    to = stage.other(redis.host)
    load = Load(stage, redis, options)
    failure = None
    try:
        time.sleep(WARM_UP_S)
        start_ns = time.time_ns()
        time.sleep(quiet_s)
        quiet_ns = (start_ns, time.time_ns())
        with BackedMemory(options.rss_mib):
            stolen = stolen_ms()
            run, agents_rss_mib = mover(to)
            stolen = stolen_ms() - stolen
        redis.follow(to, run)
        time.sleep(AFTER_S)
    except (MoveFailed, PeerFailed) as error:
        failure = str(error)
    finally:
        load.stop()
    if failure:
        return {"error": failure, **load.errors, "tcp_timeouts": load.tcp_timeouts}
    return {**figures_of(run, load, quiet_ns, agents_rss_mib), "stolen_ms": stolen}


def moved(runs: list[dict]) -> list[dict]:
    """Those that did not fail."""
    return [run for run in runs if "error" not in run]


def quiet_s_of(runs: list[dict], options) -> float:
    """Long enough to hold a window as long as the migration will be."""
    guess_ms = moved(runs)[-1]["total_ms"] if moved(runs) else 1.5 * options.rss_mib
    return max(options.quiet_s, 1.25 * guess_ms / 1000)


def own_move(stage: Stage, redis: Redis, options, runs: list[dict]) -> dict:
    """One move by `migrate`."""
    source = redis.host

    def mover(to):
        run = source.migrate(redis.pid, to, "--addresses", "move",
                             watch_memory=options.watch_memory, timeout_s=600)
        if run.code != 0:
            raise MoveFailed(failure_of(run))
        held = source.largest_agent_bytes / (1 << 20)
        return run, held if options.watch_memory else None

    return one_move(stage, redis, options, quiet_s_of(runs, options), mover)


def peer_move(stage: Stage, options, runs: list[dict]) -> dict:
    """One move by the peer: a redis of its own, with addresses of its own, from host a to b."""
    source, to = stage.hosts
    stage.network.add_service_address(source.part, PEER_SERVICES)
    stage.network.forget_neighbours()
    redis = Redis(source, options.rss_mib, addresses=PEER_SERVICES)
    try:
        redis.fill(stage.clients)
        redis.settle(stage.clients)
        figures = one_move(stage, redis, options, quiet_s_of(runs, options),
                           lambda to: (run_peer(options.peer, stage, redis, to), None))
        if "error" not in figures:
            redis.verify(stage.clients)
        return figures
    finally:
        redis.kill()
        for part in (source.part, to.part):
            stage.network.remove_service_address(part, PEER_SERVICES)


def try_peer_move(stage: Stage, options, runs: list[dict]) -> dict:
    """The same; a peer that fails is told and does not stop the benchmark."""
    try:
        return peer_move(stage, options, runs)
    except (AssertionError, RuntimeError, TimeoutError) as error:
        return {"error": str(error)}


def tell(name: str, number: int, figures: dict) -> None:
    """One line for a run."""
    if "error" in figures:
        print(f"{name} {number}: failed: {figures['error']}", flush=True)
        return
    blackout = figures["blackout_ms"]
    print(f"{name} {number}: gap {figures['client_gap_ms']:.1f} ms (noise "
          f"{figures['client_gap_noise_ms']:.1f}), whole {figures['client_gap_whole_ms']:.1f} "
          f"({figures['client_gap_whole_noise_ms']:.1f}), blackout "
          f"{'not told' if blackout is None else f'{blackout:.1f} ms'}, total "
          f"{figures['total_ms']:.0f} ms, stolen {figures['stolen_ms']:.0f} ms", flush=True)


def results_of(runs: list[dict]) -> dict:
    """The runs and what they come to; of those that failed only what clients met counts."""
    good = moved(runs)
    return {"runs": runs, "summary": summary_of(good, FIGURES),
            "blackout_phases_ms": median_phases(good), "failed_moves": len(runs) - len(good),
            **{name: sum(run.get(name, 0) for run in runs)
               for name in (*ERRORS, "tcp_timeouts")}}


def measure(options) -> dict:
    """Runs the benchmark; the result as it goes into the JSON."""
    runs: list[dict] = []
    peer_runs: list[dict] = []
    with Stage() as stage:
        redis = Redis(stage.hosts[0], options.rss_mib)
        redis.fill(stage.clients)
        redis.settle(stage.clients)
        for number in range(1, options.runs + 1):
            runs.append(own_move(stage, redis, options, runs))
            tell("run", number, runs[-1])
            if options.peer:
                peer_runs.append(try_peer_move(stage, options, peer_runs))
                tell("peer", number, peer_runs[-1])
        redis.verify(stage.clients)
        redis.stop(stage.clients)
    result = {"bench": "pause", "service": options.service, "rss_mib": options.rss_mib,
              "clients": options.clients, "rate": options.rate, "write_share": options.write_share,
              **results_of(runs)}
    if options.peer:
        result["peer"] = {"command": options.peer, **results_of(peer_runs)}
    return result


def show(result: dict) -> None:
    """The tables."""
    for title, part in (("", result), ("peer", result.get("peer"))):
        if part is None:
            continue
        if title:
            print(f"\n{title}: {part['command']}")
        show_part(part)


def show_part(part: dict) -> None:
    """The summary, what went wrong, and the phases."""
    print_summary(part["summary"])
    for name in (*ERRORS, "tcp_timeouts", "failed_moves"):
        print(f"{name:<28}{part[name]:>10}")
    if part["blackout_phases_ms"]:
        print_phases(part["blackout_phases_ms"], part["summary"]["blackout_ms"]["median"])


def is_bad(result: dict) -> bool:
    """Whether a move failed, or a client got a wrong answer or lost its connection."""
    return any(result[name] for name in (*ERRORS, "failed_moves"))
