"""Unit tests of another processor, in the first machine: the image has them where the project is built
for it (cross.py)."""

from .image import UNIT_TESTS
from .pair import Pair
from .scenarios import Outcome

# What a machine with one processor that is emulated has no time for: threads that take the processor
# from the test itself, as many of them as it can hardly start, and one that is known to have stood still
# by the nanoseconds for which it ran. And the networks, which know nothing of the processor: a shell
# of busybox makes none, it has an ip of its own.
LEFT_OUT = ("RemoteTask.StopsAThreadThatGetsNoProcessor", "RemoteTask.StopsAllThreads",
            "AgentDeath.LosesNoSignalThatItHoldsUp",
            "LastLook.ThreadsThatStandStillAreTakenFromBefore", "Families/*")
TIMEOUT_S = 300


def unit_tests(pair: Pair) -> Outcome:
    """All of them pass."""
    passed = 0
    for library in UNIT_TESTS:
        done = pair.a.machine.run(f"/godwit/tests/godwit_{library}_test", "--gtest_brief=1",
                                  f"--gtest_filter=-{':'.join(LEFT_OUT)}", timeout_s=TIMEOUT_S)
        if done.code != 0:
            raise AssertionError(f"unit tests of {library}: {done}")
        passed += int(done.said.rsplit("[  PASSED  ]", 1)[1].split()[0])
    return Outcome(notes=f"{passed} tests")


SCENARIOS = {"unit-tests": unit_tests}
