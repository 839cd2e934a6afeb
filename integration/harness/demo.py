"""The demonstration behind deploy/demo: a redis moves there and back while clients work.

Usage: demo.py [--rss-mib 256] [--clients 50] [--rate 10000]
"""

import argparse
import pathlib
import sys
import tempfile
import time

if __package__ in (None, ""):  # run as a program
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from harness import Baseline, Host, Keys, Network, Redis, RedisLoad, TcpCounters  # noqa: E402
from harness.redis import largest_ms  # noqa: E402


def show_phases(report: dict) -> None:
    """One line for each part of the blackout, the longest bar for the longest part."""
    phases = report.get("blackout_phases_ms") or {}
    longest = max(phases.values(), default=0) or 1
    for name, ms in phases.items():
        print(f"    {name:<24} {ms:7.2f} ms  {'#' * max(1, round(30 * ms / longest))}")


def move(redis: Redis, source: Host, to: Host):
    """One move, with what the report says about it."""
    print(f"\nhost {source.part} -> host {to.part}: migrate --pid {redis.pid} "
          f"--to {to.agent.address} --addresses move")
    run = source.migrate(redis.pid, to, "--addresses", "move")
    for line in run.said.splitlines():
        print(f"  {line}")
    if run.code != 0:
        sys.exit(f"the move failed with exit code {run.code}:\n{to.agent.log_tail()}")
    redis.follow(to, run)
    report = run.report
    print(f"  pid {report['pid_source']} is now pid {report['pid_destination']}; "
          f"{report['bytes_sent'] / 1e6:.0f} MB in {len(report['rounds'])} rounds, "
          f"{report['total_ms']:.0f} ms in all, blackout {report['blackout_ms']:.1f} ms:")
    show_phases(report)
    return run


def show_clients(load: dict, runs: list, quiet_ns: tuple[int, int], counters: dict) -> None:
    """What the clients saw."""
    print("\nthe clients:")
    print(f"  {load['ops']} commands, {load['ops_per_s']} a second; failed {load['failed_commands']}, "
          f"wrong replies {load['wrong_replies']}, counters off {load['counter_errors']}, "
          f"reconnects {load['reconnects']}, TCP timeouts {counters['TcpExt.TCPTimeouts']}")
    for number, run in enumerate(runs, 1):
        print(f"  move {number}: longest silence around the switch "
              f"{largest_ms(load, *run.switch_window_ns()):.1f} ms, over the whole move "
              f"{largest_ms(load, run.started_ns, run.ended_ns):.1f} ms")
    print(f"  without any move: {largest_ms(load, *quiet_ns):.1f} ms")


def main() -> int:
    """Sets the stage, moves there and back, and says whether anybody noticed."""
    parser = argparse.ArgumentParser(description="Move a redis with clients attached.")
    parser.add_argument("--rss-mib", type=int, default=256, help="random values in redis")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--rate", type=int, default=10000, help="commands a second of all clients")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="godwit-demo-") as folder, Network() as network:
        keys = Keys(pathlib.Path(folder) / "keys")
        a, b = (Host(network, part, keys, pathlib.Path(folder)) for part in "ab")
        clients = Host(network, "c", None, pathlib.Path(folder))
        a.start_agent()
        b.start_agent()
        baseline = Baseline(network, [a, b])
        redis = Redis(a, options.rss_mib)
        filled = redis.fill(clients)
        print(f"host a: redis with {filled['keys']} random values, {options.rss_mib} MiB; "
              f"host b: dest-agent at {b.agent.address}; {options.clients} clients elsewhere")
        counters = TcpCounters(network, "c")
        load = RedisLoad(clients, clients_count=options.clients, rate=options.rate)
        started_ns = time.time_ns()
        time.sleep(2)
        quiet_ns = (started_ns, time.time_ns())
        runs = [move(redis, a, b)]
        time.sleep(1)
        runs.append(move(redis, b, a))
        time.sleep(1)
        report = load.stop()
        delta = counters.delta()
        show_clients(report, runs, quiet_ns, delta)
        checked = redis.verify(clients)
        print(f"  {checked['keys']} values read back, {checked['wrong'] + checked['missing']} wrong")
        redis.stop(clients)
        left = baseline.problems(service_on="a")
        print(f"left behind on the hosts: {left or 'nothing'}")
        noticed = sum(report[name] for name in ("failed_commands", "wrong_replies",
                                                "counter_errors", "reconnects"))
        return 1 if noticed or delta["TcpExt.TCPTimeouts"] or left else 0


if __name__ == "__main__":
    sys.exit(main())
