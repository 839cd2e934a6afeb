"""Runs every registered undo step once, also when the test is ended by a signal."""

import atexit
import signal
import sys
import traceback

_steps: dict[int, object] = {}
_next_key = 0
_installed = False


def register(step) -> int:
    """Remembers `step` (a callable) to be run at the end of this process; returns a key for run()."""
    global _next_key
    _install()
    _next_key += 1
    _steps[_next_key] = step
    return _next_key


def run(key: int) -> None:
    """Runs the step of `key` now, if it has not run yet."""
    step = _steps.pop(key, None)
    if step is not None:
        step()


def _run_all() -> None:
    for key in sorted(_steps, reverse=True):
        try:
            run(key)
        except Exception:  # the other steps must still run
            traceback.print_exc()


def _install() -> None:
    global _installed
    if _installed:
        return
    _installed = True
    atexit.register(_run_all)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda received, _: sys.exit(128 + received))
