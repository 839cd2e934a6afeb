"""Clocks of hosts that have been up for different times. A machine's CLOCK_MONOTONIC begins when it
boots; a program that shall have seen days of it is started in a time namespace (time_namespaces(7)).
"""

import json
import subprocess
import sys
import time

from harness.network import SERVICE

from .pair import Pair
from .scenarios import Outcome, Program, VmRedis

DAYS = 11
# Joins a time namespace with both clocks so many days ahead, and becomes the program.
IN_NAMESPACE = """
import ctypes, os, sys
NEW_TIME = 0x80
libc = ctypes.CDLL(None, use_errno=True)
def must(result):
    if result: raise OSError(ctypes.get_errno(), "time namespace")
must(libc.unshare(NEW_TIME))
with open("/proc/self/timens_offsets", "w") as offsets:
    offsets.write(f"monotonic {sys.argv[1]} 0\\nboottime {sys.argv[1]} 0\\n")
space = os.open("/proc/self/ns/time_for_children", os.O_RDONLY)
must(libc.setns(space, NEW_TIME))
os.close(space)
os.execvp(sys.argv[2], sys.argv[2:])
"""
UP_FOR_DAYS = ("/usr/bin/python3", "-c", IN_NAMESPACE, str(DAYS * 86_400))
PROGRAMS = ("timers", "timerfds", "blocking_calls", "clocks")
OPTIONS = ("--max-downtime", "300ms")
# A call of a moved program may cost so much more than one of a program that was started there in a
# time namespace: it goes through what stands in for its first vDSO.
SLOWER_MAX = 1.25
# The kernel keeps the other clocks in the vDSO's reach if it trusts this one, as on real machines.
TRUSTED_CLOCK = "tsc=reliable clocksource=tsc"
# What a reply may be late by besides the blackout: this machine has other things to do.
LATE_MS_MAX = 500.0
EARLY_MS_MAX = 150.0

# Keys that expire one after the other, watched over one connection; how late each went, in ms.
WATCH = """
import json, socket, sys, time
keys, step_ms = int(sys.argv[3]), int(sys.argv[4])
line = socket.create_connection((sys.argv[1], int(sys.argv[2])))
stream = line.makefile("rb")
def ask(*words):
    parts = [f"${len(word)}\\r\\n{word}\\r\\n" for word in words]
    line.sendall(f"*{len(words)}\\r\\n{''.join(parts)}".encode())
def answer():
    text = stream.readline()
    if text[:1] == b"*": return [answer() for _ in range(int(text[1:]))]
    if text[:1] != b"$": return text[1:].strip().decode()
    return None if text[1:3] == b"-1" else stream.read(int(text[1:]) + 2)[:-2].decode()
due, late, longest = {}, {}, 0.0
for key in range(keys):
    ask("SET", f"expiring-{key}", "here")
    if answer() != "OK": sys.exit("SET failed")
    ask("PEXPIRE", f"expiring-{key}", str((key + 1) * step_ms))
    due[key] = time.monotonic() + (key + 1) * step_ms / 1000
    answer()
print("WATCHING", flush=True)
while len(late) < keys:
    waiting = [key for key in range(keys) if key not in late]
    asked = time.monotonic()
    ask("MGET", *(f"expiring-{key}" for key in waiting))
    for key, value in zip(waiting, answer()):
        # It went between question and answer: not before the first, not after the second.
        if value is None: late[key] = (asked - due[key], time.monotonic() - due[key])
    longest = max(longest, time.monotonic() - asked)
    time.sleep(0.01)
print(json.dumps({"early_ms": -1000 * min(last for _, last in late.values()),
                  "late_ms": 1000 * max(first for first, _ in late.values()),
                  "longest_ms": 1000 * longest}))
"""


def _programs(pair: Pair) -> tuple[Outcome, dict[str, str]]:
    """Programs that have been up for days on a move to a machine that has just booted. What they say."""
    outcome = Outcome()
    said = {}
    for name in PROGRAMS:
        program = Program(pair, name, before=UP_FOR_DAYS)
        outcome.runs.append(program.move("--verify", *OPTIONS))
        program.expect_well()
        said[name] = program.finish()
    return outcome, said


def _check_clock(pair: Pair) -> None:
    """A destination whose time of day is another is told of."""
    pair.b.machine.set_clock(ahead_s=3600)
    program = Program(pair, "clocks")
    run = program.host.migrate(program.pid, pair.b, command=("check",))
    if run.code != 0 or "clock-differs" not in run.finding_ids():
        raise AssertionError(f"no warning of a clock that is an hour ahead: {run}")
    program.finish()


def _cost(said: str, what: str) -> int:
    """A line of the program `clocks`."""
    return next(int(line.split()[1]) for line in said.splitlines() if line.startswith(what))


def _compare_costs(pair: Pair, said: str) -> str:
    """A call of the moved program against one of a program that was started there."""
    texts = [said]
    for before in ((), UP_FOR_DAYS):
        fresh = Program(pair, "clocks", before=before, host=pair.b)
        fresh.expect_well()
        texts.append(fresh.finish())
    moved, plain, native = (_cost(text, "COST") for text in texts)
    if moved > native * SLOWER_MAX:
        raise AssertionError(f"clock_gettime takes {moved} ns after the move and {native} ns in a "
                             f"program that was started there")
    return (f"clock_gettime {moved} ns, native {native} ns ({plain} ns outside of a time namespace), "
            f"a call {_cost(texts[1], 'KERNEL')} ns")


def _expiry(pair: Pair, outcome: Outcome) -> str:
    """Keys of a redis that moves there and back expire when they should, as a client sees it."""
    server = VmRedis(pair, 1, before=UP_FOR_DAYS)
    watch = subprocess.Popen(
        [*pair.network.enter("c"), sys.executable, "-c", WATCH, SERVICE, "6379", "120", "300"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        watch.stdout.readline()
        for _ in range(2):
            time.sleep(1)
            outcome.runs.append(server.move(*OPTIONS))
        said, errors = watch.communicate(timeout=120)
    finally:
        watch.kill()
        watch.wait()
    if watch.returncode != 0:
        raise AssertionError(f"the connection of the client did not live on: {errors}")
    found = json.loads(said.splitlines()[-1])
    # Nobody answers in the blackout: the longest wait of one question.
    if found["late_ms"] > LATE_MS_MAX + found["longest_ms"] or found["early_ms"] > EARLY_MS_MAX:
        raise AssertionError(f"keys expired at other times than they should: {found}")
    return f"keys late by {found['late_ms']:.0f} ms at most"


def clocks(pair: Pair) -> Outcome:
    """Clocks, timers, timeouts and expiry go on as they were, between uptimes that differ by days."""
    _check_clock(pair)
    for host in (pair.a, pair.b):
        host.machine.set_clock()
    outcome, said = _programs(pair)
    notes = [_compare_costs(pair, said["clocks"]), _expiry(pair, outcome)]
    outcome.notes = "; ".join(notes)
    return outcome


SCENARIOS = {"clocks": clocks}
ARGUMENTS = {"clocks": (TRUSTED_CLOCK, TRUSTED_CLOCK)}
