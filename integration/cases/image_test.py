"""Processes are saved to images and brought back to life; what fails leaves them running."""

import random
import shutil
import signal
import time
import unittest

from harness import MoveCase, Redis, programs
from harness import images
from harness.programs import wait_until


class ImageCase(MoveCase):
    """Hosts without a destination agent: none is needed."""

    AGENTS = ()

    def setUp(self):
        super().setUp()
        self.images = self.folder / "images"
        self.images.mkdir()

    def save(self, moved, name, *extra):
        """A checkpoint that must work."""
        run = images.checkpoint(moved.host, moved.pid, self.images / name, *extra)
        self.assertEqual(run.code, 0, str(run))
        self.assertEqual(run.report["state"], "Completed", str(run))
        verified = images.look("images", "verify", self.images / name)
        self.assertEqual(verified.returncode, 0, verified.stderr)
        return run

    def bring_back(self, moved, host, name, *extra):
        """A restore that must work."""
        run = images.restore_moved(moved, host, self.images / name, *extra)
        self.assertEqual(run.code, 0, str(run))
        return run


class SaveAndRestore(ImageCase):
    """The whole path."""

    def test_on_another_host(self):
        """Saved on one host, restored on another: every page and thread is right."""
        workload = self.workload("memory_checker", "64", "2", "5000")
        self.save(workload, "one")
        self.bring_back(workload, self.b, "one")
        time.sleep(0.5)
        self.assert_passes(workload)
        self.assert_nothing_left()

    def test_again_and_again(self):
        """One process, saved and restored several times where it was, compressed each time."""
        workload = self.workload("threads")
        for number, compression in enumerate(("none", "lz4", "zstd")):
            self.save(workload, f"image{number}", "--compress", compression)
            self.bring_back(workload, self.a, f"image{number}")
        self.assert_passes(workload)
        self.assert_nothing_left()

    def test_left_running(self):
        """The process runs on; the image is that of one instant, and restored beside it."""
        workload = self.workload("memory_checker", "64", "2", "5000")
        run = self.save(workload, "one", "--leave-running")
        self.tell(f"pause {run.report['blackout_ms']:.1f} ms {run.report['blackout_phases_ms']}")
        self.assertTrue(workload.is_running())
        time.sleep(0.5)
        self.assert_passes(workload)
        (workload.folder / "stop").unlink()
        workload.status.write_text("")
        self.bring_back(workload, self.b, "one", "--pids", "namespace")
        time.sleep(0.5)
        self.assert_passes(workload)
        self.assert_nothing_left()

    def test_incremental(self):
        """Images that rest on each other; merged into one that rests on none."""
        workload = self.workload("memory_checker", "64", "1", "500")
        self.save(workload, "one", "--leave-running")
        self.save(workload, "two", "--leave-running", "--base", str(self.images / "one"))
        self.save(workload, "three", "--base", str(self.images / "two"), "--compress", "lz4")
        manifest = images.inspect(self.images / "three")["manifest"]
        self.assertGreater(int(manifest["base_pages"]), int(manifest["data_pages"]) // 2)
        merged = images.look("images", "merge", self.images / "three", "--out",
                             self.images / "whole")
        self.assertEqual(merged.returncode, 0, merged.stderr)
        for name in ("one", "two", "three"):
            shutil.rmtree(self.images / name)
        verified = images.look("images", "verify", self.images / "whole")
        self.assertEqual(verified.returncode, 0, verified.stderr)
        self.bring_back(workload, self.b, "whole")
        self.assert_passes(workload)
        self.assert_nothing_left()

    def test_redis(self):
        """Every value is there after it was saved and restored; its clients have lost it."""
        redis = Redis(self.a, 64)
        self.addCleanup(redis.kill)
        redis.fill(self.c)
        run = images.checkpoint(self.a, redis.pid, self.images / "redis")
        self.assertEqual(run.code, 0, str(run))
        redis.process.wait(timeout=10)
        redis.process = None
        run = images.restore(self.a, self.images / "redis")
        self.assertEqual(run.code, 0, str(run))
        redis.pid = run.report["pid_destination"]
        self.tell(f"restored in {run.report['total_ms']:.0f} ms")
        redis.verify(self.c)
        redis.stop(self.c)
        self.assert_nothing_left()


if __name__ == "__main__":
    unittest.main(verbosity=2)
