"""Machines of arm64 whose vectors (SVE) have other lengths: a program goes to one that has its length, and
is refused by name by one that has not.
"""

from .machine import ARM64_CPU
from .pair import Pair
from .processors import PATIENT, expect_refusal
from .scenarios import Outcome, Program

SHORT = "sve-256"
LONG = "sve-512"


def vector_lengths(pair: Pair) -> Outcome:
    """Started where vectors are short, moved to where they may be longer, and back only by force: to the
    operator's word it has begun with short ones. One that has begun with long ones stays whole."""
    program = Program(pair, "vector_state")
    outcome = Outcome([program.move("--verify", *PATIENT)])
    program.expect_well()
    expect_refusal(program.host.migrate(program.pid, pair.a, command=("check",)), LONG)
    expect_refusal(program.host.migrate(program.pid, pair.a), LONG)
    outcome.runs.append(program.move("--verify", *PATIENT, "--cpu", "ignore"))
    program.expect_well()
    program.finish()
    longer = Program(pair, "vector_state", host=pair.b)
    run = longer.host.migrate(longer.pid, pair.a, *PATIENT, "--cpu", "ignore")
    if run.code != 1 or run.report.get("state") != "RolledBack":
        raise AssertionError(f"not rolled back for its long vectors: {run}\n{pair.story()}")
    longer.expect_well()
    longer.finish()
    outcome.notes = f"refused for {LONG}"
    return outcome


SCENARIOS = {"vector-lengths": vector_lengths}
CPUS = {"vector-lengths": (f"{ARM64_CPU},sve-max-vq=2", f"{ARM64_CPU},sve-max-vq=4")}
