"""A terminal for a program to run on: a pseudo terminal, and what its screen shows."""

import fcntl
import os
import pty
import re
import struct
import termios
import threading
import time

from . import programs
from .host import Host

SEQUENCE = re.compile(r"\x1b\[(\??)(\d*)([A-Za-z])")


class Screen:
    """What a terminal shows that knows the control sequences of a progress block, and no others."""

    def __init__(self, columns: int = 80):
        self.columns = columns
        self.lines = [""]
        self.row = self.column = 0
        self.cursor_shown = True
        self.coloured = False
        self._rest = ""

    def feed(self, text: str) -> None:
        """Takes output; a sequence may be cut between two calls."""
        text, self._rest = self._rest + text, ""
        while text:
            if text[0] != "\x1b":
                self._put(text[0])
                text = text[1:]
                continue
            found = SEQUENCE.match(text)
            if not found:
                if len(text) > 12:
                    raise ValueError(f"not a known sequence: {text[:20]!r}")
                self._rest = text
                return
            self._obey(*found.groups())
            text = text[found.end():]

    def shown(self) -> list[str]:
        """The lines, without empty ones at the end."""
        lines = [line.rstrip() for line in self.lines]
        while lines and not lines[-1]:
            lines.pop()
        return lines

    def _put(self, character: str) -> None:
        if character == "\r":
            self.column = 0
        elif character == "\n":
            self.row += 1
        else:
            if self.column == self.columns:
                self.column, self.row = 0, self.row + 1
            self._reach()
            line = self.lines[self.row].ljust(self.column)
            self.lines[self.row] = line[:self.column] + character + line[self.column + 1:]
            self.column += 1
        self._reach()

    def _reach(self) -> None:
        while len(self.lines) <= self.row:
            self.lines.append("")

    def _obey(self, private: str, number: str, letter: str) -> None:
        if private and number == "25" and letter in "hl":
            self.cursor_shown = letter == "h"
        elif letter == "A" and not private:
            self.row = max(0, self.row - int(number or 1))
        elif letter == "K" and not private and not number:
            self.lines[self.row] = self.lines[self.row][:self.column]
        elif letter == "J" and not private and not number:
            self.lines[self.row] = self.lines[self.row][:self.column]
            del self.lines[self.row + 1:]
        elif letter == "m" and not private:
            self.coloured = True
        else:
            raise ValueError(f"not a known sequence: {private}{number}{letter}")


class TerminalRun:
    """A program of a host on a terminal of its own, which is its controlling terminal."""

    def __init__(self, host: Host, command: list[str], columns: int = 100, rows: int = 30,
                 environment: dict | None = None):
        self.screen = Screen(columns)
        self.output = ""
        self._master, slave = pty.openpty()
        self.resize(columns, rows)
        variables = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
        self.process = host.start(command, stdin=slave, stdout=slave, stderr=slave,
                                  env={**variables, "TERM": "xterm", **(environment or {})},
                                  preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
        os.close(slave)
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Process id of the program."""
        return self.process.pid

    def resize(self, columns: int, rows: int) -> None:
        """The terminal has another size from now on."""
        self.screen.columns = columns
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, keys: bytes) -> None:
        """Presses keys: b"\\x03" is Ctrl-C."""
        os.write(self._master, keys)

    def hang_up(self) -> None:
        """The terminal goes away; the kernel tells the program by SIGHUP."""
        os.close(self._master)
        self._master = -1

    def wait_for(self, pattern: str, timeout_s: float = 30) -> str:
        """Waits until the screen shows a line that matches, and returns it."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while True:
                for line in self.screen.shown():
                    if re.search(pattern, line):
                        return line
                if time.monotonic() > deadline or not self._reader.is_alive():
                    raise AssertionError(f"no line like {pattern!r} on the screen:\n" +
                                         "\n".join(self.screen.shown()))
                self._changed.wait(0.05)

    def wait(self, timeout_s: float = 60) -> int:
        """Waits for the end of the program; its exit code."""
        try:
            code = self.process.wait(timeout=timeout_s)
        finally:
            self.close()
        return code

    def close(self) -> None:
        """Ends the program if it still runs, and the terminal."""
        if self.process.poll() is None:
            programs.send_signal(self.process.pid)
            self.process.wait()
        self._reader.join(timeout=5)
        if self._master >= 0:
            os.close(self._master)
            self._master = -1

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._master, 65536)
            except OSError:  # the last one who had the other end is gone
                data = b""
            if not data:
                break
            text = data.decode(errors="replace")
            with self._changed:
                self.output += text
                self.screen.feed(text)
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()
