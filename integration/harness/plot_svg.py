"""A move as an SVG picture: latency over time, the switch enlarged, and the blackout by phase.

The picture needs nothing but a viewer: no fonts, no scripts. It has its own background, so that it
can be read on any page, and a dark one for those who prefer that (prefers-color-scheme).
"""

import math
from typing import NamedTuple
from xml.sax.saxutils import escape

from .plot import (Column, Phase, Span, Story, columns_of, linear_ticks, log_range, log_ticks,
                   merged_rounds, number_text, tick_text)

WIDTH = 960
HEIGHT = 920
LEFT = 76
RIGHT = WIDTH - 32
COLUMN_PX = 2  # of the upper panel
ENLARGED = 2.5  # blackouts that the middle panel shows beside the blackout itself
CHARACTER_PX = 6.3  # mean width of a character of 11 px

STYLE = """
  .card { fill: #ffffff; stroke: #d7dce3; }
  text { font: 11px system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
         fill: #4a5568; }
  .title { font-size: 20px; font-weight: 600; fill: #10182b; }
  .head { font-size: 13px; font-weight: 600; fill: #10182b; }
  .figure { font-size: 22px; font-weight: 600; fill: #10182b; }
  .hot { fill: #c8372d; } .note { fill: #77839a; } .strong { fill: #10182b; }
  .onbar { fill: #ffffff; font-weight: 600; }
  .tile { fill: #f5f7fa; }
  .grid { stroke: #e4e8ee; stroke-width: 1; }
  .axis { stroke: #9aa5b8; stroke-width: 1; }
  .leader { stroke: #9aa5b8; stroke-width: 1; fill: none; }
  .funnel { fill: #c8372d; fill-opacity: .07; }
  .prepare, .finish { fill: #77839a; fill-opacity: .10; }
  .round, .ready { fill: #2f6fde; fill-opacity: .10; }
  .round.odd, .ready { fill-opacity: .16; }
  .strip { fill-opacity: .55; } .strip.odd, .strip.ready { fill-opacity: .85; }
  .switch { fill: #c8372d; fill-opacity: .22; } .strip.switch { fill-opacity: 1; }
  .longest { fill: #a9c3f0; } .p99 { fill: #4d80d8; }
  .median { stroke: #143a80; stroke-width: 1.5; fill: none; stroke-linejoin: round; }
  .measure { stroke: #c8372d; stroke-width: 1.2; fill: none; }
  .noise { stroke: #77839a; stroke-width: 1; stroke-dasharray: 5 4; }
  .waits { fill: #4d80d8; } .held { fill: #c8372d; }
  .source { fill: #2f6fde; } .destination { fill: #b5651d; } .both { fill: #77839a; }
  .seam { stroke: #ffffff; stroke-width: 1; }
  @media (prefers-color-scheme: dark) {
    .card { fill: #12161f; stroke: #2c3444; } .seam { stroke: #12161f; }
    text { fill: #aeb8ca; } .title, .head, .figure, .strong { fill: #f0f3f8; }
    .hot { fill: #ff7a6e; } .note { fill: #8692a8; }
    .tile { fill: #1b212d; } .grid { stroke: #262e3c; } .axis, .leader { stroke: #5d6980; }
    .longest { fill: #33538f; } .p99 { fill: #4d80d8; } .median { stroke: #d5e3ff; }
    .held, .switch { fill: #ff7a6e; } .measure { stroke: #ff7a6e; }
    .onbar { fill: #ffffff; }
  }
"""


class Box(NamedTuple):
    """Where a panel draws, and which times its edges are."""

    left: float
    top: float
    right: float
    bottom: float
    start_ms: float
    end_ms: float

    def x(self, at_ms: float) -> float:
        """Clipped to the panel."""
        share = (at_ms - self.start_ms) / ((self.end_ms - self.start_ms) or 1)
        return self.left + min(1.0, max(0.0, share)) * (self.right - self.left)


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    """One line of text."""
    return (f'<text x="{x:.1f}" y="{y:.1f}"' + (f' class="{kind}"' if kind else "") +
            (f' text-anchor="{anchor}"' if anchor != "start" else "") + f">{escape(words)}</text>")


def rectangle(x: float, y: float, width: float, height: float, kind: str, more: str = "") -> str:
    """A filled rectangle."""
    return (f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(0.0, width):.1f}" '
            f'height="{max(0.0, height):.1f}" class="{kind}"{more}/>')


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    """A straight line."""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


def ms_text(ms: float) -> str:
    """A duration as people say it."""
    if ms >= 1000:
        return f"{ms / 1000:.1f} s"
    return f"{ms:.1f} ms" if ms >= 0.95 else f"{ms:.2f} ms"


def width_of(words: str) -> float:
    """About how wide a text of 11 px is."""
    return len(words) * CHARACTER_PX


def spread_out(wanted: list[float], widths: list[float], left: float, right: float) -> list[float]:
    """Left edges for labels that want to be centred at `wanted` (in order), and must not overlap.

    Labels that have no room are an error of the caller: they are pushed beyond `left`.
    """
    edges: list[float] = []
    end = left
    for centre, width in zip(wanted, widths):
        edges.append(max(end, centre - width / 2))
        end = edges[-1] + width
    limit = right
    for i in reversed(range(len(edges))):
        edges[i] = min(edges[i], limit - widths[i])
        limit = edges[i]
    return edges


def range_bars(columns: list[Column], low: str, high: str, box: Box, y) -> str:
    """A path of one bar for each column, from one of its figures to another. The lower one may be
    missing: then there is nothing but the line at the higher one."""
    width = (box.right - box.left) / max(1, len(columns))
    pieces = []
    for place, column in enumerate(columns):
        top = getattr(column, high)
        if top is None:
            continue
        bottom = getattr(column, low)
        height = max(1.0, y(bottom) - y(top)) if bottom is not None else 1.0
        pieces.append(f"M{box.left + place * width:.1f} {y(top):.1f}h{width:.2f}v{height:.1f}"
                      f"h-{width:.2f}z")
    return "".join(pieces)


def ridge(columns: list[Column], field: str, box: Box, y) -> str:
    """A path along a figure of each column."""
    width = (box.right - box.left) / max(1, len(columns))
    pieces = []
    pen_is_down = False
    for place, column in enumerate(columns):
        value = getattr(column, field)
        if value is not None:
            pieces.append(f"{'L' if pen_is_down else 'M'}{box.left + (place + .5) * width:.1f} "
                          f"{y(value):.1f}")
        pen_is_down = value is not None
    return "".join(pieces)


def header(story: Story) -> list[str]:
    """What this is, and the figures."""
    out = [text(32, 46, story.title, "title"), text(32, 68, story.subtitle)]
    tiles = [(ms_text(story.blackout_ms), "blackout: it ran on neither host", "hot"),
             (ms_text(story.longest_ms), "longest wait of any client, at the switch", "hot"),
             (ms_text(story.noise_ms), "longest wait without a move (noise)", ""),
             *((figure, what, "") for figure, what in story.facts)]
    gap = 10
    width = (WIDTH - 64 - gap * (len(tiles) - 1)) / len(tiles)
    for i, (figure, what, kind) in enumerate(tiles):
        x = 32 + i * (width + gap)
        out += [rectangle(x, 84, width, 66, "tile", ' rx="6"'),
                text(x + 12, 113, figure, f"figure {kind}".strip())]
        out += [text(x + 12, 130 + 13 * row, words, "note")
                for row, words in enumerate(wrapped(what, width - 18)[:2])]
    return out


def wrapped(words: str, width: float) -> list[str]:
    """Lines that are not wider than `width`, where words are not."""
    lines: list[str] = []
    for word in words.split():
        if lines and width_of(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def bands(spans: list[Span], box: Box) -> list[str]:
    """The parts of the migration as shades, with their names above where there is room."""
    out = []
    named_until = box.left
    for place, span in enumerate(merged_rounds(spans, 40 * _ms_per_px(box))):
        x, end = box.x(span.start_ms), box.x(span.end_ms)
        kind = f"{span.kind} odd" if place % 2 else span.kind
        out += [rectangle(x, box.top, max(end - x, 1.5), box.bottom - box.top, kind),
                rectangle(x, box.top - 5, max(end - x, 1.5), 5, f"{kind} strip")]
        label = f"{span.name} {ms_text(span.length_ms)}" if span.kind == "round" else span.name
        for words in (label, span.name):
            half = width_of(words) / 2
            centre = (x + end) / 2
            if span.kind != "switch" and end - x > 2 * half - 6 and centre - half >= named_until:
                out.append(text(centre, box.top - 11, words, "note", "middle"))
                named_until = centre + half + 6
                break
    return out


def _ms_per_px(box: Box) -> float:
    return (box.end_ms - box.start_ms) / (box.right - box.left)


def time_axis(box: Box, unit_ms: float, unit: str, most: int) -> list[str]:
    """Ticks and numbers below a panel."""
    out = [line(box.left, box.bottom, box.right, box.bottom, "axis")]
    for value in linear_ticks(box.start_ms / unit_ms, box.end_ms / unit_ms, most):
        x = box.x(value * unit_ms)
        out += [line(x, box.bottom, x, box.bottom + 4, "axis"),
                text(x, box.bottom + 17, f"{number_text(value)} {unit}", "note", "middle")]
    return out


def latency_panel(story: Story, box: Box) -> list[str]:
    """Latency over the whole time, on a logarithmic axis: what is usual and what is not, at once."""
    columns = columns_of(story.commands, box.start_ms, box.end_ms,
                         int((box.right - box.left) / COLUMN_PX))
    low, high = log_range([value for column in columns
                           for value in (column.median_ms, column.longest_ms) if value])

    def y(ms):
        share = math.log(min(max(ms, low), high) / low) / math.log(high / low)
        return box.bottom - share * (box.bottom - box.top)

    out = [text(32, box.top - 48, "Latency of every command, by when it was sent; 0 s: migrate begins",
                "head")]
    out += legend(box)
    out += bands(story.spans, box)
    for tick in log_ticks(low, high, 12):
        out += [line(box.left, y(tick), box.right, y(tick), "grid"),
                text(box.left - 8, y(tick) + 4, tick_text(tick), "note", "end")]
    out += [f'<path class="{kind}" d="{range_bars(columns, "median_ms", field, box, y)}"/>'
            for kind, field in (("longest", "longest_ms"), ("p99", "p99_ms"))]
    out.append(f'<path class="median" d="{ridge(columns, "median_ms", box, y)}"/>')
    if story.noise_ms > 0:
        out.append(line(box.left, y(story.noise_ms), box.right, y(story.noise_ms), "noise"))
        out.append(text(box.left + 6, y(story.noise_ms) - 5,
                        f"noise {ms_text(story.noise_ms)}", "strong"))
    if story.switch:
        x = box.x(story.switch.start_ms)
        words = f"the switch: longest wait {ms_text(story.longest_ms)}"
        half = width_of(words) / 2
        out += [text(min(max(x, box.left + half), box.right - half), box.top - 28, words, "hot",
                     "middle"), line(x, box.top - 24, x, box.top - 5, "measure")]
    return out + time_axis(box, 1000, "s", 12)


def legend(box: Box) -> list[str]:
    """Which colour is which figure."""
    out = []
    x = box.right
    for words, kind in (("longest", "longest"), ("99 %", "p99"), ("median", "median")):
        x -= width_of(words)
        out.append(text(x, box.top - 48, words))
        x -= 20
        if kind == "median":
            out.append(line(x, box.top - 52, x + 14, box.top - 52, kind))
        else:
            out.append(rectangle(x, box.top - 57, 14, 9, kind))
        x -= 14
    return out


def waiting_panel(story: Story, box: Box) -> list[str]:
    """Around the switch: each row is a client, and filled where it waits for a reply."""
    switch = story.switch
    clients = sorted({command.client for command in story.commands})
    if switch is None or not clients:
        return []
    row = (box.bottom - box.top) / len(clients)
    order = {client: place for place, client in enumerate(clients)}
    usual, held = [], []
    for command in story.commands:
        if command.replied_ms < box.start_ms or command.sent_ms > box.end_ms:
            continue
        x = box.x(command.sent_ms)
        top = box.top + order[command.client] * row + row * .15
        width = max(.6, box.x(command.replied_ms) - x)
        path = f"M{x:.1f} {top:.1f}h{width:.1f}v{row * .7:.1f}H{x:.1f}z"
        is_held = command.sent_ms <= switch.end_ms and command.replied_ms >= switch.start_ms
        (held if is_held else usual).append(path)
    out = [text(32, box.top - 30, f"The switch: {len(clients)} clients, one row each, filled while "
                "it waits for a reply; 0 ms: the process stops", "head"),
           *measure(box.x(switch.start_ms), box.x(switch.end_ms), box.top - 9,
                    f"blackout {ms_text(switch.length_ms)}"),
           rectangle(box.x(switch.start_ms), box.top, box.x(switch.end_ms) - box.x(switch.start_ms),
                     box.bottom - box.top, "switch")]
    out += [f'<path class="waits" d="{"".join(usual)}"/>', f'<path class="held" d="{"".join(held)}"/>',
            text(box.left - 8, (box.top + box.bottom) / 2, "clients", "note", "end")]
    shifted = box._replace(start_ms=box.start_ms - switch.start_ms,
                           end_ms=box.end_ms - switch.start_ms)
    return out + time_axis(shifted, 1, "ms", 14)


def measure(left: float, right: float, y: float, words: str) -> list[str]:
    """A dimension: words in the middle of a line with an end on each side."""
    half = width_of(words) / 2 + 6
    middle = (left + right) / 2
    ends = f"M{left:.1f} {y - 5:.1f}v10M{right:.1f} {y - 5:.1f}v10"
    if right - left < 2 * half + 12:
        return [f'<path class="measure" d="{ends}M{left:.1f} {y:.1f}H{right:.1f}"/>',
                text(right + 6, y + 4, words, "hot")]
    return [f'<path class="measure" d="{ends}M{left:.1f} {y:.1f}H{middle - half:.1f}'
            f'M{middle + half:.1f} {y:.1f}H{right:.1f}"/>', text(middle, y + 4, words, "hot", "middle")]


def funnel(x1: float, x2: float, top: float, left: float, right: float, bottom: float) -> str:
    """Says that what is narrow above is enlarged below."""
    return (f'<path class="funnel" d="M{x1:.1f} {top:.1f}H{x2:.1f}L{right:.1f} {bottom:.1f}'
            f'H{left:.1f}z"/>')


def labelled(phases: list[Phase], room: float) -> list[Phase]:
    """As many of the longest ones as have room for a label, in their order."""
    widths = 0.0
    chosen = []
    for phase in sorted(phases, key=lambda phase: -phase.ms):
        widths += label_width(phase)
        if widths > room or phase.ms < 0.02 * sum(other.ms for other in phases):
            break
        chosen.append(phase)
    return [phase for phase in phases if phase in chosen]


def label_width(phase: Phase) -> float:
    """With a little air."""
    return max(width_of(phase.name), width_of(ms_text(phase.ms))) + 12


def phases_panel(story: Story, box: Box) -> list[str]:
    """The blackout as a bar of its phases, with their durations."""
    phases = story.phases
    total = sum(phase.ms for phase in phases)
    if total <= 0:
        return []
    out = [text(32, box.top - 16, f"The blackout by phase: {ms_text(story.blackout_ms)}", "head")]
    x = box.right
    for words, kind in (("both, on the way", "both"), ("destination", "destination"),
                        ("source", "source")):
        x -= width_of(words)
        out += [text(x, box.top - 16, words), rectangle(x - 20, box.top - 25, 14, 9, kind)]
        x -= 34
    scale = (box.right - box.left) / total
    named = labelled(phases, box.right - 32)
    centres: list[float] = []
    x = box.left
    for phase in phases:
        out.append(rectangle(x, box.top, phase.ms * scale, box.bottom - box.top,
                             f"{phase.where} seam"))
        if phase in named:
            centres.append(x + phase.ms * scale / 2)
        if phase.ms * scale > 34:
            out.append(text(x + phase.ms * scale / 2, (box.top + box.bottom) / 2 + 4,
                            f"{100 * phase.ms / total:.0f} %", "onbar", "middle"))
        x += phase.ms * scale
    widths = [label_width(phase) for phase in named]
    edges = spread_out(centres, widths, 32, box.right + 8)
    for phase, centre, edge, width in zip(named, centres, edges, widths):
        middle = edge + width / 2
        out += [f'<path class="leader" d="M{centre:.1f} {box.bottom:.1f}v5L{middle:.1f} '
                f'{box.bottom + 20:.1f}v4"/>',
                text(middle, box.bottom + 36, phase.name, "strong", "middle"),
                text(middle, box.bottom + 50, ms_text(phase.ms), "", "middle")]
    rest = [phase for phase in phases if phase not in named]
    if rest:
        words = (f"{len(rest)} more together {ms_text(sum(phase.ms for phase in rest))}: "
                 + ", ".join(f"{phase.name} {phase.ms:.2f}" for phase in rest))
        out.append(text(32, box.bottom + 76, wrapped(words, box.right - 32)[0], "note"))
    return out


def svg_of(story: Story) -> str:
    """The whole picture."""
    upper = Box(LEFT, 238, RIGHT, 444, story.start_ms, story.end_ms)
    parts = header(story) + latency_panel(story, upper)
    switch = story.switch
    if switch:
        before, after = 0.75 * switch.length_ms, (ENLARGED - 0.75) * switch.length_ms
        middle = Box(LEFT, 536, RIGHT, 712, switch.start_ms - before, switch.end_ms + after)
        lower = Box(LEFT, 794, RIGHT, 826, 0, 1)
        parts += [funnel(upper.x(middle.start_ms), upper.x(middle.end_ms), upper.bottom, LEFT, RIGHT,
                         middle.top)]
        parts += waiting_panel(story, middle)
        if story.phases:
            parts += [funnel(middle.x(switch.start_ms), middle.x(switch.end_ms), middle.bottom,
                             LEFT, RIGHT, lower.top)]
            parts += phases_panel(story, lower)
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
            f'width="{WIDTH}" height="{HEIGHT}" role="img">\n<title>{escape(story.title)}</title>\n'
            f"<style>{STYLE}</style>\n"
            + rectangle(.5, .5, WIDTH - 1, HEIGHT - 1, "card", ' rx="10"') + "\n"
            + "\n".join(parts) + "\n</svg>\n")
