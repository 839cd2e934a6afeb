"""What an operator sees and does: progress on a terminal, Ctrl-C, a terminal that goes away, a full disk.

Whatever becomes of the terminal or the report, the process runs on one host and both are clean.
"""

import json
import os
import re
import signal
import subprocess
import time
import unittest

from harness import MoveCase, program, programs
from harness.terminal import TerminalRun

SLOW = ("--max-bandwidth", "20M")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class SurfaceCase(MoveCase):
    """A workload that takes seconds to move, and `migrate` with a terminal or without."""

    def setUp(self):
        super().setUp()
        self.moved = self.workload("memory_checker", "64", "2", "2000")
        self.report_file = self.folder / "report.json"

    def command(self, *extra):
        """`migrate` of the workload to host b."""
        return [program("migrate"), "--pid", str(self.moved.pid), "--to", self.b.agent.address,
                "--keys", str(self.keys.path("a", "source")), "--state-dir",
                str(self.a.state_dir), "--json", str(self.report_file), *extra]

    def on_terminal(self, *extra, **options):
        """Starts it on a terminal."""
        run = TerminalRun(self.a, self.command(*extra), **options)
        self.addCleanup(run.close)
        return run

    def report(self):
        """The report that it wrote."""
        return json.loads(self.report_file.read_text())

    def follow(self):
        """Goes on watching the workload at the destination."""
        self.moved.forget_original()
        self.moved.pid = self.report()["pid_destination"]
        self.moved.host = self.b

    def assert_runs_here(self):
        """It was rolled back: the workload passes at the source, nothing is left."""
        self.assertEqual(self.report()["state"], "RolledBack")
        self.assert_clean()

    def assert_runs_there(self):
        """It has moved, and passes."""
        self.assertEqual(self.report()["state"], "Completed")
        self.follow()
        self.assert_clean()

    def assert_clean(self):
        """The workload passes where it is; nothing is left on either host."""
        self.assertTrue(self.moved.is_running())
        self.assert_nothing_left(running=(self.moved,))
        self.assert_passes(self.moved)


class Blocks(SurfaceCase):
    """Progress on a terminal."""

    def test_block_is_kept_up_to_date(self):
        """State, round, pages, rates, pause and estimate; the screen is clean in the end."""
        run = self.on_terminal(*SLOW)
        run.wait_for(r"^round 1 .*\d+ of \d+ pages left$")
        first = run.wait_for(r"^writes \? +sends \d.*MB/s +pause \?.*switch in .* or more$")
        self.assertIn("wanted", first)
        lefts = set()
        for _ in range(6):
            lefts.add(run.wait_for(r"pages left$"))
            time.sleep(0.25)
        self.assertGreaterEqual(len(lefts), 3, "the block stood still")
        run.wait_for(r"^writes \d+ pages/s +sends .* +switch in about ")
        self.assertTrue(any("PreCopy" in line for line in run.screen.shown()))
        self.assertLessEqual(len(run.screen.shown()), 5, "one block, not a list")
        self.assertEqual(run.wait(), 0)
        shown = run.screen.shown()
        self.assertRegex(shown[0], r"^moved: pid \d+ here is pid \d+ at ")
        self.assertFalse([line for line in shown if "pages left" in line], shown)
        self.assertTrue(any(line.startswith("blackout ") for line in shown), shown)
        self.assertTrue(run.screen.cursor_shown)
        self.assertTrue(run.screen.coloured)
        self.assert_runs_there()

    def test_each_picture_is_one_piece(self):
        """No picture is begun before the one before it has ended, and the cursor is always back."""
        run = self.on_terminal(*SLOW)
        run.wait_for("round 2")
        self.assertEqual(run.wait(), 0)
        depth = 0
        for mark in re.findall(r"\x1b\[\?25[lh]", run.output):
            depth += 1 if mark.endswith("l") else -1
            self.assertIn(depth, (0, 1))
        self.assertEqual(depth, 0)
        self.assert_runs_there()

    def test_no_color(self):
        """NO_COLOR: the same without colours."""
        run = self.on_terminal(*SLOW, environment={"NO_COLOR": "1"})
        run.wait_for("pages left")
        self.assertEqual(run.wait(), 0)
        self.assertFalse(run.screen.coloured)
        self.assertFalse(COLOUR.search(run.output))
        self.assert_runs_there()

    def test_dumb_terminal(self):
        """TERM=dumb: a line for each round, no control sequence at all."""
        run = self.on_terminal(environment={"TERM": "dumb"})
        self.assertEqual(run.wait(), 0)
        self.assertNotIn("\x1b", run.output)
        self.assertRegex(run.output, r"round 1: \d+ pages")
        self.assert_runs_there()

    def test_narrow_and_changing(self):
        """A narrow terminal shows less; the size may change meanwhile."""
        run = self.on_terminal(*SLOW, columns=44, rows=10)
        run.wait_for(r"pages left$")
        self.assertLessEqual(max(map(len, run.screen.shown())), 43)
        run.resize(100, 30)
        run.wait_for(r"^writes .*switch ")
        run.resize(30, 3)
        time.sleep(0.6)
        self.assertEqual(run.wait(), 0)
        self.assert_runs_there()

    def test_log_lines_do_not_tear_it(self):
        """-v: log lines stand above the block, each whole, the block below them."""
        run = self.on_terminal("-v", *SLOW, columns=200, rows=50)
        run.wait_for("pages left")
        shown = run.screen.shown()
        block = [number for number, line in enumerate(shown) if "pages left" in line]
        logs = [number for number, line in enumerate(shown) if " migrate[" in line]
        self.assertTrue(logs, shown)
        self.assertEqual(len(block), 1, shown)
        self.assertLess(max(logs), block[0])
        self.assertEqual(run.wait(), 0)
        for line in run.screen.shown():
            if " migrate[" in line:
                self.assertRegex(line, r"^\d\d:\d\d:\d\d\.\d+ migrate\[\d+\] \w+: \S")
        # Those of the blackout were told when it was over.
        self.assertTrue([line for line in run.screen.shown() if "phase=Prepared" in line])
        self.assert_runs_there()

    def test_no_terminal(self):
        """Into a pipe: a line for each round, as scripts and logs have it."""
        run = self.a.migrate(self.moved.pid, self.b)
        self.assertEqual(run.code, 0, str(run))
        self.assertNotIn("\x1b", run.said)
        self.assertRegex(run.said, r"(?m)^round 1: \d+ pages")
        self.report_file.write_text(json.dumps(run.report))
        self.assert_runs_there()


class Interruptions(SurfaceCase):
    """Ctrl-C, and a terminal that goes away."""

    def begin(self, *extra, **options):
        """On a terminal, in the middle of the first round."""
        run = self.on_terminal(*SLOW, *extra, **options)
        run.wait_for(r"pages left$")
        return run

    def test_ctrl_c(self):
        """Rolled back, said so, and the screen is clean."""
        run = self.begin()
        run.type(b"\x03")
        self.assertEqual(run.wait(), 1)
        self.assertIn("RollingBack", COLOUR.sub("", run.output))
        text = "\n".join(run.screen.shown())
        self.assertIn("error: cancelled by the operator", text)
        self.assertIn("runs on here", text)
        self.assertNotIn("pages left", text)
        self.assertTrue(run.screen.cursor_shown)
        self.assert_runs_here()

    def test_ctrl_c_again_and_again(self):
        """More of them change nothing: the way back is gone to its end, and reported."""
        run = self.begin()
        for _ in range(40):
            run.type(b"\x03")
            time.sleep(0.005)
        self.assertEqual(run.wait(), 1)
        self.assertIn("runs on here", "\n".join(run.screen.shown()))
        self.assert_runs_here()

    def test_ctrl_c_at_the_end(self):
        """Whenever it comes, the exit code, the report and the truth agree."""
        run = self.begin()
        run.wait_for("Freezing|switch in about", timeout_s=30)
        while self.process_runs(run):
            run.type(b"\x03")
            time.sleep(0.001)
        code = run.wait()
        self.assertIn(code, (0, 1))
        self.assertEqual(self.report()["exit_code"], code)
        self.assert_runs_there() if code == 0 else self.assert_runs_here()

    @staticmethod
    def process_runs(run):
        """It has not ended."""
        return run.process.poll() is None

    def test_ctrl_z(self):
        """It can't be stopped: the process might stand still with it."""
        run = self.begin()
        run.type(b"\x1a")
        self.assertEqual(run.wait(), 0)
        self.assert_runs_there()

    def test_hang_up(self):
        """The terminal goes away: rolled back, and the report tells why."""
        run = self.begin()
        run.hang_up()
        self.assertEqual(run.wait(), 1)
        self.assertIn("SIGHUP", self.report()["error"]["story"])
        self.assertIn("nohup", self.report()["error"]["hint"])
        self.assert_runs_here()

    def test_hang_up_with_nohup(self):
        """Started with nohup it outlives its terminal, and moves."""
        run = TerminalRun(self.a, ["sh", "-c", 'trap "" HUP; exec "$@"', "sh",
                                   *self.command(*SLOW)])
        self.addCleanup(run.close)
        run.wait_for(r"pages left$")
        run.hang_up()
        self.assertEqual(run.wait(), 0)
        self.assert_runs_there()

    def test_stopped_terminal(self):
        """Ctrl-S: nobody waits for a terminal that takes nothing, not even with the log on it."""
        run = self.begin("-vv")
        run.type(b"\x13")
        # It has moved long before anybody lets the terminal go on.
        programs.wait_until("the move", self.report_file.exists, timeout_s=30)
        run.type(b"\x11")
        self.assertEqual(run.wait(), 0)
        self.assertIn("moved: pid", "\n".join(run.screen.shown()))
        self.assert_runs_there()

    def test_readers_that_go_away(self):
        """Nobody reads the pipes of standard output and error any more: it moves all the same."""
        run = self.a.start(self.command("-v", *SLOW), stdout=subprocess.PIPE,
                           stderr=subprocess.PIPE)
        run.stdout.close()
        run.stderr.readline()
        run.stderr.close()
        self.assertEqual(run.wait(timeout=60), 0)
        self.assert_runs_there()

    def test_closed_descriptors(self):
        """Started with everything closed, what it says goes into no file or socket of its own."""
        run = self.a.start(["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *self.command("-v")])
        self.assertEqual(run.wait(timeout=60), 0)
        self.assert_runs_there()

    def test_sigterm(self):
        """SIGTERM rolls back, too."""
        run = self.begin()
        programs.send_signal(run.pid, signal.SIGTERM)
        self.assertEqual(run.wait(), 1)
        self.assertIn("SIGTERM", self.report()["error"]["story"])
        self.assert_runs_here()


class Reports(SurfaceCase):
    """A report that can't be written."""

    def run_with(self, report, *extra):
        """(exit code, standard output, standard error) of a run with this --json."""
        self.report_file = report
        run = self.a.start(self.command(*extra), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                           text=True)
        out, err = run.communicate(timeout=60)
        return run.returncode, out, err

    def test_full_device(self):
        """It has moved, and the exit code says so; that the report is lost is said."""
        here = self.moved.pid
        code, out, err = self.run_with("/dev/full")
        self.assertEqual(code, 0, err)
        self.assertIn("the report could not be written: write /dev/full: No space left", err)
        found = re.search(rf"moved: pid {here} here is pid (\d+) at", out)
        self.assertIsNotNone(found, out)
        self.moved.forget_original()
        self.moved.pid = int(found[1])
        self.moved.host = self.b
        self.assert_clean()

    def test_full_disk(self):
        """There is no room: refused before anything was touched."""
        full = self.folder / "full"
        full.mkdir()
        script = f'mount -t tmpfs -o size=64k none {full} && exec "$@"'
        self.report_file = full / "report.json"
        run = self.a.start(["unshare", "-m", "sh", "-c", script, "sh", *self.command()],
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        said, _ = run.communicate(timeout=60)
        self.assertEqual(run.returncode, 2, said)
        self.assertIn("No space left on device", said)
        self.assert_clean()

    def test_missing_folder(self):
        """The folder is not there: refused as well."""
        code, _, err = self.run_with(self.folder / "no" / "report.json")
        self.assertEqual(code, 2, err)
        self.assertIn("No such file or directory", err)
        self.assert_clean()

    def test_check_into_a_full_device(self):
        """The verdict stands in the exit code, whatever becomes of the report."""
        command = [program("migrate"), "check", "--pid", str(self.moved.pid), "--to",
                   self.b.agent.address, "--keys", str(self.keys.path("a", "source")), "--json",
                   "/dev/full"]
        done = self.network.run("a", *command)
        self.assertEqual(done.returncode, 0, str(done))
        self.assertIn("could not be written", done.stderr)
        self.assertIn("can move to", done.stdout)
        self.assert_clean()

    def test_full_standard_output(self):
        """Then the report for people goes to standard error."""
        with open("/dev/full", "w", encoding="utf-8") as full:
            run = self.a.start(self.command(), stdout=full, stderr=subprocess.PIPE, text=True)
            _, err = run.communicate(timeout=60)
        self.assertEqual(run.returncode, 0, err)
        self.assertIn("moved: pid", err)
        self.assert_runs_there()


if __name__ == "__main__":
    os.environ.pop("NO_COLOR", None)
    unittest.main(verbosity=2)
