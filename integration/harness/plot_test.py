"""Plots of a move: what they are made of, as text and as a picture, also where there is little."""

import io
import pathlib
import tempfile
import unittest
import xml.etree.ElementTree as ElementTree

from harness import plot
from harness.plot import Column, Command, Phase, Span, Story
from harness.plot_svg import spread_out, svg_of
from harness.plot_terminal import ASCII, BLOCKS, Style, cells_of, style_of, terminal_lines

ORIGIN_NS = 1_700_000_000_000_000_000
REPORT = {
    "frozen_unix_ns": ORIGIN_NS + 300_000_000, "blackout_ms": 8.0,
    "rounds": [{"round": 1, "ms": 100.0, "began_unix_ns": ORIGIN_NS + 100_000_000},
               {"round": 2, "ms": 10.0, "began_unix_ns": ORIGIN_NS + 205_000_000},
               {"round": 3, "ms": 5.0, "began_unix_ns": ORIGIN_NS + 290_000_000},
               {"round": 4, "ms": 1.0, "began_unix_ns": ORIGIN_NS + 300_000_000}],
    "blackout_phases_ms": {"stop": 1.0, "describe": 2.0, "dest_last_pages": 3.5, "dest_state": 0.5,
                           "wire": -0.5, "dest_thaw": 1.0, "commit": 0.5},
}


def steady(start_ms, end_ms, every_ms=5.0, latency_ms=0.5, clients=4):
    """Commands of clients that all wait equally long."""
    count = int((end_ms - start_ms) / every_ms)
    return [Command(client, start_ms + i * every_ms, latency_ms)
            for i in range(count) for client in range(clients)]


def story(**changes):
    """A move with a switch that one client waited for."""
    commands = sorted(steady(-1000, 600) + [Command(0, 299.0, 9.5)],
                      key=lambda command: command.sent_ms)
    values = dict(title="A <moves> & b", subtitle="", commands=commands,
                  spans=plot.spans_of(REPORT, ORIGIN_NS, ORIGIN_NS + 400_000_000, ORIGIN_NS),
                  phases=plot.phases_of(REPORT), blackout_ms=8.0, quiet_ms=(-1000.0, 0.0),
                  start_ms=-500.0, end_ms=600.0, facts=(("0", "failed"),))
    return Story(**(values | changes))


DEGENERATE = {
    "nothing at all": dict(commands=[], spans=[], phases=[], blackout_ms=0.0, facts=(),
                           start_ms=0.0, end_ms=0.0, quiet_ms=(0.0, 0.0)),
    "no commands": dict(commands=[]),
    "no move": dict(spans=[], phases=[], blackout_ms=0.0),
    "no time": dict(start_ms=0.0, end_ms=0.0),
    "one command": dict(commands=[Command(0, 299.0, 9.5)]),
    "latencies of zero": dict(commands=[Command(0, at, 0.0) for at in range(100)]),
    "a wait of minutes": dict(commands=[Command(0, -900.0, 300_000.0)]),
    "a blackout of no length": dict(spans=[Span("switch", "switch", 5.0, 5.0)], blackout_ms=0.0),
    "one phase": dict(phases=[Phase("stop", "source", 8.0)]),
    "two hundred phases": dict(phases=[Phase(f"phase{i}", "both", 0.1) for i in range(200)]),
}


class ModelTest(unittest.TestCase):
    """Commands, slices of time, parts of a migration."""

    def test_reads_commands_in_the_order_of_sending(self):
        """Nanoseconds of CLOCK_REALTIME become milliseconds from the origin."""
        with tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder, "samples.csv")
            file.write_text(f"client,sent_unix_ns,latency_ns\n1,{ORIGIN_NS + 2_000_000},500000\n"
                            f"0,{ORIGIN_NS - 1_000_000},250000\n")
            self.assertEqual(plot.read_commands(file, ORIGIN_NS),
                             [Command(0, -1.0, 0.25), Command(1, 2.0, 0.5)])
            file.write_text("client,sent_unix_ns,latency_ns\n")
            self.assertEqual(plot.read_commands(file, ORIGIN_NS), [])

    def test_columns(self):
        """Percentiles where it was sent, the longest wherever it was under way."""
        commands = [Command(0, 5.0, 1.0), Command(1, 6.0, 3.0), Command(2, 8.0, 15.0)]
        columns = plot.columns_of(commands, 0.0, 40.0, 4)
        self.assertEqual(columns, [Column(3.0, 15.0, 15.0), Column(None, None, 15.0),
                                   Column(None, None, 15.0), Column(None, None, None)])
        self.assertEqual(plot.columns_of(commands, 0.0, 40.0, 0), [])
        self.assertEqual(plot.columns_of(commands, 5.0, 5.0, 4), [])

    def test_waiting(self):
        """How many waited, by how long they did."""
        commands = [Command(0, 0.0, 10.0), Command(1, 5.0, 10.0)]
        self.assertEqual(plot.waiting_of(commands, 0.0, 20.0, 2), [1.5, 0.5])

    def test_longest_counts_what_is_under_way(self):
        """A wait that began before the window counts, one that ended before does not."""
        commands = [Command(0, 0.0, 20.0), Command(1, 12.0, 1.0)]
        self.assertEqual(plot.longest_ms(commands, 15.0, 16.0), 20.0)
        self.assertEqual(plot.longest_ms(commands, 21.0, 30.0), 0.0)

    def test_noise_is_a_median_of_windows(self):
        """One long wait is not the noise."""
        commands = [Command(0, 10.0, 50.0), Command(0, 110.0, 2.0), Command(0, 210.0, 3.0)]
        self.assertEqual(plot.noise_ms(commands, 0.0, 300.0, 100.0), 3.0)
        self.assertEqual(plot.noise_ms(commands, 0.0, 99.0, 100.0), 0.0)

    def test_percentile(self):
        """The smallest latency that so many stay within."""
        self.assertEqual(plot.percentile_ms([float(i) for i in range(100, 0, -1)], 0.99), 99.0)
        self.assertEqual(plot.percentile_ms([7.0], 0.5), 7.0)
        self.assertEqual(plot.percentile_ms([], 0.5), 0.0)

    def test_spans_cover_the_migration(self):
        """From its begin to its end without a hole; the last round is part of the switch."""
        spans = plot.spans_of(REPORT, ORIGIN_NS, ORIGIN_NS + 400_000_000, ORIGIN_NS)
        self.assertEqual([span.name for span in spans],
                         ["prepare", "round 1", "get ready", "round 2", "get ready", "round 3",
                          "get ready", "switch", "finish"])
        self.assertEqual((spans[0].start_ms, spans[-1].end_ms), (0.0, 400.0))
        for before, after in zip(spans, spans[1:]):
            self.assertAlmostEqual(before.end_ms, after.start_ms)
        self.assertEqual(plot.spans_of({}, ORIGIN_NS, ORIGIN_NS, ORIGIN_NS), [])

    def test_short_rounds_become_one(self):
        """What would be too narrow to be told apart."""
        spans = plot.spans_of(REPORT, ORIGIN_NS, ORIGIN_NS + 400_000_000, ORIGIN_NS)
        merged = plot.merged_rounds(spans, 80.0)
        self.assertEqual([span.name for span in merged],
                         ["prepare", "round 1", "rounds 2-3", "switch", "finish"])
        self.assertEqual((merged[2].start_ms, merged[2].end_ms), (200.0, 300.0))

    def test_phases_add_up(self):
        """What the destination did before the wait began is not counted twice."""
        phases = plot.phases_of(REPORT)
        self.assertAlmostEqual(sum(phase.ms for phase in phases), 8.0)
        self.assertEqual(phases[2:4], [Phase("last pages", "destination", 3.5),
                                       Phase("thaw", "destination", 1.0)])
        self.assertEqual(plot.phases_of({}), [])

    def test_axes(self):
        """Limits and ticks are round numbers."""
        self.assertEqual(plot.log_range([0.07, 12.0]), (0.05, 20.0))
        self.assertEqual(plot.log_range([]), (0.1, 10.0))
        self.assertEqual(plot.log_range([3.0]), (2.0, 20.0))
        self.assertEqual([round(tick, 6) for tick in plot.log_ticks(0.05, 2.0)],
                         [0.05, 0.1, 0.2, 0.5, 1, 2])
        self.assertEqual([round(tick, 6) for tick in plot.log_ticks(0.05, 20.0, 5)], [0.1, 1, 10])
        self.assertEqual(plot.linear_ticks(-1.5, 3.2, 6), [-1, 0, 1, 2, 3])
        self.assertEqual(plot.linear_ticks(1.0, 1.0, 6), [])
        self.assertEqual([plot.tick_text(ms) for ms in (0.002, 0.05, 20.0, 5000.0)],
                         ["2 us", "0.05 ms", "20 ms", "5 s"])
        self.assertEqual([plot.number_text(value) for value in (0, 0.05, 10.0, -1.5)],
                         ["0", "0.05", "10", "-1.5"])


class TerminalTest(unittest.TestCase):
    """The picture as text."""

    def test_style(self):
        """No terminal: 80 columns and no colours; the locale decides over the characters."""
        self.assertEqual(style_of(io.StringIO(), {"LANG": "C.UTF-8"}), Style(80, True, False))
        self.assertEqual(style_of(io.StringIO(), {"LANG": "de_DE.utf8"}), Style(80, True, False))
        for environment in ({}, {"LANG": "C"}, {"LANG": "C.UTF-8", "LC_ALL": "POSIX"}):
            self.assertEqual(style_of(io.StringIO(), environment), Style(80, False, False))

    def test_style_of_a_terminal(self):
        """Its width within limits; NO_COLOR and a dumb terminal mean no colours."""
        class Terminal(io.StringIO):
            """One that does not tell its size."""
            def isatty(self):
                return True

            def fileno(self):
                raise OSError("no descriptor")
        self.assertTrue(style_of(Terminal(), {"TERM": "xterm"}).colours)
        self.assertFalse(style_of(Terminal(), {"TERM": "dumb"}).colours)
        self.assertFalse(style_of(Terminal(), {"TERM": "xterm", "NO_COLOR": "1"}).colours)
        self.assertEqual(style_of(Terminal(), {}).width, 80)

    def test_cells(self):
        """Filled up to the median, a line up to the longest, never beyond the top."""
        def height(value):
            return value / 4
        self.assertEqual(cells_of(Column(1.5, 2, 3.3), height, 4, BLOCKS), "█▄│╷")
        self.assertEqual(cells_of(Column(4, 4, 4), height, 4, BLOCKS), "████")
        self.assertEqual(cells_of(Column(2.0, 3, 4), height, 4, ASCII), "##||")
        self.assertEqual(cells_of(Column(None, None, None), height, 4, BLOCKS), "    ")

    def test_stays_within_the_width(self):
        """On every width, and nothing but ASCII where that is asked for."""
        for width in (40, 57, 80, 120):
            for line in terminal_lines(story(), Style(width, False, False)):
                self.assertLessEqual(len(line), width, line)
                self.assertTrue(line.isascii(), line)

    def test_colours_change_nothing_else(self):
        """Without its escapes a line is what it is without colours."""
        plain = terminal_lines(story(), Style(80, True, False))
        coloured = terminal_lines(story(), Style(80, True, True))
        self.assertNotEqual(plain, coloured)
        self.assertEqual([line.rstrip() for line in plain],
                         [_without_escapes(line).rstrip() for line in coloured])

    def test_tells_the_switch(self):
        """Blackout, rounds and phases have their names and durations."""
        text = "\n".join(terminal_lines(story(), Style(100, True, False)))
        for words in ("switch: blackout 8.0 ms", "rounds 1-3", "last pages   destination  3.50 ms",
                      "all 4", "none"):
            self.assertIn(words, text)

    def test_little_to_draw(self):
        """Nothing of it fails or gets wider."""
        for name, changes in DEGENERATE.items():
            with self.subTest(name):
                lines = terminal_lines(story(**changes), Style())
                self.assertLessEqual(max(map(len, lines)), 80)


class SvgTest(unittest.TestCase):
    """The picture as SVG."""

    def test_well_formed(self):
        """XML, with the names and durations, and nothing from elsewhere."""
        text = svg_of(story())
        root = ElementTree.fromstring(text)
        self.assertEqual(root.tag, "{http://www.w3.org/2000/svg}svg")
        words = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
        for expected in ("A <moves> & b", "8.0 ms", "blackout 8.0 ms", "last pages", "3.5 ms",
                         "the switch: longest wait 9.5 ms", "noise 0.50 ms"):
            self.assertIn(expected, words)
        self.assertEqual(text.count("http"), 1)  # the namespace
        self.assertNotIn("nan", text)

    def test_little_to_draw(self):
        """Well-formed whatever there is."""
        for name, changes in DEGENERATE.items():
            with self.subTest(name):
                text = svg_of(story(**changes))
                ElementTree.fromstring(text)
                self.assertNotIn("nan", text)

    def test_all_phases_are_in_the_bar(self):
        """One seam each, as long together as the bar is."""
        root = ElementTree.fromstring(svg_of(story()))
        parts = [element for element in root.iter("{http://www.w3.org/2000/svg}rect")
                 if element.get("class").endswith("seam")]
        self.assertEqual(len(parts), len(story().phases))
        self.assertAlmostEqual(sum(float(part.get("width")) for part in parts), 852, delta=1)

    def test_labels_do_not_overlap(self):
        """They move apart as little as that needs, and stay inside."""
        self.assertEqual(spread_out([10, 100], [20, 20], 0, 200), [0, 90])
        self.assertEqual(spread_out([50, 52, 54], [20, 20, 20], 0, 200), [40, 60, 80])
        self.assertEqual(spread_out([195, 199], [20, 20], 0, 200), [160, 180])


def _without_escapes(line):
    while "\x1b" in line:
        before, _, after = line.partition("\x1b")
        line = before + after.partition("m")[2]
    return line


if __name__ == "__main__":
    unittest.main(verbosity=2)
