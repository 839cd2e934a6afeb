"""Memory that is made of huge pages is so again after a move, or a restore."""

import pathlib
import re
import unittest

from harness import images
from harness.image_case import ImageCase
from harness.programs import wait_until

PARAMETERS = pathlib.Path("/sys/kernel/mm/transparent_hugepage")


def huge_kib(pid):
    """KiB of huge pages that the process has."""
    text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    return int(re.search(r"AnonHugePages:\s*(\d+)", text).group(1))


@unittest.skipIf(not PARAMETERS.exists() or "[never]" in (PARAMETERS / "enabled").read_text(),
                 "this host makes no huge pages")
class HugePages(ImageCase):
    """Pages travel one by one."""

    AGENTS = ("a", "b")

    def start(self):
        """The program, with huge pages."""
        workload = self.workload("huge_pages")
        self.assertGreaterEqual(huge_kib(workload.pid), 8 << 10)
        return workload, huge_kib(workload.pid)

    def await_huge(self, workload, kib):
        """They come when nobody waits any more."""
        wait_until(f"{kib} KiB of huge pages", lambda: huge_kib(workload.pid) >= kib)
        self.tell(f"{kib} KiB of huge pages before, {huge_kib(workload.pid)} after")
        self.assert_passes(workload)

    def check_move(self, *extra):
        """One move."""
        workload, kib = self.start()
        run = self.a.migrate(workload.pid, self.b, *extra)
        self.assert_moved(run)
        workload.follow(self.b, run)
        self.await_huge(workload, kib)

    def test_pre_copy(self):
        """All pages are there when it runs."""
        self.check_move("--mode", "pre")

    def test_post_copy(self):
        """Pages follow."""
        self.check_move("--mode", "post")

    def test_image(self):
        """By an image."""
        workload, kib = self.start()
        self.save(workload, "one")
        self.bring_back(workload, self.b, "one")
        self.await_huge(workload, kib)


if __name__ == "__main__":
    unittest.main(verbosity=2)
