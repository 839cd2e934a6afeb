"""The demonstration: it moves, plots and cleans up, on a terminal or not, and also when it is
interrupted."""

import os
import pathlib
import pty
import re
import signal
import subprocess
import sys
import tempfile
import time
import unittest
import xml.etree.ElementTree as ElementTree

from harness import programs

DEMO = pathlib.Path(programs.ROOT, "integration", "harness", "demo.py")
SCRIPT = pathlib.Path(programs.ROOT, "deploy", "demo")
SMALL = ("--mib", "16", "--clients", "8", "--rate", "1000")


class DemoTest(unittest.TestCase):
    """At a small size."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="godwit-demo-test-")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def start(self, *words, **options):
        """Runs it in an empty folder, which also has its temporary files."""
        (self.folder / "here").mkdir(exist_ok=True)
        environment = os.environ | {"TMPDIR": str(self.folder)} | options.pop("environment", {})
        process = subprocess.Popen([sys.executable, DEMO, *SMALL, *words], env=environment,
                                   cwd=self.folder / "here", **options)
        self.addCleanup(self.end, process)
        return process

    @staticmethod
    def end(process):
        """It may not outlive the test."""
        if process.poll() is None:
            process.kill()
            process.wait()
        if process.stdout:
            process.stdout.close()

    def assert_nothing_left(self, pid):
        """No namespace, and with that no process, and no temporary folder."""
        self.assertEqual([name for name in os.listdir("/run/netns") if name.startswith(f"gw{pid}-")],
                         [])
        self.assertEqual([path.name for path in self.folder.iterdir() if path.name != "here"], [])

    def wait_for(self, process, text):
        """Reads until a line has `text`."""
        for line in process.stdout:
            if text in line:
                return
        self.fail(f"it ended with {process.wait()} before it said {text}")

    def test_moves_and_plots(self):
        """Into a pipe: 80 columns at most where it plots, no escapes; the picture where it was asked
        for, from the folder where it was started."""
        process = self.start("--svg", "pictures/move.svg", stdout=subprocess.PIPE, text=True,
                             stderr=subprocess.STDOUT, environment={"LC_ALL": "C"})
        output = process.communicate(timeout=120)[0]
        self.assertEqual(process.returncode, 0, output)
        self.assertTrue(output.isascii(), output)
        self.assertNotIn("\x1b", output)
        plot = output[output.index("latency of every command"):output.index("what the clients")]
        self.assertLessEqual(max(map(len, plot.splitlines())), 80)
        blackout_ms = float(re.search(r"switch: blackout ([\d.]+) ms", plot)[1])
        self.assertGreater(blackout_ms, 0)
        self.assertIn("0 failed, 0 wrong replies, 0 counters off", output)
        self.assertRegex(output, r"left behind on the hosts +nothing")
        picture = ElementTree.parse(self.folder / "here" / "pictures" / "move.svg")
        words = {element.text for element in picture.iter("{http://www.w3.org/2000/svg}text")}
        self.assertTrue(any(f"blackout {blackout_ms:.1f} ms" == text for text in words), words)
        self.assert_nothing_left(process.pid)

    def interrupt(self, text, number, after_s):
        """Its exit code when it is ended after it said `text`."""
        process = self.start(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.wait_for(process, text)
        time.sleep(after_s)
        process.send_signal(number)
        output = process.communicate(timeout=60)[0]
        self.assertNotIn("Traceback", output)
        self.assert_nothing_left(process.pid)
        return process.returncode

    def test_interrupted(self):
        """Before the move, in it, and after it."""
        self.assertEqual(self.interrupt("dest-agent", signal.SIGINT, 0), 130)
        for after_s in (0.1, 0.3):
            self.assertEqual(self.interrupt("$ migrate", signal.SIGINT, after_s), 130)
        self.assertEqual(self.interrupt("moved: pid", signal.SIGINT, 0), 130)
        self.assertEqual(self.interrupt("$ migrate", signal.SIGTERM, 0.2), 143)

    def test_on_a_terminal(self):
        """Colours, and what `migrate` says goes straight to the terminal."""
        control, terminal = pty.openpty()
        self.addCleanup(os.close, control)
        process = self.start("--svg", "move.svg", stdout=terminal, stderr=terminal,
                             environment={"TERM": "xterm-256color", "NO_COLOR": ""})
        os.close(terminal)
        output = b""
        while True:
            try:
                output += os.read(control, 65536)
            except OSError:  # EIO: nobody has it open any more
                break
        self.assertEqual(process.wait(timeout=60), 0, output)
        self.assertIn(b"\x1b[1;31m", output)
        self.assertIn(b"moved", output)

    def test_refuses_before_the_build(self):
        """Wrong words, and somebody who may not."""
        done = subprocess.run([SCRIPT, "--mib", "none"], capture_output=True, text=True, cwd="/")
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertIn("'none' is not a number", done.stderr)
        self.assertNotIn("building", done.stdout)
        # Nobody may not be able to come to where the tests run: the script is read from a pipe.
        done = subprocess.run(["bash", "-s"], input=SCRIPT.read_text(), capture_output=True, text=True,
                              user="nobody", cwd="/")
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertIn("run it as root", done.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)
