"""The demonstration behind deploy/demo: a redis moves to another host while clients work.

Usage: deploy/demo [--mib 512] [--clients 50] [--rate 10000] [--svg FILE]
"""

import argparse
import os
import pathlib
import signal
import sys
import time

if __package__ in (None, ""):  # run as a program
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from harness import Baseline, Redis, RedisLoad, Run, TcpCounters, touch_and_release  # noqa: E402
from harness.bench_stage import Stage  # noqa: E402
from harness.plot import Story, longest_ms, percentile_ms, phases_of, read_commands  # noqa: E402
from harness.plot import between, spans_of  # noqa: E402
from harness.plot_svg import svg_of  # noqa: E402
from harness.plot_terminal import style_of, terminal_lines  # noqa: E402
from harness.programs import ROOT  # noqa: E402

WARM_UP_S = 1.5
QUIET_S = 2.0  # shown, and what the noise is taken from
AFTER_S = 1.0
SHOWN_AFTER_MS = 700.0
ERRORS = ("failed_commands", "wrong_replies", "counter_errors", "reconnects")


class Moved:
    """What came of the move: the run of `migrate`, the clients' report, their commands."""

    def __init__(self, options, run: Run, load: dict, timeouts: int, samples: pathlib.Path):
        self.options = options
        self.run = run
        self.report = run.report
        self.load = load
        self.timeouts = timeouts
        self.commands = read_commands(samples, run.started_ns)

    @property
    def errors(self) -> int:
        """Everything that a client could complain about."""
        return sum(self.load[name] for name in ERRORS) + self.timeouts

    def story(self) -> Story:
        """What the plots show."""
        options, report = self.options, self.report
        end_ms = (self.run.ended_ns - self.run.started_ns) / 1e6
        return Story(
            title=f"A redis of {options.mib} MiB moves to another host, "
                  f"{options.clients + 1} clients attached",
            subtitle=f"{options.rate:,} commands a second of {options.clients} clients, and one client "
                     "that makes no pauses; a quarter are writes; every reply is checked.",
            commands=self.commands, phases=phases_of(report), blackout_ms=report["blackout_ms"],
            spans=spans_of(report, self.run.started_ns, self.run.ended_ns, self.run.started_ns),
            quiet_ms=(-1000 * QUIET_S, 0.0), start_ms=-1000 * QUIET_S, end_ms=end_ms + SHOWN_AFTER_MS,
            facts=((f"{self.errors}", "commands failed or wrong, connections lost"),
                   (f"{report['total_ms'] / 1000:.1f} s",
                    f"the whole move: {report['bytes_sent'] / 1e6:.0f} MB in "
                    f"{len(report['rounds'])} rounds")))

    def figures(self, story: Story) -> list[str]:
        """What the clients noticed, in lines."""
        quiet = [command.latency_ms for command in between(self.commands, *story.quiet_ms)]
        end_ms = (self.run.ended_ns - self.run.started_ns) / 1e6
        moving = [command.latency_ms for command in between(self.commands, 0.0, end_ms)]
        load = self.load
        rows = [("blackout", f"{story.blackout_ms:.1f} ms"),
                ("longest wait of a client, at the switch", f"{story.longest_ms:.1f} ms"),
                ("the same without a move (noise)", f"{story.noise_ms:.1f} ms"),
                ("longest wait over the whole move",
                 f"{longest_ms(self.commands, 0.0, end_ms):.1f} ms"),
                ("99 % of the commands, before and during",
                 f"{percentile_ms(quiet, 0.99):.1f} ms, {percentile_ms(moving, 0.99):.1f} ms"),
                ("commands", f"{load['ops']:,}; {load['failed_commands']} failed, "
                 f"{load['wrong_replies']} wrong replies, {load['counter_errors']} counters off"),
                ("connections", f"{self.options.clients + 1}; {load['reconnects']} lost, "
                 f"{self.timeouts} TCP timeouts")]
        return [f"  {name:<42}{value}" for name, value in rows]


def say(words: str) -> None:
    """At once, also into a file."""
    print(words, flush=True)


def shown(file: pathlib.Path) -> str:
    """A path as short as it can be from here."""
    full, here = file.resolve(), pathlib.Path.cwd()
    return str(full.relative_to(here) if full.is_relative_to(here) else full)


def move(redis: Redis, stage: Stage) -> Run:
    """One move to the other host. When this program is ended, it is cancelled first."""
    source, to = redis.host, stage.other(redis.host)
    say(f"\n$ migrate --pid {redis.pid} --to {to.agent.address} --addresses move")
    on_terminal = sys.stdout.isatty()
    migration = source.start_migrate(redis.pid, to, "--addresses", "move", terminal=on_terminal)
    try:
        run = migration.wait()
    except BaseException:
        migration.cancel()
        raise
    for line in run.said.splitlines():
        say(f"  {line}")
    if run.code != 0:
        log = to.agent.log_tail()
        raise RuntimeError(f"migrate ended with {run.code}"
                           + (f"; the end of the agent's log:\n{log}" if log else ""))
    redis.follow(to, run)
    return run


def demonstrate(options, stage: Stage) -> int:
    """Fills, loads, moves, and tells; the exit code."""
    host = stage.hosts[0]
    redis = Redis(host, options.mib)
    stage.callback(redis.kill)
    baseline = Baseline(stage.network, stage.hosts)
    filled = redis.fill(stage.clients)
    redis.settle(stage.clients)
    touch_and_release(options.mib + 64)
    say(f"host {host.part}: redis with {filled['keys']:,} random values, {options.mib} MiB; host "
        f"{stage.other(host).part}: dest-agent; {options.clients + 1} clients on a third")
    samples = stage.folder / "samples.csv"
    counters = TcpCounters(stage.network, stage.clients.part)
    load = RedisLoad(stage.clients, clients_count=options.clients, rate=options.rate,
                     samples=samples)
    time.sleep(WARM_UP_S + QUIET_S)
    run = move(redis, stage)
    time.sleep(AFTER_S)
    report = load.stop()
    moved = Moved(options, run, report, counters.delta()["TcpExt.TCPTimeouts"], samples)
    story = moved.story()
    say("\n" + "\n".join(terminal_lines(story, style_of(sys.stdout, dict(os.environ)))))
    say("\nwhat the clients noticed")
    say("\n".join(moved.figures(story)))
    checked = redis.verify(stage.clients)
    wrong = checked["wrong"] + checked["missing"]
    say(f"  {'values read back':<42}{checked['keys']:,}; {wrong} wrong")
    redis.stop(stage.clients)
    left = baseline.problems(service_on=redis.host.part)
    say(f"  {'left behind on the hosts':<42}{'; '.join(left) or 'nothing'}")
    options.svg.parent.mkdir(parents=True, exist_ok=True)
    options.svg.write_text(svg_of(story), encoding="utf-8")
    say(f"  {'the same as a picture':<42}{shown(options.svg)}")
    return 1 if moved.errors or wrong or left else 0


def at_least_one(text: str) -> int:
    """A count or size on the command line."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number from 1")
    return int(text)


def interrupted(_number, _frame) -> None:
    """The first Ctrl-C ends it, further ones don't disturb the cleaning up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


def main() -> int:
    """Reads the command line, sets the stage and takes it away again, however it ends."""
    parser = argparse.ArgumentParser(
        prog="deploy/demo", description="A redis with clients attached moves between two hosts made "
        "of network namespaces; a plot shows what the clients noticed.",
        epilog="example: deploy/demo --mib 1024 --svg move.svg")
    parser.add_argument("--mib", type=at_least_one, default=512, metavar="N",
                        help="random values in redis (default: %(default)s)")
    parser.add_argument("--clients", type=at_least_one, default=50, metavar="N",
                        help="that share the rate; one more makes no pauses (default: %(default)s)")
    parser.add_argument("--rate", type=at_least_one, default=10000, metavar="N",
                        help="commands a second of all of them (default: %(default)s)")
    parser.add_argument("--svg", type=pathlib.Path, default=ROOT / "build" / "demo.svg",
                        metavar="FILE", help="where the picture goes (default: build/demo.svg)")
    parser.add_argument("--only-parse", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only_parse:  # before the build, which takes longer
        return 0
    signal.signal(signal.SIGINT, interrupted)
    try:
        with Stage() as stage:
            return demonstrate(options, stage)
    except KeyboardInterrupt:
        print("\ndemo: interrupted; nothing is left", file=sys.stderr)
        return 130
    except (AssertionError, OSError, RuntimeError, ValueError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
