"""The serial consoles of machines in this terminal: a shell in each of them."""

import os
import select
import socket
import sys
import termios
import tty

from .machine import Machine

LEAVE = b"\x1d"  # Ctrl-]


def use_consoles(machines: dict[str, Machine]) -> None:
    """Joins this terminal to one console after the other, until the person has had enough."""
    names = list(machines)
    name = names[0]
    while True:
        print(f"\r\n[machine {name}, kernel {machines[name].options.kernel.release}: Enter for a "
              f"shell, Ctrl-] to leave]\r", flush=True)
        if not _use(machines[name]):
            return
        answer = input(f"\n[{', '.join(names)}: the console of that machine; q: end both] ").strip()
        if answer == "q":
            return
        name = answer if answer in machines else name


def _use(machine: Machine) -> bool:
    """False when the machine, or what is typed, has come to its end."""
    with socket.socket(socket.AF_UNIX) as console:
        console.connect(str(machine.console_socket))
        before = termios.tcgetattr(sys.stdin) if sys.stdin.isatty() else None
        if before:
            tty.setraw(sys.stdin)
        try:
            return _pass_on(console)
        finally:
            if before:
                termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _pass_on(console: socket.socket) -> bool:
    while True:
        ready, _, _ = select.select([console, sys.stdin], [], [])
        if console in ready:
            said = console.recv(4096)
            if not said:
                return False
            os.write(sys.stdout.fileno(), said)
        if sys.stdin in ready:
            typed = os.read(sys.stdin.fileno(), 4096)
            if not typed:
                return False
            if LEAVE in typed:
                return True
            console.sendall(typed)
