"""What a plot of a move is made of: commands of the clients, and what the mover did meanwhile.

Times are milliseconds from an origin, which is an instant of CLOCK_REALTIME: clients and the agents
of a demonstration have one clock. plot_terminal.py and plot_svg.py draw it.
"""

import bisect
import csv
import math
import pathlib
import statistics
from dataclasses import dataclass
from typing import NamedTuple

NOISE_WINDOW_MS = 500.0  # what client gaps are taken from: 250 ms on each side of the switch


class Command(NamedTuple):
    """One command of a client."""

    client: int
    sent_ms: float
    latency_ms: float

    @property
    def replied_ms(self) -> float:
        """When the reply was there."""
        return self.sent_ms + self.latency_ms


class Column(NamedTuple):
    """The commands of one slice of time; None where there were none."""

    median_ms: float | None
    p99_ms: float | None  # both of those that were sent in it
    longest_ms: float | None  # of those that were under way in it


class Span(NamedTuple):
    """A part of the migration. kind: prepare, round, ready, switch, finish."""

    name: str
    kind: str
    start_ms: float
    end_ms: float

    @property
    def length_ms(self) -> float:
        """How long it took."""
        return self.end_ms - self.start_ms


class Phase(NamedTuple):
    """A part of the blackout. where: source, destination, or both while they talk."""

    name: str
    where: str
    ms: float


@dataclass(frozen=True)
class Story:
    """All that is drawn of one move."""

    title: str
    subtitle: str
    commands: list[Command]  # in the order of sending
    spans: list[Span]  # in order
    phases: list[Phase]  # in order
    blackout_ms: float
    quiet_ms: tuple[float, float]  # without any move, what the noise is taken from
    start_ms: float  # what is drawn
    end_ms: float
    facts: tuple[tuple[str, str], ...]  # (figure, what it is), of what commands do not tell

    @property
    def switch(self) -> Span | None:
        """The blackout; of several the longest."""
        return max((span for span in self.spans if span.kind == "switch"),
                   key=lambda span: span.length_ms, default=None)

    @property
    def longest_ms(self) -> float:
        """The longest wait of any client around the switch."""
        if self.switch is None:
            return longest_ms(self.commands, self.start_ms, self.end_ms)
        margin = NOISE_WINDOW_MS / 2
        return longest_ms(self.commands, self.switch.start_ms - margin, self.switch.end_ms + margin)

    @property
    def noise_ms(self) -> float:
        """The same without any move."""
        return noise_ms(self.commands, *self.quiet_ms, NOISE_WINDOW_MS)


def read_commands(file: pathlib.Path, origin_ns: int) -> list[Command]:
    """The replies that client_redis_load --samples wrote down, in the order of sending."""
    with open(file, newline="", encoding="ascii") as lines:
        rows = csv.reader(lines)
        next(rows, None)
        found = [Command(int(client), (int(sent_ns) - origin_ns) / 1e6, int(latency_ns) / 1e6)
                 for client, sent_ns, latency_ns in rows]
    return sorted(found, key=lambda command: command.sent_ms)


def longest_ms(commands: list[Command], start_ms: float, end_ms: float) -> float:
    """The longest latency of those under way at any time of [start_ms, end_ms]; 0: none was."""
    return max((command.latency_ms for command in commands
                if command.sent_ms <= end_ms and command.replied_ms >= start_ms), default=0.0)


def noise_ms(commands: list[Command], start_ms: float, end_ms: float, window_ms: float) -> float:
    """The longest latency in windows of one length: their median; 0 where no window fits."""
    count = int(max(0.0, end_ms - start_ms) // window_ms)
    inside = between(commands, start_ms, end_ms)
    return statistics.median(
        longest_ms(inside, start_ms + i * window_ms, start_ms + (i + 1) * window_ms)
        for i in range(count)) if count else 0.0


def between(commands: list[Command], start_ms: float, end_ms: float) -> list[Command]:
    """Those that were sent in [start_ms, end_ms)."""
    def place(at_ms):
        return bisect.bisect_left(commands, at_ms, key=lambda command: command.sent_ms)
    return commands[place(start_ms):place(end_ms)]


def percentile_ms(latencies_ms: list[float], share: float) -> float:
    """The latency that `share` of the commands stay within; 0 where there are none."""
    ordered = sorted(latencies_ms)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else 0.0


def columns_of(commands: list[Command], start_ms: float, end_ms: float, count: int) -> list[Column]:
    """Cuts [start_ms, end_ms] into `count` slices."""
    if count < 1 or end_ms <= start_ms:
        return []
    width = (end_ms - start_ms) / count
    sent: list[list[float]] = [[] for _ in range(count)]
    longest = [-1.0] * count
    for command in commands:
        first = math.floor((command.sent_ms - start_ms) / width)
        last = math.floor((command.replied_ms - start_ms) / width)
        if 0 <= first < count:
            sent[first].append(command.latency_ms)
        for place in range(max(0, first), min(count - 1, last) + 1):
            longest[place] = max(longest[place], command.latency_ms)
    return [Column(percentile_ms(latencies, 0.50) if latencies else None,
                   percentile_ms(latencies, 0.99) if latencies else None,
                   most if most >= 0 else None)
            for latencies, most in zip(sent, longest)]


def waiting_of(commands: list[Command], start_ms: float, end_ms: float, count: int) -> list[float]:
    """How many clients waited for a reply, the mean over each of `count` slices."""
    if count < 1 or end_ms <= start_ms:
        return []
    width = (end_ms - start_ms) / count
    waited_ms = [0.0] * count
    for command in commands:
        first = max(0, math.floor((command.sent_ms - start_ms) / width))
        last = min(count - 1, math.floor((command.replied_ms - start_ms) / width))
        for place in range(first, last + 1):
            left = start_ms + place * width
            waited_ms[place] += max(0.0, min(command.replied_ms, left + width)
                                    - max(command.sent_ms, left))
    return [ms / width for ms in waited_ms]


def spans_of(report: dict, started_ns: int, ended_ns: int, origin_ns: int) -> list[Span]:
    """What the migration did when, from its report; the parts that it does not tell are left out."""
    def at(unix_ns):
        return (unix_ns - origin_ns) / 1e6
    rounds = [entry for entry in report.get("rounds") or [] if entry.get("began_unix_ns")]
    frozen_ns = report.get("frozen_unix_ns") or 0
    copied = rounds[:-1] if frozen_ns else rounds  # the last one runs in the blackout
    found = []
    if copied:
        found.append(Span("prepare", "prepare", at(started_ns), at(copied[0]["began_unix_ns"])))
    for entry in copied:
        begin = at(entry["began_unix_ns"])
        _fill_gap(found, begin)
        found.append(Span(f"round {entry['round']}", "round", begin, begin + entry["ms"]))
    if frozen_ns:
        switch = Span("switch", "switch", at(frozen_ns),
                      at(frozen_ns) + report.get("blackout_ms", 0))
        _fill_gap(found, switch.start_ms)
        found.append(switch)
        if at(ended_ns) > switch.end_ms:
            found.append(Span("finish", "finish", switch.end_ms, at(ended_ns)))
    return found


def _fill_gap(spans: list[Span], until_ms: float) -> None:
    if spans and spans[-1].end_ms < until_ms:
        spans.append(Span("get ready", "ready", spans[-1].end_ms, until_ms))


def merged_rounds(spans: list[Span], least_ms: float) -> list[Span]:
    """Rounds that are too short to be told apart, and what lies between them, as one span."""
    def is_short(span):
        return span.kind in ("round", "ready") and span.length_ms < least_ms
    found: list[Span] = []
    parts: list[Span] = []
    for span in spans:
        if is_short(span):
            parts.append(span)
            continue
        found += _as_one(parts) + [span]
        parts = []
    return found + _as_one(parts)


def _as_one(parts: list[Span]) -> list[Span]:
    rounds = [part.name.removeprefix("round ") for part in parts if part.kind == "round"]
    if not rounds:
        return parts
    name = f"round {rounds[0]}" if len(rounds) == 1 else f"rounds {rounds[0]}-{rounds[-1]}"
    return [Span(name, "round", parts[0].start_ms, parts[-1].end_ms)]


def phases_of(report: dict) -> list[Phase]:
    """The blackout in parts that add up to it.

    `wire` and `commit` are what is left of a wait after what the destination measured. Where the
    destination began before the wait did, nothing is left, and that much is taken from what it did.
    """
    found: list[Phase] = []
    for name, ms in (report.get("blackout_phases_ms") or {}).items():
        if name.startswith("dest_"):
            name = name.removeprefix("dest_").replace("_", " ")
            found.append(Phase(name, "destination", max(0.0, ms)))
            continue
        if ms < 0:
            _take_back(found, -ms)
        found.append(Phase(name, "both" if name in ("wire", "commit") else "source", max(0.0, ms)))
    return [phase for phase in found if phase.ms > 0]


def _take_back(phases: list[Phase], ms: float) -> None:
    for i in reversed(range(len(phases))):
        if phases[i].where == "destination":
            taken = min(phases[i].ms, ms)
            phases[i] = phases[i]._replace(ms=phases[i].ms - taken)
            ms -= taken


def log_range(values_ms: list[float]) -> tuple[float, float]:
    """Limits of a logarithmic axis, from 1, 2 or 5 times a power of ten to another such."""
    known = [value for value in values_ms if value > 0]
    if not known:
        return 0.1, 10.0
    low = max(step for step in _steps() if step <= max(min(known), 0.001))
    high = min(step for step in _steps() if step >= min(max(known), 1e6) * 0.999)
    return low, max(high, low * 10)


def log_ticks(low_ms: float, high_ms: float, most: int = 9) -> list[float]:
    """Where such an axis has numbers: at 1, 2 and 5, or where those are too many, at 1."""
    steps = [step for step in _steps() if low_ms * 0.999 <= step <= high_ms * 1.001]
    if len(steps) <= most:
        return steps
    return [step for step in steps if math.isclose(math.log10(step), round(math.log10(step)))]


def linear_ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers within [low, high], at most `most`."""
    if not high > low or most < 1:
        return []
    step = next(step for step in _steps() if (high - low) / step < most)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 9) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _steps() -> list[float]:
    return [digit * 10.0 ** exponent for exponent in range(-4, 8) for digit in (1, 2, 5)]


def tick_text(ms: float) -> str:
    """A latency in seven characters at most, as it is said beside an axis."""
    unit, name = (1000, "s") if ms >= 1000 else (1, "ms") if ms >= 0.01 else (0.001, "us")
    return f"{number_text(ms / unit)} {name}"


def number_text(value: float) -> str:
    """A tick's number without zeros that say nothing."""
    return f"{value:.6f}".rstrip("0").rstrip(".") if value else "0"
