"""Machines with different processors: to one that has more everything goes, to one that has less
nothing does unless the operator takes the responsibility.
"""

from harness.host import Run
from harness.network import MANAGEMENT

from .folders import receive_folder, send_folder
from .machine import CPU
from .pair import MIGRATE, Pair, VmHost
from .scenarios import FOLDER, Outcome, Program

# QEMU 7.2 emulates AVX and AVX2, and nothing of AVX-512. Without protection keys the area of a signal
# frame's registers is smaller as well.
WITHOUT_AVX2 = f"{CPU},avx2=off,fma=off,bmi1=off,bmi2=off,pku=off"
WITHOUT_AVX = f"{WITHOUT_AVX2},avx=off,f16c=off,vaes=off,vpclmulqdq=off"
LACKS = ("avx2", "fma", "bmi2")
REFUSAL = "instruction-sets-missing"
FRAMES = "signal-frames-cut"
# For a program whose C library shall choose nothing that only one of the processors has.
PLAIN_LIBRARY = ("/bin/busybox", "env", "GLIBC_TUNABLES=glibc.cpu.hwcaps=-AVX,-AVX2,"
                 "-AVX_Fast_Unaligned_Load,-BMI1,-BMI2,-FMA,-ERMS")
PATIENT = ("--max-downtime", "500ms")


def expect_refusal(run: Run, *names: str) -> None:
    """Refused before anything was touched, with every name."""
    problems = " ".join(finding["problem"] for finding in run.report.get("findings", [])
                        if finding["id"] == REFUSAL and not finding["warning"])
    if run.code != 2 or not all(name in problems.replace(",", "").split() for name in names):
        raise AssertionError(f"not refused for {', '.join(names)}: {run}")


def expect_warnings(run: Run) -> None:
    """Told, and done all the same."""
    told = {finding["id"] for finding in run.report["findings"] if finding["warning"]}
    if not told >= {REFUSAL, FRAMES}:
        raise AssertionError(f"no warnings {REFUSAL} and {FRAMES}: {run}")


def _restore(host: VmHost, *extra: str) -> Run:
    """`migrate restore` of the image."""
    report = f"{FOLDER}/restore.json"
    done = host.machine.run(MIGRATE, "restore", "--from", f"file:{FOLDER}/image", "--json", report,
                            "--state-dir", "/run/godwit", *extra, timeout_s=120)
    return host.run_of(done, report)


def _image(pair: Pair, program: Program) -> None:
    """Saved on the richer machine, restored on the poorer one."""
    host = program.host
    done = host.machine.run(MIGRATE, "checkpoint", "--pid", str(program.pid), "--to",
                            f"file:{FOLDER}/image", *PATIENT, timeout_s=120)
    if done.code != 0:
        raise AssertionError(f"no image: {done}")
    other = pair.other(host)
    send_folder(host.machine, MANAGEMENT[host.part], FOLDER, "image")
    receive_folder(MANAGEMENT[host.part], FOLDER, other.machine.run)
    expect_refusal(_restore(other), *LACKS)
    run = _restore(other, "--cpu", "ignore")
    if run.code != 0:
        raise AssertionError(f"not restored: {run}")
    expect_warnings(run)
    program.host, program.pid = other, run.report["pid_destination"]


def cpu(pair: Pair) -> Outcome:
    """Vector registers, in signal frames too, go to a processor with more; those of a program without
    handlers come back by force, as smaller frames are all that the other kernel reads."""
    handling = Program(pair, "vector_state")
    program = Program(pair, "vector_state", "no-handler")
    outcome = Outcome([each.move("--verify", *PATIENT) for each in (handling, program)])
    for each in (handling, program):
        each.expect_well()
    handling.finish()
    poor = pair.other(program.host)
    expect_refusal(program.host.migrate(program.pid, poor, command=("check",)), *LACKS)
    expect_refusal(program.host.migrate(program.pid, poor), *LACKS)
    ignored = ("--cpu", "ignore")
    checked = program.host.migrate(program.pid, poor, *ignored, command=("check",))
    if checked.code != 0:
        raise AssertionError(f"check {' '.join(ignored)}: {checked}")
    expect_warnings(checked)
    # It was begun on the poorer one, and uses what it found there.
    outcome.runs.append(program.move("--verify", *PATIENT, *ignored))
    expect_warnings(outcome.runs[-1])
    program.expect_well()
    outcome.runs.append(program.move("--verify", *PATIENT))
    program.expect_well()
    _image(pair, program)
    program.expect_well()
    program.finish()
    outcome.notes = f"refused for {', '.join(LACKS)}"
    return outcome


def cpu_registers(pair: Pair) -> Outcome:
    """Registers that the other processor does not have at all: a program that uses them stays whole
    where it is, one that does not goes."""
    program = Program(pair, "vector_state")
    expect_refusal(program.host.migrate(program.pid, pair.b), "avx", *LACKS)
    run = program.host.migrate(program.pid, pair.b, *PATIENT, "--cpu", "ignore")
    story = (run.report.get("error") or {}).get("story", "")
    if run.code != 1 or "AVX" not in story:
        raise AssertionError(f"not rolled back for its AVX registers: {run}\n{pair.story()}")
    program.expect_well()
    program.finish()
    plain = Program(pair, "timers", before=PLAIN_LIBRARY)
    outcome = Outcome([plain.move("--verify", *PATIENT, "--cpu", "ignore")])
    plain.expect_well()
    outcome.runs.append(plain.move("--verify", *PATIENT))
    plain.expect_well()
    plain.finish()
    outcome.notes = story[:70]
    return outcome


SCENARIOS = {"cpu": cpu, "cpu-registers": cpu_registers}
CPUS = {"cpu": (WITHOUT_AVX2, CPU), "cpu-registers": (CPU, WITHOUT_AVX)}
