"""Whatever is refused is refused by its name, with its exit code, and the workload is untouched.

The exit code is 2: refused before anything was touched.
"""

import json
import os
import pathlib
import pty
import shutil
import signal
import subprocess
import sys
import time
import unittest

from harness import Keys, MoveCase, Workload, program, programs
from harness.host import AGENT_PORT
from harness.programs import wait_until

# Attaches to the process of argv[1] as a debugger does, and stays.
TRACER = """
import ctypes, sys, time
libc = ctypes.CDLL(None, use_errno=True)
PTRACE_SEIZE = 0x4206
if libc.ptrace(PTRACE_SEIZE, int(sys.argv[1]), None, None) != 0:
    sys.exit(f"ptrace: errno {ctypes.get_errno()}")
print("attached", flush=True)
time.sleep(600)
"""


class RefusalCase(MoveCase):
    """What all refusals have in common."""

    def assert_refused(self, run, *words):
        """Exit code 2, and every word in the finding's ids or in what it says."""
        self.assertEqual(run.code, 2, str(run))
        said = (" ".join(run.finding_ids()) + " " + run.said).lower()
        for word in words:
            self.assertIn(word.lower(), said, str(run))
        error = run.report.get("error") or {}
        self.tell(f"{error.get('id')}: {error.get('story')}")

    def assert_untouched(self, workload):
        """It runs on, passes, and nothing was left on either host."""
        self.assert_passes(workload)
        self.assert_nothing_left()

    def refuse_both(self, pid, *words):
        """`migrate check` and `migrate` say the same."""
        self.assert_refused(self.a.check(pid, self.b), *words)
        self.assert_refused(self.a.migrate(pid, self.b), *words)


class ProcessRefusals(RefusalCase):
    """Processes that can't be moved."""

    def test_unknown_pid(self):
        """No process has this id."""
        pid = int(pathlib.Path("/proc/sys/kernel/pid_max").read_text()) - 1
        self.assertFalse(pathlib.Path(f"/proc/{pid}").exists())
        self.refuse_both(pid, "no-such-pid", str(pid))
        self.assert_nothing_left()

    def test_thread_id(self):
        """An id of a thread that is no process."""
        workload = self.workload("many_threads")
        threads = [int(tid) for tid in os.listdir(f"/proc/{workload.pid}/task")]
        tid = next(tid for tid in sorted(threads) if tid != workload.pid)
        run = self.a.check(tid, self.b)
        self.assertEqual(run.code, 2, str(run))
        self.assert_untouched(workload)

    def test_kernel_thread(self):
        """A kernel thread has no memory of its own."""
        kernel_threads = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc")))
                          if self.is_kernel_thread(pid)]
        if not kernel_threads:
            self.skipTest("this pid namespace shows no kernel thread")
        self.refuse_both(kernel_threads[0], "pid-is-kernel-thread")
        self.assert_nothing_left()

    @staticmethod
    def is_kernel_thread(pid):
        """PF_KTHREAD in the flags of /proc/PID/stat."""
        try:
            stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return False
        return int(stat.rpartition(")")[2].split()[6]) & 0x00200000 != 0

    def test_init(self):
        """Process 1 holds the host together."""
        self.refuse_both(1, "pid-is-init")
        self.assert_nothing_left()

    def test_own_pid(self):
        """It can't move itself, nor what it was started by."""
        own = ("sh", "-c", 'command=$1; shift 3; exec "$command" --pid $$ "$@"', "sh")
        run = self.a.migrate(0, self.b, before=own)
        self.assert_refused(run, "pid-is-self")
        run = self.a.migrate(os.getpid(), self.b)
        self.assert_refused(run, "pid-is-ancestor")
        self.assert_nothing_left()

    def test_zombie(self):
        """A process that has ended already."""
        ended = subprocess.Popen(["true"])
        self.addCleanup(ended.wait)
        wait_until("the zombie", lambda: pathlib.Path(f"/proc/{ended.pid}/stat").read_text()
                   .rpartition(")")[2].split()[0] == "Z")
        self.refuse_both(ended.pid, "pid-is-zombie")
        self.assert_nothing_left()

    def test_traced(self):
        """A debugger is attached."""
        workload = self.workload("memory_checker", "8")
        tracer = subprocess.Popen([sys.executable, "-c", TRACER, str(workload.pid)],
                                  stdout=subprocess.PIPE, text=True)
        try:
            self.assertEqual(tracer.stdout.readline().strip(), "attached")
            self.refuse_both(workload.pid, "already-traced", str(tracer.pid))
        finally:
            tracer.kill()
            tracer.wait()
            tracer.stdout.close()
        self.assert_untouched(workload)

    def test_stopped(self):
        """A stopped process is refused by name, and stays stopped."""
        workload = self.workload("memory_checker", "8")
        os.kill(workload.pid, signal.SIGSTOP)
        time.sleep(0.1)
        run = self.a.check(workload.pid, self.b)
        self.assert_refused(run, "pid-is-stopped")
        os.kill(workload.pid, signal.SIGCONT)
        self.assert_untouched(workload)


class Verdicts(RefusalCase):
    """`migrate check` says everything at once, of both hosts."""

    def setUp(self):
        super().setUp()
        master, slave = pty.openpty()
        self.addCleanup(os.close, master)
        # On a terminal, in a directory that is gone: two reasons at the source.
        gone = self.folder / "gone"
        gone.mkdir()
        self.refused = self.a.start(["sleep", "600"], stdin=slave, cwd=gone)
        os.close(slave)
        self.addCleanup(self.end)
        wait_until("the program", lambda: programs.name_of(self.refused.pid) == "sleep")
        gone.rmdir()

    def end(self):
        """Ends the process that can't be moved."""
        self.refused.kill()
        self.refused.wait()

    def check(self, *words, to=None, **options):
        """The verdict has each of these; every finding is whole."""
        run = self.a.check(self.refused.pid, to or self.b, "--pids", "same", **options)
        self.assertEqual(run.code, 2, str(run))
        self.assertEqual(run.report["state"], "Refused")
        for word in words:
            self.assertIn(word, run.finding_ids(), str(run))
            self.assertIn(f"[{word}]", run.said)
        for finding in run.report["findings"]:
            for field in ("id", "object", "problem", "way_out"):
                self.assertTrue(finding[field], str(finding))
        return run

    def test_both_hosts(self):
        """What the destination has against it is told beside what the source has."""
        run = self.check("fd-terminal", "directory-deleted", "pid-taken")
        self.assertNotIn("destination-not-asked", run.finding_ids())
        self.assertIn("can't move to", run.said)
        self.assertEqual(programs.process_state(self.refused.pid), "S")
        self.end()
        self.assert_nothing_left()

    def test_without_keys(self):
        """Nobody can be asked, and that is one of the findings."""
        empty = self.folder / "empty"
        empty.mkdir()
        self.check("fd-terminal", "keys-missing", keys=empty)

    def test_without_destination(self):
        """Nothing listens there: the source's part is told all the same."""
        self.check("fd-terminal", "destination-unreachable", to="10.77.0.2:9")

    def test_no_process(self):
        """Of what is no process only the hosts' part is told with it."""
        run = self.a.check(1, "10.77.0.2:9")
        self.assertEqual(set(run.finding_ids()), {"pid-is-init", "destination-unreachable"})

    def test_as_a_document(self):
        """--json - and nothing else on standard output."""
        done = self.network.run("a", program("migrate"), "check", "--pid", str(self.refused.pid),
                                "--to", self.b.agent.address, "--keys",
                                str(self.keys.path("a", "source")), "--json", "-")
        self.assertEqual(done.returncode, 2, str(done))
        self.assertIn("fd-terminal", [each["id"] for each in json.loads(done.stdout)["findings"]])
        self.assertIn("[fd-terminal]", done.stderr)

    def test_address_of_the_agents(self):
        """Options of the migration count: --addresses move is judged as well."""
        script = "import socket, time; s = socket.create_server(('10.77.0.1', 7123)); time.sleep(600)"
        listener = self.a.start([sys.executable, "-c", script])
        try:
            wait_until("the listener", lambda: ":1BD3 " in pathlib.Path(
                f"/proc/{listener.pid}/net/tcp").read_text())
            run = self.a.check(listener.pid, self.b, "--addresses", "move")
            self.assert_refused(run, "address-is-control-line", "10.77.0.1")
        finally:
            listener.kill()
            listener.wait()


class KeyRefusals(RefusalCase):
    """Certificates and connections."""

    def setUp(self):
        super().setUp()
        self.moved = self.workload("memory_checker", "8")

    def test_wrong_authority(self):
        """Both hosts were given keys, but by different authorities."""
        strangers = Keys(self.folder / "strangers")
        run = self.a.migrate(self.moved.pid, self.b, keys=strangers.path("a", "source"))
        self.assert_refused(run, "certificate-refused", "authority")
        self.assert_untouched(self.moved)

    def test_expired(self):
        """The certificate has expired."""
        out = self.folder / "expired"
        subprocess.run([program("migrate"), "keys", "issue", "--dir", self.keys.folder, "--name",
                        "a", "--role", "source", "--out", out, "--days", "-1"], check=True,
                       capture_output=True)
        run = self.a.migrate(self.moved.pid, self.b, keys=out)
        self.assert_refused(run, "expired")
        self.assert_untouched(self.moved)

    def test_missing(self):
        """The key folder has no certificate."""
        empty = self.folder / "empty"
        empty.mkdir()
        run = self.a.migrate(self.moved.pid, self.b, keys=empty)
        self.assert_refused(run, "keys-missing", "migrate keys issue")
        self.assert_untouched(self.moved)

    def test_wrong_role(self):
        """A destination's certificate is not a source's."""
        run = self.a.migrate(self.moved.pid, self.b, keys=self.keys.path("a", "destination"))
        self.assert_refused(run, "role")
        self.assert_untouched(self.moved)

    def test_no_plain_tcp(self):
        """What answers there is no agent."""
        listener = self.b.start([sys.executable, "-c", """
import socket, time
server = socket.create_server(("10.77.0.2", 7099))
while True:
    peer, _ = server.accept()
    peer.recv(100)
    peer.sendall(b"220 something else\\r\\n" * 10)
"""])
        try:
            wait_until("the listener", lambda: ":1BBB " in pathlib.Path(
                f"/proc/{listener.pid}/net/tcp").read_text())
            run = self.a.migrate(self.moved.pid, "10.77.0.2:7099")
            self.assert_refused(run, "destination-not-godwit", "TLS")
        finally:
            listener.kill()
            listener.wait()
        self.assert_untouched(self.moved)

    def test_unreachable(self):
        """Nothing listens there; nobody has that address."""
        run = self.a.migrate(self.moved.pid, "10.77.0.2:9")
        self.assert_refused(run, "destination-unreachable", "10.77.0.2:9", "refused")
        run = self.a.migrate(self.moved.pid, f"10.77.0.77:{AGENT_PORT}")
        self.assert_refused(run, "destination-unreachable", "10.77.0.77")
        self.assert_untouched(self.moved)


class FileRefusals(RefusalCase):
    """The destination lacks a file, or has another one under its name."""

    AGENTS = ("a",)

    def start_with(self, *mounts):
        """Starts the destination agent in a mount namespace of its own with these mounts."""
        script = " && ".join([*mounts, 'exec "$@"'])
        self.b.start_agent(before=("unshare", "-m", "--propagation", "private", "sh", "-c", script,
                                   "sh"))
        self.addCleanup(self.b.stop_agent)

    def copy_of_program(self, name):
        """A program in a folder of its own, so that the destination can lack it."""
        folder = self.folder / "programs"
        folder.mkdir()
        return pathlib.Path(shutil.copy(program(f"workload_{name}"), folder / f"workload_{name}"))

    def start_copy(self, path):
        """Starts the copy as a workload on host a."""
        # The shell takes the copy instead of the program that Workload names.
        workload = Workload(self.a, "heap_growth", before=(
            "sh", "-c", 'shift; exec "$0" "$@"', str(path)))
        self.addCleanup(workload.kill)
        return workload

    def check(self, workload, *words):
        """Refused by both commands, untouched."""
        self.refuse_both(workload.pid, *words)
        self.assert_passes(workload)

    def test_missing_executable(self):
        """The program itself is not there."""
        path = self.copy_of_program("heap_growth")
        workload = self.start_copy(path)
        self.start_with(f"mount -t tmpfs none {path.parent}")
        self.check(workload, "missing", str(path))

    def test_different_executable(self):
        """Another version of the program is there."""
        path = self.copy_of_program("heap_growth")
        workload = self.start_copy(path)
        other = shutil.copy(path, self.folder / "other")
        with open(other, "ab") as file:
            file.write(b"another version")
        self.start_with(f"mount --bind {other} {path}")
        self.check(workload, "different", str(path))

    def test_same_size_different_content(self):
        """Equal in size and time, but not in content."""
        path = self.copy_of_program("heap_growth")
        workload = self.start_copy(path)
        other = shutil.copy2(path, self.folder / "other")
        with open(other, "r+b") as file:
            file.seek(-1, os.SEEK_END)
            last = file.read(1)
            file.seek(-1, os.SEEK_END)
            file.write(bytes([last[0] ^ 0xFF]))
        shutil.copystat(path, other)
        self.start_with(f"mount --bind {other} {path}")
        self.check(workload, "different", str(path))

    def test_different_library(self):
        """A library differs."""
        workload = self.workload("memory_checker", "8")
        library = self.mapped_file(workload.pid, "libgcc_s")
        other = shutil.copy(library, self.folder / "library")
        with open(other, "ab") as file:
            file.write(b"another version")
        self.start_with(f"mount --bind {other} {library}")
        self.check(workload, "different", library)

    def test_missing_library(self):
        """A library is not there."""
        workload = self.workload("compute_check.py")
        library = self.mapped_file(workload.pid, "lib-dynload")
        self.start_with(f"mount -t tmpfs none {os.path.dirname(library)}")
        self.check(workload, "missing", library)

    @staticmethod
    def mapped_file(pid, part):
        """The first mapped file whose path contains `part`."""
        for line in pathlib.Path(f"/proc/{pid}/maps").read_text().splitlines():
            words = line.split(maxsplit=5)
            if len(words) == 6 and part in words[5]:
                return words[5]
        raise AssertionError(f"process {pid} maps no file with {part} in its path")


if __name__ == "__main__":
    unittest.main(verbosity=2)
