"""The demonstration behind deploy/kernel-upgrade-demo: a host boots into a newer kernel while clients of
its redis work, and none of them notices.

Usage: deploy/kernel-upgrade-demo [--mib 16] [--clients 8] [--rate 200] [--svg FILE]
"""

import argparse
import os
import pathlib
import signal
import sys
import time

if __package__ in (None, ""):  # run as a program
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from harness.demo import at_least_one, interrupted, say, shown  # noqa: E402
from harness.plot import Span, Story, between, longest_ms, percentile_ms, phases_of  # noqa: E402
from harness.plot import read_commands, spans_of  # noqa: E402
from harness.plot_svg import svg_of  # noqa: E402
from harness.plot_terminal import style_of, terminal_lines  # noqa: E402
from harness.programs import ROOT  # noqa: E402
from vm.image import get_image  # noqa: E402
from vm.kernels import KERNELS, get_kernel  # noqa: E402
from vm.machine import MachineFailed  # noqa: E402
from vm.pair import Pair  # noqa: E402
from vm.upgrade import Drained, Upgrade  # noqa: E402

QUIET_S = 4.0  # shown, and what the noise is taken from
AFTER_S = 2.0
SHOWN_AFTER_MS = 1500.0


def spans_between(upgrade: Upgrade, origin_ns: int) -> list[Span]:
    """Both moves of the redis, and the reboot between them."""
    def moved(drained: Drained, name: str) -> list[Span]:
        run = drained.runs["cache"]
        spans = spans_of(run.report, run.started_ns, run.ended_ns, origin_ns)
        return [span._replace(name=name) if span.kind == "prepare" else span for span in spans]
    booting = [(at_ns - origin_ns) / 1e6 for at_ns in upgrade.booted_ns]
    return [*moved(upgrade.away, "away"), Span("reboot", "finish", *booting),
            *moved(upgrade.back, "back")]


def story_of(options, upgrade: Upgrade, load: dict, samples: pathlib.Path) -> Story:
    """What the plots show: 0 s is the beginning of the drain."""
    origin_ns = upgrade.away.started_ns
    longest = max((upgrade.away, upgrade.back),
                  key=lambda drained: drained.runs["cache"].report["blackout_ms"]).runs["cache"].report
    errors = sum(load[name] for name in
                 ("failed_commands", "wrong_replies", "counter_errors", "reconnects"))
    booted_s = (upgrade.booted_ns[1] - upgrade.booted_ns[0]) / 1e9
    return Story(
        title=f"A host boots from Linux {options.old_kernel} into {options.new_kernel}; its redis goes "
              "away and comes back",
        subtitle=f"{options.rate:,} commands a second of {options.clients} clients, and one client that "
                 f"makes no pauses. Machines are emulated, {upgrade.slowness:.0f} times as slow as "
                 "real ones.",
        commands=read_commands(samples, origin_ns),
        spans=spans_between(upgrade, origin_ns), phases=phases_of(longest),
        blackout_ms=longest["blackout_ms"], quiet_ms=(-1000 * QUIET_S, 0.0),
        start_ms=-1000 * QUIET_S,
        end_ms=(upgrade.back.ended_ns - origin_ns) / 1e6 + SHOWN_AFTER_MS,
        facts=((f"{errors}", "commands failed or wrong, connections lost"),
               (f"{booted_s:.0f} s", "the reboot, with the service elsewhere")))


def figures(story: Story, upgrade: Upgrade, load: dict, options) -> list[str]:
    """What the clients noticed, in lines."""
    quiet = [command.latency_ms for command in between(story.commands, *story.quiet_ms)]
    gap_ms = upgrade.switch_gap_ms(load)
    rows = []
    for name, drained in (("away", upgrade.away), ("back", upgrade.back)):
        for workload, run in drained.runs.items():
            rows.append((f"blackout of {workload}, {name}", f"{run.report['blackout_ms']:.0f} ms"))
    rows += [("longest wait of a client, at a switch",
              f"{gap_ms:.0f} ms, {gap_ms / upgrade.slowness:.1f} ms at full speed"),
             ("the same without a move (noise)", f"{story.noise_ms:.0f} ms"),
             ("longest wait over all of it",
              f"{longest_ms(story.commands, 0.0, story.end_ms):.0f} ms"),
             ("99 % of the commands before", f"{percentile_ms(quiet, 0.99):.0f} ms"),
             ("the emulator", f"{upgrade.slowness:.0f} times as slow as this machine"),
             ("commands", f"{load['ops']:,}; {load['failed_commands']} failed, "
              f"{load['wrong_replies']} wrong replies, {load['counter_errors']} counters off"),
             ("connections", f"{options.clients + 1}; {load['reconnects']} lost")]
    return [f"  {name:<42}{value}" for name, value in rows]


def show(drained: Drained, command: str) -> None:
    """What `migrate drain` said."""
    say(f"\n{command}")
    for line in drained.said.splitlines():
        say(f"  {line}")


def demonstrate(options, pair: Pair) -> int:
    """Loads, drains, reboots, brings back, and tells; the exit code."""
    get_image(get_kernel(options.new_kernel))  # made before anybody waits for it
    samples = pair.folder / "samples.csv"
    upgrade = Upgrade(pair, options.mib, samples, options.clients, options.rate)
    try:
        say(f"host a: Linux {pair.kernels['a'].release}, with a redis ({options.mib} MiB of random "
            f"values) and a python program; host b: Linux {pair.kernels['b'].release}; {options.clients + 1} clients outside")
        time.sleep(QUIET_S)
        show(upgrade.drain(), f"a$ migrate drain --to {pair.b.address}")
        say("\na$ reboot")
        upgrade.reboot(options.new_kernel)
        say(f"  host a runs {pair.a.machine.run('uname', '-r').said.strip()}")
        show(upgrade.drain_back(), "b$ migrate drain --return")
        time.sleep(AFTER_S)
    except BaseException:
        upgrade.load.stop()
        raise
    load = upgrade.finish()
    story = story_of(options, upgrade, load, samples)
    say("\n" + "\n".join(terminal_lines(story, style_of(sys.stdout, dict(os.environ)))))
    say("\nwhat the clients noticed")
    say("\n".join(figures(story, upgrade, load, options)))
    say(f"  {'values read back, the python program':<42}right")
    options.svg.parent.mkdir(parents=True, exist_ok=True)
    options.svg.write_text(svg_of(story), encoding="utf-8")
    say(f"  {'the same as a picture':<42}{shown(options.svg)}")
    return 0


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="deploy/kernel-upgrade-demo", description="A virtual machine with clients at its redis is "
        "drained, boots into another kernel and gets its workloads back; a plot shows what the clients "
        "noticed. Machines are emulated: it takes some minutes.",
        epilog="example: deploy/kernel-upgrade-demo --svg upgrade.svg")
    parser.add_argument("--old-kernel", choices=KERNELS, default="6.1",
                        help="of both machines (default: %(default)s)")
    parser.add_argument("--new-kernel", choices=KERNELS, default="6.12",
                        help="what the first boots into (default: %(default)s)")
    parser.add_argument("--mib", type=at_least_one, default=16, metavar="N",
                        help="random values in redis (default: %(default)s)")
    parser.add_argument("--clients", type=at_least_one, default=8, metavar="N",
                        help="that share the rate; one more makes no pauses (default: %(default)s)")
    parser.add_argument("--rate", type=at_least_one, default=200, metavar="N",
                        help="commands a second of all of them (default: %(default)s)")
    parser.add_argument("--svg", type=pathlib.Path, default=ROOT / "build" / "kernel-upgrade.svg",
                        metavar="FILE",
                        help="where the picture goes (default: build/kernel-upgrade.svg)")
    parser.add_argument("--only-parse", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    """Boots the machines and takes them away again, however it ends."""
    options = parse()
    if options.only_parse:  # before the build, which takes longer
        return 0
    signal.signal(signal.SIGINT, interrupted)
    try:
        with Pair(options.old_kernel, options.old_kernel) as pair:
            return demonstrate(options, pair)
    except KeyboardInterrupt:
        print("\nkernel-upgrade-demo: interrupted; nothing is left", file=sys.stderr)
        return 130
    except (AssertionError, MachineFailed, OSError, RuntimeError, ValueError) as error:
        print(f"kernel-upgrade-demo: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
