"""A move as text: latency over time, who waits at the switch, and the blackout by phase.

Block characters and colours where they can be shown; else ASCII, in the same places.
"""

import math
import os
from typing import NamedTuple

from .plot import (Column, Phase, Story, columns_of, linear_ticks, log_range, log_ticks,
                   merged_rounds, number_text, tick_text, waiting_of)

PLAIN_WIDTH = 80
WIDTHS = (40, 120)  # the narrowest and the widest picture
AXIS_WIDTH = 9
ROWS = 12
WAITING_ROWS = 5


class Glyphs(NamedTuple):
    """What is drawn with."""

    fills: str  # from an empty cell to a full one
    whisker: str
    whisker_end: str
    tick: str
    corner: str
    rule: str
    rule_tick: str
    switch: str


BLOCKS = Glyphs(" ▁▂▃▄▅▆▇█", "│", "╷", "┤", "└", "─", "┴", "▲")
ASCII = Glyphs(" ##", "|", ".", "+", "+", "-", "+", "^")
COLOURS = {"": "", "prepare": "2", "finish": "2", "round": "34", "ready": "34", "switch": "1;31",
           "source": "34", "destination": "33", "both": "2", "head": "1", "note": "2"}


class Style(NamedTuple):
    """What the terminal can show."""

    width: int = PLAIN_WIDTH
    blocks: bool = False
    colours: bool = False

    @property
    def glyphs(self) -> Glyphs:
        """Block characters or ASCII."""
        return BLOCKS if self.blocks else ASCII

    def paint(self, words: str, kind: str) -> str:
        """Words in the colour of a kind."""
        code = COLOURS[kind]
        return f"\x1b[{code}m{words}\x1b[0m" if self.colours and code and words.strip() else words


def style_of(stream, environment: dict) -> Style:
    """How to draw on `stream`: no colours and 80 columns where it is no terminal, no colours where
    NO_COLOR is set, ASCII where the locale is not UTF-8 (locale(7))."""
    locale = next((environment[name] for name in ("LC_ALL", "LC_CTYPE", "LANG")
                   if environment.get(name)), "C")
    blocks = locale.lower().replace("-", "").endswith("utf8")
    if not stream.isatty():
        return Style(PLAIN_WIDTH, blocks, False)
    try:
        columns = os.get_terminal_size(stream.fileno()).columns
    except OSError:
        columns = 0
    width = min(max(columns or PLAIN_WIDTH, WIDTHS[0]), WIDTHS[1])
    colours = not environment.get("NO_COLOR") and environment.get("TERM", "dumb") != "dumb"
    return Style(width, blocks, colours)


def heading(words: str, style: Style) -> str:
    """A title; what follows its comma only where there is room."""
    return style.paint(words if len(words) <= style.width else words.partition(",")[0], "head")


def cells_of(column: Column, height, rows: int, glyphs: Glyphs) -> str:
    """One column from the bottom up: filled up to the median, then a line up to the longest.
    `height` gives the place of a latency between 0 and 1."""
    steps = len(glyphs.fills) - 1
    body = 0
    if column.median_ms is not None:
        body = max(1, round(height(column.median_ms) * rows * steps))
    full, part = divmod(body, steps)
    cells = (glyphs.fills[-1] * full + (glyphs.fills[part] if part else ""))[:rows]
    if column.longest_ms is not None:
        top = height(column.longest_ms) * rows
        whole = min(rows, math.floor(top))
        cells += glyphs.whisker * (whole - len(cells))
        if top - whole >= 0.25 and len(cells) == whole < rows:
            cells += glyphs.whisker if top - whole >= 0.75 else glyphs.whisker_end
    return cells.ljust(rows)


def kind_at(story: Story, start_ms: float, end_ms: float) -> str:
    """The part of the migration that a slice of time belongs to; the switch before all others."""
    found = [span for span in story.spans if span.start_ms < end_ms and span.end_ms > start_ms]
    if any(span.kind == "switch" for span in found):
        return "switch"
    if not found:
        return ""
    return max(found, key=lambda span: min(span.end_ms, end_ms) - max(span.start_ms, start_ms)).kind


def panel(columns: list[str], labels: dict[int, str], kinds: list[str], style: Style) -> list[str]:
    """Puts columns (cells from the bottom up) beside an axis; `labels` by row from the bottom."""
    rows = max((len(cells) for cells in columns), default=0)
    lines = []
    for row in reversed(range(rows)):
        line = labels.get(row, "").rjust(AXIS_WIDTH - 2) + " "
        line += style.glyphs.tick if row in labels else style.glyphs.whisker
        run, run_kind = "", ""
        for cells, kind in zip(columns, kinds):
            if kind != run_kind:
                line += style.paint(run, run_kind)
                run, run_kind = "", kind
            run += cells[row]
        lines.append((line + style.paint(run, run_kind)).rstrip())
    return lines


def time_lines(start: float, end: float, unit: str, count: int, style: Style) -> list[str]:
    """The axis below `count` columns, and its numbers."""
    rule = [style.glyphs.rule] * count
    numbers = [" "] * (count + 4)
    free = 0
    for value in linear_ticks(start, end, max(2, count // 9)):
        place = min(count - 1, int((value - start) / (end - start) * count))
        words = f"{number_text(value)} {unit}"
        first = max(0, place - len(number_text(value)) // 2)
        rule[place] = style.glyphs.rule_tick
        if first >= free and first + len(words) <= count:
            numbers[first:first + len(words)] = words
            free = first + len(words) + 1
    margin = " " * (AXIS_WIDTH - 1)
    return [margin + style.glyphs.corner + "".join(rule),
            style.paint((margin + " " + "".join(numbers)).rstrip(), "note")]


def ruler(story: Story, count: int, style: Style) -> list[str]:
    """The parts of the migration by name, and below them where the switch is."""
    per_column = (story.end_ms - story.start_ms) / count
    if per_column <= 0:
        return []

    def place(at_ms):
        return min(count, max(0, round((at_ms - story.start_ms) / per_column)))
    line, at = "", 0
    for span in merged_rounds(story.spans, 10 * per_column):
        first, last = place(span.start_ms), place(span.end_ms)
        if span.kind == "switch" or last - first < 2 or first < at:
            continue
        name = f" {span.name} " if len(span.name) + 4 <= last - first else ""
        line += " " * (first - at) + style.paint(name.center(last - first - 1, style.glyphs.rule),
                                                 span.kind) + " "
        at = last
    lines = [" " * AXIS_WIDTH + line.rstrip()]
    if story.switch:
        here = min(count - 1, int((story.switch.start_ms - story.start_ms) / per_column))
        words = f"switch: blackout {story.blackout_ms:.1f} ms"
        told = (f"{words} {style.glyphs.switch}" if here > count - len(words) - 2
                else f"{style.glyphs.switch} {words}")
        start = here - len(words) - 1 if told.startswith(words) else here
        lines.append(" " * (AXIS_WIDTH + max(0, start)) + style.paint(told, "switch"))
    return lines


def latency_lines(story: Story, style: Style) -> list[str]:
    """Latency over the whole time, on a logarithmic axis."""
    count = style.width - AXIS_WIDTH - 1
    columns = columns_of(story.commands, story.start_ms, story.end_ms, count)
    low, high = log_range([value for column in columns
                           for value in (column.median_ms, column.longest_ms) if value])

    def height(ms):
        return math.log(min(max(ms, low), high) / low) / math.log(high / low)
    labels = {min(ROWS - 1, round(height(tick) * ROWS)): tick_text(tick)
              for tick in log_ticks(low, high, ROWS // 2 + 1)}
    width = (story.end_ms - story.start_ms) / max(1, count)
    kinds = [kind_at(story, story.start_ms + i * width, story.start_ms + (i + 1) * width)
             for i in range(len(columns))]
    cells = [cells_of(column, height, ROWS, style.glyphs) for column in columns]
    key = f"{style.glyphs.fills[-1]} median  {style.glyphs.whisker} longest"
    return [heading("latency of every command, by when it was sent", style)
            + (f"   {key}" if style.width >= PLAIN_WIDTH - 12 else ""),
            *panel(cells, labels, kinds, style),
            *time_lines(story.start_ms / 1000, story.end_ms / 1000, "s", count, style),
            *ruler(story, count, style)]


def waiting_lines(story: Story, style: Style) -> list[str]:
    """How many clients wait for a reply around the switch."""
    switch = story.switch
    if switch is None or switch.length_ms <= 0:
        return []
    count = style.width - AXIS_WIDTH - 1
    start, end = switch.start_ms - 0.75 * switch.length_ms, switch.end_ms + 1.75 * switch.length_ms
    waiting = waiting_of(story.commands, start, end, count)
    most = len({command.client for command in story.commands})
    if not most:
        return []
    columns = [cells_of(Column(clients or None, None, None), lambda clients: clients / most,
                        WAITING_ROWS, style.glyphs) for clients in waiting]
    width = (end - start) / count
    kinds = ["switch" if switch.start_ms < start + (i + 1) * width and switch.end_ms > start + i * width
             else "" for i in range(count)]
    return ["", heading("clients that wait for a reply, around the switch", style),
            *panel(columns, {WAITING_ROWS - 1: f"all {most}", 0: "none"}, kinds, style),
            *time_lines(start - switch.start_ms, end - switch.start_ms, "ms", count, style),
            bracket(f"blackout {switch.length_ms:.1f} ms", int((switch.start_ms - start) / width),
                    int((switch.end_ms - start) / width), style)]


def bracket(words: str, first: int, last: int, style: Style) -> str:
    """Words below the columns from `first` to `last`."""
    drawn = f" {words} ".center(last - first + 1, style.glyphs.rule)
    return " " * (AXIS_WIDTH + first) + style.paint(drawn, "switch")


def phase_lines(phases: list[Phase], style: Style) -> list[str]:
    """The blackout as a stair: each phase begins where the one before ended."""
    total = sum(phase.ms for phase in phases)
    if total <= 0:
        return []
    room = style.width - 34
    lines, before, rest = [], 0.0, []
    for phase in phases:
        begin = before / total * room
        before += phase.ms
        if phase.ms < 0.01 * total:
            rest.append(phase)
            continue
        first = int(begin)
        bar = style.glyphs.fills[-1] * max(1, round(before / total * room) - first)
        lines.append(f"{phase.name:<12} {phase.where:<11} {phase.ms:5.2f} ms "
                     + " " * first + style.paint(bar, phase.where))
    if rest:
        lines.append(f"{len(rest)} more together".ljust(24)
                     + f"{sum(phase.ms for phase in rest):6.2f} ms")
    return ["", heading(f"the blackout by phase, {total:.1f} ms", style), *lines]


def terminal_lines(story: Story, style: Style) -> list[str]:
    """The whole picture, line by line."""
    return [*latency_lines(story, style), *waiting_lines(story, style),
            *phase_lines(story.phases, style)]
