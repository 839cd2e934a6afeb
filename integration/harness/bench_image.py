"""`bench image`: a redis under load is saved while it runs on, and restored, whole and lazily."""

import mmap
import pathlib
import shutil
import subprocess
import sys
import time

from . import images
from .backed_memory import BackedMemory
from .bench_pause import ERRORS, WARM_UP_S, Load
from .bench_stage import Stage, failure_of
from .figures import median_phases, print_phases, print_summary, summary_of
from .network import SERVICE
from .programs import is_alive, program, wait_until
from .redis import Redis

FIGURES = ("client_gap_ms", "client_gap_noise_ms", "client_gap_whole_ms",
           "client_gap_whole_noise_ms", "blackout_ms", "checkpoint_ms", "image_mib", "read_copy_ms",
           "read_copy_fresh_ms", "restore_ms", "restore_over_read_copy", "restore_speed_share",
           "restore_speed_share_fresh", "lazy_first_reply_ms", "lazy_running_ms", "lazy_ms")
MIB = 1 << 20
AFTER_S = 0.3
# Asks again and again until there is a reply: prints when that was, CLOCK_REALTIME in ns.
PROBE = """
import socket, sys, time
command = f"GET {sys.argv[3]}\\r\\n".encode()
print("ready", flush=True)
while True:
    try:
        with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=60) as connection:
            connection.sendall(command)
            if connection.recv(100):
                print(time.time_ns(), flush=True)
                break
    except OSError:
        time.sleep(0.0005)
"""


class BenchFailed(Exception):
    """A process was not saved or not restored."""


def check(run) -> None:
    """It went well."""
    if run.code != 0:
        raise BenchFailed(failure_of(run))


def save(stage: Stage, redis: Redis, options, image: pathlib.Path) -> dict:
    """A checkpoint of the running redis, as its clients notice it."""
    load = Load(stage, redis, options)
    try:
        time.sleep(WARM_UP_S)
        start_ns = time.time_ns()
        time.sleep(options.quiet_s)
        quiet_ns = (start_ns, time.time_ns())
        run = images.checkpoint(redis.host, redis.pid, image, "--leave-running")
        time.sleep(AFTER_S)
    finally:
        load.stop()
    check(run)
    around = run.switch_window_ns()
    return {
        "client_gap_ms": load.gap_ms(*around),
        "client_gap_noise_ms": load.noise_ms(quiet_ns, around[1] - around[0]),
        "client_gap_whole_ms": load.gap_ms(run.started_ns, run.ended_ns),
        "client_gap_whole_noise_ms": load.noise_ms(quiet_ns, run.ended_ns - run.started_ns),
        "blackout_ms": run.report["blackout_ms"],
        "blackout_phases_ms": run.report["blackout_phases_ms"],
        "checkpoint_ms": run.report["total_ms"],
        "image_mib": (image / "pages").stat().st_size / MIB,
        **load.errors, "tcp_timeouts": load.tcp_timeouts,
    }


def read_and_copy_ms(path: pathlib.Path, fresh: bool) -> float:
    """What a restore can't do without: the file read from its start to its end, out of the page
    cache, and its bytes copied once. `fresh`: to pages that the kernel hands out at that moment, as
    it does for a restored process, else to memory that is there already."""
    size = path.stat().st_size
    block = memoryview(bytearray(MIB))
    with (open(path, "rb", buffering=0) as file,
          mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory):
        while file.readinto(block):  # into the page cache
            pass
        file.seek(0)
        for at in range(0, 0 if fresh else size, mmap.PAGESIZE):
            memory[at] = 1
        began = time.monotonic()
        at = 0
        while got := file.readinto(block):
            memory[at:at + got] = block[:got]
            at += got
        return 1000 * (time.monotonic() - began)


def end(redis: Redis) -> None:
    """What was saved goes, without being asked."""
    redis.kill()
    wait_until("its end", lambda: not is_alive(redis.pid))


def restore(redis: Redis, options, image: pathlib.Path) -> dict:
    """Whole, held against reading and copying."""
    end(redis)
    with BackedMemory(options.rss_mib):
        bound_ms = read_and_copy_ms(image / "pages", fresh=False)
    with BackedMemory(options.rss_mib):
        fresh_ms = read_and_copy_ms(image / "pages", fresh=True)
    with BackedMemory(options.rss_mib):
        run = images.restore(redis.host, image)
    check(run)
    redis.pid = run.report["pid_destination"]
    took_ms = run.report["total_ms"]
    return {"read_copy_ms": bound_ms, "read_copy_fresh_ms": fresh_ms, "restore_ms": took_ms,
            "restore_over_read_copy": took_ms / bound_ms, "restore_speed_share": bound_ms / took_ms,
            "restore_speed_share_fresh": fresh_ms / took_ms}


def restore_lazily(stage: Stage, redis: Redis, options, image: pathlib.Path) -> dict:
    """Until the first reply, and until every page was there."""
    end(redis)
    with BackedMemory(options.rss_mib):
        return restore_under_probe(stage, redis, image)


def restore_under_probe(stage: Stage, redis: Redis, image: pathlib.Path) -> dict:
    """Restored lazily, while a client asks for a key until there is somebody who answers."""
    probe = stage.clients.start([sys.executable, "-c", PROBE, SERVICE, redis.port, "fill:00000000"],
                                stdout=subprocess.PIPE, text=True)
    try:
        probe.stdout.readline()
        began_ns = time.time_ns()
        migration = images.start_restore(redis.host, image, "--lazy")
        line = migration.wait_for_line("running: pid")
        running_ns = time.time_ns()
        run = migration.wait(600)
        check(run)
        if line is None:
            raise BenchFailed(f"{program('migrate')} did not say that it runs")
        first_ns = int(probe.stdout.readline())
    finally:
        probe.kill()
        probe.stdout.close()
        probe.wait()
    redis.pid = run.report["pid_destination"]
    return {"lazy_first_reply_ms": (first_ns - began_ns) / 1e6,
            "lazy_running_ms": (running_ns - began_ns) / 1e6, "lazy_ms": run.report["total_ms"]}


def one_run(stage: Stage, redis: Redis, options, image: pathlib.Path) -> dict:
    """Saved, restored whole, restored lazily."""
    try:
        figures = save(stage, redis, options, image)
        figures |= restore(redis, options, image)
        figures |= restore_lazily(stage, redis, options, image)
    except BenchFailed as error:
        return {"error": str(error)}
    finally:
        shutil.rmtree(image, ignore_errors=True)
    return figures


def tell(number: int, figures: dict) -> None:
    """One line for a run."""
    if "error" in figures:
        print(f"run {number}: failed: {figures['error']}", flush=True)
        return
    print(f"run {number}: saved in {figures['checkpoint_ms']:.0f} ms, pause "
          f"{figures['blackout_ms']:.1f} ms, gap {figures['client_gap_ms']:.1f} (noise "
          f"{figures['client_gap_noise_ms']:.1f}), whole {figures['client_gap_whole_ms']:.1f} "
          f"({figures['client_gap_whole_noise_ms']:.1f}); restored in {figures['restore_ms']:.0f} "
          f"ms, {100 * figures['restore_speed_share']:.0f} % of read and copy "
          f"({figures['read_copy_ms']:.0f} ms; {100 * figures['restore_speed_share_fresh']:.0f} % of "
          f"that to fresh pages, {figures['read_copy_fresh_ms']:.0f} ms); lazily: first reply after "
          f"{figures['lazy_first_reply_ms']:.1f} ms, whole after {figures['lazy_ms']:.0f} ms",
          flush=True)


def measure(options) -> dict:
    """Runs the benchmark; the result as it goes into the JSON."""
    runs: list[dict] = []
    with Stage() as stage:
        folder = pathlib.Path(options.images or stage.folder)
        redis = Redis(stage.hosts[0], options.rss_mib)
        redis.fill(stage.clients)
        redis.settle(stage.clients)
        for number in range(1, options.runs + 1):
            runs.append(one_run(stage, redis, options, folder / f"bench-image-{number}"))
            tell(number, runs[-1])
            if "error" in runs[-1]:
                break
        if "error" not in runs[-1]:
            redis.verify(stage.clients)
            redis.stop(stage.clients)
        redis.kill()
    good = [run for run in runs if "error" not in run]
    return {"bench": "image", "service": "redis", "rss_mib": options.rss_mib,
            "clients": options.clients, "rate": options.rate, "write_share": options.write_share,
            "runs": runs, "summary": summary_of(good, FIGURES),
            "blackout_phases_ms": median_phases(good), "failed_runs": len(runs) - len(good),
            **{name: sum(run.get(name, 0) for run in runs) for name in (*ERRORS, "tcp_timeouts")}}


def show(result: dict) -> None:
    """The tables."""
    print_summary(result["summary"])
    for name in (*ERRORS, "tcp_timeouts", "failed_runs"):
        print(f"{name:<28}{result[name]:>10}")
    if result["blackout_phases_ms"]:
        print_phases(result["blackout_phases_ms"], result["summary"]["blackout_ms"]["median"])


def is_bad(result: dict) -> bool:
    """Whether something failed, or a client got a wrong answer or lost its connection."""
    return any(result[name] for name in (*ERRORS, "failed_runs"))
