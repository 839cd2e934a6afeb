"""Saved processes that run before their pages are there (`migrate restore --lazy`)."""

import shutil
import time
import unittest

from harness import Redis, images, programs
from harness.image_case import ImageCase
from harness.programs import wait_until

# Bytes a second of what nobody waits for: slow enough to do something meanwhile.
SLOW = ("--max-bandwidth", "16M")


class LazyCase(ImageCase):
    """Restored by a command that lives on until every page is there."""

    def begin(self, moved, host, name, *extra):
        """Starts a lazy restore and waits until the process runs."""
        moved.forget_original()
        wait_until("the end of what was saved", lambda: not programs.is_alive(moved.pid))
        run = images.start_restore(host, self.images / name, "--lazy", *extra)
        line = run.wait_for_line("running: pid")
        self.assertIsNotNone(line, str(run.lines))
        moved.pid = int(line.split(" is pid ")[1].split()[0])
        moved.host = host
        return run

    def end(self, run, code=0):
        """Until every page is there."""
        self.assertIsNone(run.process.poll(), "it was over before anything was done")
        ended = run.wait()
        self.assertEqual(ended.code, code, str(ended))
        return ended

    @staticmethod
    def children(pid, name):
        """Processes of this name among the children."""
        return [child for child in programs.children_of(pid) if programs.name_of(child) == name]


class LazyRestoreTest(LazyCase):
    """The image is whole."""

    def setUp(self):
        super().setUp()
        self.process = self.workload("memory_checker", "64", "1", "500")

    def finish(self, run):
        """The rest comes, and the program finds every byte right."""
        self.end(run)
        self.assert_passes(self.process)
        self.assert_nothing_left()

    def test_on_another_host(self):
        """It writes, patches and gives back pages while they come."""
        self.save(self.process, "one")
        self.finish(self.begin(self.process, self.b, "one", *SLOW))

    def test_at_full_speed(self):
        """Again and again, compressed."""
        for number, compression in enumerate(("none", "lz4", "zstd")):
            self.save(self.process, f"image{number}", "--compress", compression)
            ended = self.begin(self.process, self.a, f"image{number}").wait()
            self.assertEqual(ended.code, 0, str(ended))
        self.assert_passes(self.process)
        self.assert_nothing_left()

    def test_chain_that_is_deleted(self):
        """Pages of two images; both are deleted as soon as it runs."""
        self.save(self.process, "one", "--leave-running")
        self.save(self.process, "two", "--base", str(self.images / "one"), "--compress", "lz4")
        run = self.begin(self.process, self.b, "two", *SLOW)
        shutil.rmtree(self.images / "one")
        shutil.rmtree(self.images / "two")
        self.finish(run)

    def test_page_server_killed(self):
        """Another one goes on."""
        self.save(self.process, "one")
        run = self.begin(self.process, self.b, "one", *SLOW)
        shutil.rmtree(self.images / "one")
        for _ in range(3):
            session = self.children(run.pid, "dest-agent")[0]
            wait_until("a page server", lambda pid=session: self.children(pid, "page-server"))
            programs.send_signal(self.children(session, "page-server")[0])
            time.sleep(0.2)
        self.finish(run)

    def test_session_killed(self):
        """The command starts another one."""
        self.save(self.process, "one")
        run = self.begin(self.process, self.b, "one", *SLOW)
        first = self.children(run.pid, "dest-agent")[0]
        programs.send_signal(first)
        wait_until("another session",
                   lambda: self.children(run.pid, "dest-agent") not in ([], [first]))
        self.finish(run)

    def test_command_killed(self):
        """What it started goes on without it."""
        self.save(self.process, "one")
        run = self.begin(self.process, self.b, "one", *SLOW)
        session = self.children(run.pid, "dest-agent")[0]
        programs.send_signal(run.pid)
        self.assertNotEqual(run.wait().code, 0)
        wait_until("the last page", lambda: not programs.is_alive(session), 30)
        self.assert_passes(self.process)
        self.assert_nothing_left()

    def test_signals(self):
        """SIGINT and SIGTERM don't take pages away from a process that runs."""
        self.save(self.process, "one")
        run = self.begin(self.process, self.b, "one", *SLOW)
        for number in (2, 15):
            programs.send_signal(run.pid, number)
        self.finish(run)


class DamagedImageTest(LazyCase):
    """A page of the image is damaged."""

    def spoil(self, name, share):
        """One bit of the pages."""
        path = self.images / name / "pages"
        with open(path, "r+b") as file:
            file.seek(int(path.stat().st_size * share))
            byte = file.read(1)[0]
            file.seek(-1, 1)
            file.write(bytes([byte ^ 16]))
        return path

    def test_never_wrong_bytes(self):
        """The program that touches it is told by SIGBUS; the command names file and offset."""
        process = self.workload("memory_checker", "64", "2", "5000")
        self.save(process, "one")
        path = self.spoil("one", 0.5)
        ended = self.begin(process, self.b, "one").wait()
        self.assertEqual(ended.code, 1, str(ended))
        for text in (str(path), "at offset", "checksum", "SIGBUS"):
            self.assertIn(text, ended.said)
        self.assertEqual(ended.report["state"], "Completed")
        wait_until("its end by SIGBUS", lambda: not process.is_running(), 30)
        self.assertNotIn("FAIL", process.text())
        self.assert_nothing_left()


class RedisTest(LazyCase):
    """A redis with data."""

    def test_every_value(self):
        """Read back while the pages come, which they have to do at once for that."""
        redis = Redis(self.a, 64)
        self.addCleanup(redis.kill)
        redis.fill(self.c)
        self.save(redis, "redis")
        redis.process.wait(timeout=10)
        redis.process = None
        run = images.start_restore(self.a, self.images / "redis", "--lazy", "--max-bandwidth", "4M")
        line = run.wait_for_line("running: pid")
        self.assertIsNotNone(line, str(run.lines))
        redis.pid = int(line.split(" is pid ")[1].split()[0])
        redis.verify(self.c)
        self.assertIsNone(run.process.poll(), "all pages had come before")
        redis.verify(self.c)
        redis.stop(self.c)
        self.assertEqual(run.wait().code, 0)
        self.assert_nothing_left()


if __name__ == "__main__":
    unittest.main(verbosity=2)
