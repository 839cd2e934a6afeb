"""Free memory that the hypervisor keeps backing until it is used.

A hypervisor takes free memory back within seconds (free page reporting: drivers of balloons tell it
which blocks are free), and the first touch of each page then waits for it, ten times as long as it takes
the kernel to hand the page out. Memory that was touched a moment ago is there for two seconds only,
which is less than it takes to move 1 GiB. So a process of its own holds what a move will use and gives it
free as fast as it is used up: what is measured is the program, not the hypervisor.
"""

import mmap
import select
import subprocess
import sys
import time

MIB = 1 << 20
STEP_MIB = 2  # a quarter of a millisecond
# Free beyond what was free at the start: what is used between two looks, at 4 GB/s.
AHEAD_MIB = 64
LOOK_EVERY_S = 0.01
SETTLE_S = 0.2


class BackedMemory:
    """A context in which the next `mib` MiB that anyone takes are there at once."""

    def __init__(self, mib: int):
        # What others take meanwhile, page tables among it, counts as well.
        self._mib = mib + mib // 8 + 2 * AHEAD_MIB
        self._holder = None

    def __enter__(self):
        self._holder = subprocess.Popen([sys.executable, __file__, str(self._mib)],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._holder.stdout.readline()
        time.sleep(SETTLE_S)
        return self

    def __exit__(self, *failure):
        self._holder.kill()
        self._holder.wait()
        self._holder.stdin.close()
        self._holder.stdout.close()


def _free_mib() -> int:
    with open("/proc/meminfo", encoding="ascii") as file:
        return next(int(line.split()[1]) // 1024 for line in file if line.startswith("MemFree:"))


def _hold(mib: int) -> None:
    """Gives free what was used up since, until all of it is gone or nobody waits any more."""
    # Pages of 4 KiB: whole huge pages would come back as blocks that the kernel hands out after all
    # smaller ones, those taken away among them.
    with mmap.mmap(-1, mib * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as area:
        block = b"\xa5" * MIB
        for start in range(0, mib * MIB, MIB):
            area[start:start + MIB] = block
        enough_mib = _free_mib() + AHEAD_MIB
        held = mib
        print("held", flush=True)
        while held > 0:
            while held > 0 and _free_mib() < enough_mib:
                step = min(STEP_MIB, held)
                held -= step
                area.madvise(mmap.MADV_DONTNEED, held * MIB, step * MIB)
            if select.select([sys.stdin], [], [], LOOK_EVERY_S)[0]:
                return


if __name__ == "__main__":
    _hold(int(sys.argv[1]))
    sys.stdin.read()
