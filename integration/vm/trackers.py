"""Both ways of finding written pages, on the same workload on a kernel that has both."""

import json

from .pair import Pair
from .scenarios import FOLDER, Outcome, Program

NAMES = ("write-protect", "soft-dirty")
PATIENT = ("--max-downtime", "200ms")


def _compare(pair: Pair) -> dict:
    """The same writes under each of them: found are exactly those (integration/tracking)."""
    told = f"{FOLDER}/trackers.json"
    done = pair.a.machine.run("/godwit/tracking/compare_trackers", told, timeout_s=120)
    if done.code != 0:
        raise AssertionError(f"compare_trackers: {done}\n{pair.story()}")
    found = json.loads(pair.a.machine.read(told))
    if found[NAMES[0]]["pages"] != found[NAMES[1]]["pages"]:
        raise AssertionError(f"not the same pages: {found}")
    return found


def trackers(pair: Pair) -> Outcome:
    """The same pages are found, and a program moves under each; what each costs."""
    found = _compare(pair)
    program = Program(pair, "memory_checker", "16", "2", "300")
    outcome = Outcome()
    for name in NAMES:
        outcome.runs.append(program.move("--verify", "--tracker", name, *PATIENT))
        if outcome.runs[-1].report["tracker"] != name:
            raise AssertionError(f"--tracker {name}: {outcome.runs[-1]}")
        program.expect_well()
    program.finish()
    costs = [f"{name}: scan {found[name]['scan_ms']:.1f} ms (first {found[name]['first_scan_ms']:.1f}), "
             f"write {found[name]['write_us']:+.1f} us, blackout {run.report['blackout_ms']:.0f} ms"
             for name, run in zip(NAMES, outcome.runs)]
    outcome.notes = f"{found[NAMES[0]]['pages']} pages by both; {'; '.join(costs)}"
    return outcome


SCENARIOS = {"trackers": trackers}
KERNELS = {"trackers": [("6.12", "6.12")]}
