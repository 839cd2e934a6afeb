"""Processes are saved to images and brought back to life; what fails leaves them running."""

import os
import random
import re
import shutil
import subprocess
import time
import unittest

from harness import Redis, images, programs
from harness.cases import number_from_environment
from harness.image_case import ImageCase
from harness.programs import program, wait_until


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

    def test_left_running_while_it_writes(self):
        """It writes faster than rounds can follow: what is left is taken in the pause, and written
        when it runs on; every page is that of one instant."""
        workload = self.workload("memory_checker", "64", "2", "200000")
        run = self.save(workload, "one", "--leave-running", "--compress", "zstd", "--max-rounds",
                        "2")
        self.tell(f"pause {run.report['blackout_ms']:.1f} ms {run.report['blackout_phases_ms']}")
        self.assert_passes(workload)
        (workload.folder / "stop").unlink()
        workload.status.write_text("")
        self.bring_back(workload, self.b, "one", "--pids", "namespace", "--lazy")
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

    def test_again_at_intervals(self):
        """A bounded chain while it runs; the newest whole image is the one that comes back."""
        workload = self.workload("memory_checker", "64", "1", "500")
        series = self.images / "series"
        run = images.start_checkpoint(self.a, workload.pid, series, "--every", "300ms", "--keep",
                                      "3")

        def names():
            return sorted(entry.name for entry in series.glob("[0-9]*[0-9]")
                          if (entry / "manifest").exists() and ".partial" not in entry.name)
        wait_until("five images", lambda: series.exists() and names()[-1:] >= ["000005"])
        ended = run.cancel()
        self.assertEqual(ended.code, 0, str(ended))
        self.assertLessEqual(len(names()), 4)
        for name in names():
            verified = images.look("images", "verify", series / name)
            self.assertEqual(verified.returncode, 0, verified.stderr)
        newest = series / names()[-1]
        content = bytearray((newest / "pages").read_bytes())
        content[4096 + 100] ^= 1
        (newest / "pages").write_bytes(content)
        workload.kill()
        workload.status.write_text("")
        run = images.restore(self.a, series)
        self.assertEqual(run.code, 0, str(run))
        self.assertIn(f"series/{names()[-2]}", run.report["destination"])
        workload.pid = run.report["pid_destination"]
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


class BadImages(ImageCase):
    """What is no image, or one no more: told by file and offset, and nothing is made."""

    def setUp(self):
        super().setUp()
        self.process = self.workload("memory_checker", "16", "1", "500")
        self.save(self.process, "one", "--leave-running")
        self.one = self.images / "one"

    def refused(self, code, *texts, image="one"):
        """A restore that ends with this exit code and tells all of this."""
        run = images.restore(self.b, self.images / image)
        self.assertEqual(run.code, code, str(run))
        for text in texts:
            self.assertIn(text, run.said)
        self.assert_nothing_left(running=(self.process.pid,))

    def copy(self, name):
        """Another image to be spoilt."""
        shutil.copytree(self.one, self.images / name, symlinks=True)
        return self.images / name

    def test_cut_off(self):
        """Each file, at its end and in the middle."""
        for part in ("manifest", "state", "index", "pages"):
            for share in (0.5, 0.999):
                image = self.copy(f"{part}-{share}")
                size = (image / part).stat().st_size
                with open(image / part, "r+b") as file:
                    file.truncate(int(size * share))
                self.refused(2, f"{image.name}/{part}", image=image.name)

    def test_flipped_bits(self):
        """In the small files before anything is made; in pages when they are read."""
        for part, code in (("manifest", 2), ("state", 2), ("index", 2), ("pages", 1)):
            image = self.copy(part)
            content = bytearray((image / part).read_bytes())
            content[len(content) // 2] ^= 4
            (image / part).write_bytes(content)
            self.refused(code, f"{part}/{part}", "offset", image=image.name)

    def test_others(self):
        """A newer version, a foreign file, a symbolic link, a missing base, an empty directory."""
        newer = self.copy("newer")
        content = bytearray((newer / "manifest").read_bytes())
        content[8] = 2
        (newer / "manifest").write_bytes(content)
        self.refused(2, "newer/manifest", "format version 2", image="newer")
        foreign = self.copy("foreign")
        (foreign / "manifest").write_bytes(b"\x7fELF" + bytes(100))
        self.refused(2, "foreign/manifest", "not a file of an image", image="foreign")
        (self.images / "link").symlink_to(self.one)
        self.refused(2, "link is a symbolic link", image="link")
        self.save(self.process, "two", "--leave-running", "--base", str(self.one))
        self.one.rename(self.images / "away")
        self.refused(2, "two: its base image", "No such file", image="two")
        (self.images / "empty").mkdir()
        self.refused(2, "it has no manifest", image="empty")
        self.refused(2, "No such file", image="nowhere")

    def test_places_that_cannot_be_written(self):
        """Refused before the process is touched."""
        (self.images / "link").symlink_to(self.folder)
        for place, finding in (("one", "image-exists"), ("link", "image-target-link"),
                               ("no/where", "image-unwritable")):
            run = images.checkpoint(self.a, self.process.pid, self.images / place)
            self.assertEqual(run.code, 2, str(run))
            self.assertIn(finding, run.finding_ids())
        run = images.checkpoint(self.a, self.process.pid, self.images / "new", "--base",
                                str(self.images / "nowhere"))
        self.assertEqual((run.code, run.finding_ids()[0]), (2, "image-base"), str(run))
        self.assert_passes(self.process)
        self.assert_nothing_left()

    def tearDown(self):
        self.process.kill()
        super().tearDown()


class Faults(ImageCase):
    """Whatever fails leaves the process running and earlier images as they are."""

    def setUp(self):
        super().setUp()
        self.process = self.workload("memory_checker", "64", "2", "5000")
        self.took_s = self.save(self.process, "one", "--leave-running").report["total_ms"] / 1000

    def check_one(self):
        """The earlier image is whole."""
        self.assertEqual(images.look("images", "verify", self.images / "one").returncode, 0)

    def test_disk_full(self):
        """A disk with room for half of it."""
        small = self.folder / "small"
        small.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "none", small], check=True)
        self.addCleanup(subprocess.run, ["umount", small], check=True)
        run = images.checkpoint(self.a, self.process.pid, small / "two")
        self.assertEqual(run.code, 1, str(run))
        self.assertIn("No space left on device", run.said)
        self.assertEqual(list(small.iterdir()), [])
        self.check_one()
        self.assert_passes(self.process)
        self.assert_nothing_left()

    def test_page_server_killed(self):
        """It is the agent's to notice."""
        run = images.start_checkpoint(self.a, self.process.pid, self.images / "two", "--compress",
                                      "zstd")

        def page_servers():
            return [pid for pid in programs.children_of(run.pid)
                    if programs.name_of(pid) == "page-server"]
        wait_until("the page server", page_servers)
        for pid in page_servers():
            programs.send_signal(pid)
        run = run.wait()
        self.assertEqual(run.code, 1, str(run))
        self.assertEqual([entry.name for entry in self.images.iterdir()], ["one"])
        self.assert_passes(self.process)
        self.assert_nothing_left()

    def test_killed_at_random(self):
        """`migrate` is killed at any instant: then either the process runs or its image is whole."""
        times = number_from_environment("GODWIT_KILLS", 12)
        saved = 0
        for number in range(times):
            name = f"try{number}"
            run = images.start_checkpoint(self.process.host, self.process.pid, self.images / name)
            time.sleep(random.uniform(0, 1.5 * self.took_s))
            programs.send_signal(run.pid)
            run.wait()
            self.process.host.recover()
            self.check_one()
            whole = images.look("images", "verify", self.images / name).returncode == 0
            if whole:
                saved += 1
                wait_until("its end", lambda: not programs.is_alive(self.process.pid))
                self.bring_back(self.process, self.process.host, name)
                shutil.rmtree(self.images / name)
            self.assertTrue(self.process.is_running(), name)
            self.assertFalse((self.images / name).exists())
        self.tell(f"{saved} of {times} were saved before they were killed")
        self.assert_passes(self.process)
        self.assert_nothing_left()

    def tearDown(self):
        self.process.kill()
        super().tearDown()


class Tools(ImageCase):
    """What tells about images."""

    def test_core_file(self):
        """gdb opens it: every thread is there, with its registers and a backtrace."""
        workload = self.workload("threads")
        self.save(workload, "one", "--leave-running")
        core = self.folder / "core"
        made = images.look("core", self.images / "one", "--out", core)
        self.assertEqual(made.returncode, 0, made.stderr)
        threads = images.inspect(self.images / "one")["state"]["snapshot"]["processes"][0]["threads"]
        self.assertGreater(len(threads), 1)
        told = subprocess.run(
            ["gdb", "-nx", "-batch", "-ex", "info threads", "-ex", "thread apply all -q bt",
             "-ex", "thread apply all -q p/x $pc", program("workload_threads"), core],
            capture_output=True, text=True, timeout=120, check=True,
            env=dict(os.environ, DEBUGINFOD_URLS=""))
        for thread in threads:
            self.assertIn(f"LWP {thread['tid']}", told.stdout, told.stderr)
        self.assertIn("in main (", told.stdout, told.stdout + told.stderr)
        counters = re.findall(r"\$\d+ = (0x[0-9a-f]+)", told.stdout)
        self.assertEqual(len(counters), len(threads), told.stdout)
        self.assertNotIn("corrupt stack", told.stdout)
        self.assert_passes(workload)
        self.assert_nothing_left()

    def test_list_and_inspect(self):
        """A damaged image is told among the others."""
        workload = self.workload("regular_files")
        self.save(workload, "one", "--leave-running")
        self.save(workload, "two", "--leave-running", "--base", str(self.images / "one"))
        listed = images.look("images", "list", self.images)
        self.assertEqual(listed.returncode, 0, listed.stderr)
        lines = listed.stdout.splitlines()
        self.assertEqual([line.split()[0] for line in lines], ["one", "two"])
        self.assertIn(f"pid {workload.pid}", lines[0])
        self.assertIn("on one", lines[1])
        summary = images.look("inspect", self.images / "two", "--summary")
        self.assertEqual(summary.returncode, 0, summary.stderr)
        self.assertIn(f"pid {workload.pid}", summary.stdout)
        (self.images / "one" / "state").write_bytes(b"")
        listed = images.look("images", "list", self.images)
        self.assertEqual(listed.returncode, 1)
        self.assertIn("one/state", listed.stderr)
        self.assert_passes(workload)
        self.assert_nothing_left()


if __name__ == "__main__":
    unittest.main(verbosity=2)
