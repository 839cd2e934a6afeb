"""Every self-checking program passes after it was saved on one host and restored on another, twice."""

import subprocess
import sys
import textwrap
import time
import unittest

from harness import MoveCase, images, workload_names
from harness.moved import Service
from harness.network import SERVICE
from harness.programs import wait_until

ARGUMENTS = {"memory_checker": ("64", "2", "5000")}
# What becomes of connections is tested below. A process's own clocks stand still while it is an
# image, that of the host does not: timerfds measures one by the other.
OTHERS = {"tcp_server", "udp_server", "timerfds"}

ECHO = textwrap.dedent("""
    import socket, sys
    listening = socket.create_server((sys.argv[1], 7002))
    while True:
        connection, _ = listening.accept()
        try:
            while received := connection.recv(100):
                connection.sendall(received)
            print("ended", flush=True)
        except OSError as error:
            print("lost", error.errno, flush=True)
""")

TALK = textwrap.dedent("""
    import socket, sys
    connection = socket.create_connection((sys.argv[1], 7002), timeout=20)
    for line in sys.stdin:
        try:
            connection.sendall(line.encode())
            print(connection.recv(100).decode().strip() or "closed", flush=True)
        except OSError as error:
            print("lost", error.errno, flush=True)
""")


class SavedCase(MoveCase):
    """Hosts without agents."""

    AGENTS = ()

    def save_and_restore(self, moved, to, *extra):
        """Once; the image goes."""
        image = self.folder / f"image{moved.moves}"
        moved.moves += 1
        run = images.checkpoint(moved.host, moved.pid, image)
        self.assertEqual(run.code, 0, str(run))
        run = images.restore_moved(moved, to, image, *extra)
        self.assertEqual(run.code, 0, str(run))
        time.sleep(0.1)
        self.assertTrue(moved.is_running(), moved.story())


class ImageWorkloadsTest(SavedCase):
    """One test for each program in integration/workloads."""

    def check_program(self, name):
        """There and back."""
        workload = self.workload(name, *ARGUMENTS.get(name, ()))
        time.sleep(0.1)
        self.save_and_restore(workload, self.b)
        self.save_and_restore(workload, self.a)
        self.assert_nothing_left(running=(workload,))
        self.assert_passes(workload)
        self.assert_nothing_left()


class ConnectionsTest(SavedCase):
    """A server with one client, saved and restored where it was."""

    def setUp(self):
        super().setUp()
        self.server = Service(self.a, [sys.executable, "-c", ECHO, SERVICE], 7002)
        self.addCleanup(self.server.kill)
        self.client = self.c.start([sys.executable, "-c", TALK, SERVICE], stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE, text=True)
        self.addCleanup(self.end_client)
        self.assertEqual(self.say("before"), "before")

    def end_client(self):
        """Closes its connection."""
        self.client.stdin.close()
        self.client.stdout.close()
        self.client.wait(timeout=10)

    def say(self, text):
        """What the server answers."""
        self.client.stdin.write(text + "\n")
        self.client.stdin.flush()
        return self.client.stdout.readline().strip()

    def test_kept(self):
        """A connection on which nothing came meanwhile goes on."""
        self.save_and_restore(self.server, self.a, "--tcp", "keep")
        self.assertEqual(self.say("after"), "after")
        self.assert_nothing_left(running=(self.server,))

    def test_closed(self):
        """The server is told that its client is gone, and serves the next one."""
        self.save_and_restore(self.server, self.a)
        wait_until("the server to hear of it", lambda: "lost 104" in self.server.story())
        self.assertIn(self.say("after").split()[0], ("lost", "closed"))
        done = self.c.network.run("c", sys.executable, "-c", TALK, SERVICE, input="again\n")
        self.assertEqual(done.stdout.strip(), "again", done.stderr)
        self.assert_nothing_left(running=(self.server,))


def _add_tests():
    def test_of(name):
        def test(self):
            self.check_program(name)
        test.__doc__ = f"{name} passes after it was saved and restored."
        return test
    for name in [*workload_names(), "compute_check.py"]:
        if name not in OTHERS:
            setattr(ImageWorkloadsTest, f"test_{name.removesuffix('.py')}", test_of(name))


_add_tests()

if __name__ == "__main__":
    unittest.main(verbosity=2)
