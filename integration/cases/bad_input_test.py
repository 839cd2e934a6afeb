"""Whatever comes in from outside: the daemon goes on serving, the workload is untouched.

Strangers at the port, peers with keys who say nonsense, a line that damages what passes.
"""

import pathlib
import random
import re
import socket
import time
import unittest

from harness import Keys, programs
from harness.bad_input import BadInputCase
from harness.programs import wait_until
from harness.strangers import (ABORT, HELLO_ANSWER, PREFLIGHT_ANSWER, PREFLIGHT_REQUEST,
                               FalseDestination, Line, Peer, connect, ends, fields, message, number,
                               preface, text)

SNAPSHOT_VERSION = 1


def processor_seconds(pid):
    """What a process has used so far, in user and system mode."""
    words = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / 100


def proportional_bytes(pid):
    """Memory of a process, what it shares divided among those who share it."""
    try:
        rollup = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(int(line.split()[1]) * 1024 for line in rollup.splitlines()
               if line.startswith("Pss:"))


class Strangers(BadInputCase):
    """Connections of somebody who has no keys."""

    def test_garbage(self):
        """Whatever does not begin as one of ours is closed."""
        chance = random.Random(3)
        good = preface()
        first = [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"SSH-2.0-OpenSSH_9.2p1\r\n" + bytes(40),
                 bytes(32), b"\xff" * 4096, good[:8] + b"X" + good[9:], good[:-1] + b"x",
                 preface(b"P", "fedcba9876543210"), good[:9] + b"../../etc/passwd" + bytes(7),
                 b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + chance.randbytes(500)]
        first += [chance.randbytes(chance.randrange(32, 2000)) for _ in range(40)]
        for each in range(0, 256, 5):  # one flipped bit
            damaged = bytearray(good)
            damaged[each // 8] ^= 1 << each % 8
            first.append(bytes(damaged))
        peers = connect(self.a, self.b, len(first))
        for peer, data in zip(peers, first):
            peer.sendall(data)
        # A flipped bit of an id is an id: that one has its handshake's time.
        for peer, data in zip(peers, first):
            if not re.fullmatch(rb"GODWIT1\n[C][0-9a-f]{16}\0{7}", data):
                self.assertTrue(ends(peer), data[:40])
            peer.close()
        self.assert_serves()

    def test_garbage_instead_of_tls(self):
        """A good preface, and then no handshake."""
        chance = random.Random(4)
        for data in (b"x" * 64, bytes(2000), b"\x16\x03\x01\x40\x00" + chance.randbytes(16384),
                     chance.randbytes(5000)):
            [peer] = connect(self.a, self.b)
            peer.sendall(preface() + data)
            self.assertTrue(ends(peer), data[:10])
            peer.close()
        self.assert_serves()

    def test_end_before_the_preface(self):
        """Whoever ends after a few bytes costs no processor time."""
        peers = connect(self.a, self.b, 20)
        for peer in peers:
            peer.sendall(preface()[:10])
            peer.shutdown(socket.SHUT_WR)
        before = processor_seconds(self.b.agent.pid)
        for peer in peers:
            self.assertTrue(ends(peer))
            peer.close()
        time.sleep(0.5)
        self.assertLess(processor_seconds(self.b.agent.pid) - before, 0.2)
        self.assert_nothing_left(running=(self.moved,))
        self.assert_serves()

    def test_half_open_by_the_hundred(self):
        """Connections that say nothing, sessions that never finish their handshake."""
        daemon = self.b.agent.pid
        descriptors = self.b.agent.open_fds()
        silent = connect(self.a, self.b, 400)
        begun = connect(self.a, self.b, 150)
        for index, peer in enumerate(begun):
            peer.sendall(preface(b"C", f"{index:016x}") + b"\x16\x03\x01"[:index % 4])
        more = connect(self.a, self.b, 100)
        before = processor_seconds(daemon)
        run = self.moved.move(self.b)
        self.assert_moved(run)
        self.assertLess(self.b.agent.open_fds() - descriptors, 250)
        below = [pid for pid in programs.descendants(daemon)
                 if programs.name_of(pid) == "dest-agent"]
        self.assertLess(len(below), 40)
        held = sum(map(proportional_bytes, [daemon, *below]))
        self.tell(f"{len(below)} sessions, {held / 2**20:.1f} MiB, "
                  f"{processor_seconds(daemon) - before:.2f} s of processor time")
        self.assertLess(held, 100 << 20)
        self.assertLess(processor_seconds(daemon) - before, 2)
        for peer in silent + begun + more:
            peer.close()
        self.assert_passes(self.moved)
        self.assert_nothing_left()

    def test_half_open_ends_by_itself(self):
        """What stays silent is closed, and so is a handshake that does not go on."""
        [silent] = connect(self.a, self.b)
        [begun] = connect(self.a, self.b)
        begun.sendall(preface())
        self.assertTrue(ends(silent))
        self.assertTrue(ends(begun))
        silent.close()
        begun.close()
        self.assert_nothing_left(running=(self.moved,))

    def test_a_running_migration_is_not_disturbed(self):
        """Strangers name the migration in course: control and page connections with its id."""
        migration = self.a.start_migrate(self.moved.pid, self.b, "-v", "--max-bandwidth", "4M",
                                         "--addresses", "move")
        self.assertIsNotNone(migration.wait_for_line("phase=PreCopy "), migration.lines)
        [journal] = self.b.state_dir.glob("*-destination.json")
        migration_id = journal.name.split("-")[0]
        for kind in (b"C", b"P", b"C", b"P"):
            for peer in connect(self.a, self.b, 10):
                peer.sendall(preface(kind, migration_id) + bytes(100))
                self.assertTrue(ends(peer))
                peer.close()
        run = migration.wait()
        self.assert_moved(run)
        self.moved.follow(self.b, run)
        self.assert_passes(self.moved)

    def test_the_log_stays_small(self):
        """A thousand times nonsense fills no disk."""
        for _ in range(10):
            for peer in connect(self.a, self.b, 100):
                peer.sendall(b"nonsense" * 8)
                peer.close()
        self.assert_serves()
        self.assertLess(self.b.agent.log.stat().st_size, 10_000)


class KnownPeers(BadInputCase):
    """Peers with a source's keys who say what no source says."""

    def peer(self, **options):
        """A control connection inside TLS."""
        peer = Peer(self.a, self.b, self.keys.path("a", "source"), **options)
        self.addCleanup(peer.close)
        return peer

    def test_no_message(self):
        """Sizes and bytes that are none, at the beginning and after Hello."""
        chance = random.Random(5)
        nonsense = [b"\xff\xff\xff\xff", bytes(4), b"\x01\x00\x00\x20" + bytes(100),
                    b"\x05\x00\x00\x00\xff\xff\xff\xff\xff", b"\x03\x00\x00\x00\xfa\x07\x00",
                    *(len(data).to_bytes(4, "little") + data for data in
                      (chance.randbytes(chance.randrange(1, 3000)) for _ in range(12)))]
        for data in nonsense:
            for after_hello in (False, True):
                peer = self.peer()
                if after_hello:
                    peer.hello()
                peer.send_bytes(data)
                story = peer.last_words()
                self.assertIsNotNone(story, f"{data[:20]} is waited for")
                if after_hello:
                    self.assertRegex(story, "sent|announced|version", data[:20])
                peer.close()
        self.assert_serves()

    def test_messages_out_of_order(self):
        """Every kind of message where it has no place."""
        for kind in range(1, 25):
            peer = self.peer()
            if kind not in (1, 16):  # Hello and OutcomeRequest begin
                peer.send(kind)
                self.assertIsNotNone(peer.last_words(), kind)
                peer = self.peer()
            peer.hello()
            if kind != ABORT:
                peer.send(kind)
                story = peer.last_words()
                self.assertTrue(story, f"no word about message {kind}")
            peer.close()
        self.assert_serves()

    def test_descriptions_that_are_none(self):
        """Snapshots that are empty, of another version, without parts, with wild values."""
        wild = text(1, number(1, 7) + number(2, 1 << 40) + text(6, "/x\n\x1b[31m"))
        chance = random.Random(6)
        snapshots = [b"", number(1, 99), number(1, SNAPSHOT_VERSION),
                     number(1, SNAPSHOT_VERSION) + text(3, b"") + text(3, b""),
                     number(1, SNAPSHOT_VERSION) + text(3, b""),
                     number(1, SNAPSHOT_VERSION) + text(3, wild)]
        snapshots += [number(1, SNAPSHOT_VERSION) + text(3, text(1 + chance.randrange(10),
                                                                  number(1, chance.getrandbits(60))))
                      for _ in range(10)]
        for snapshot in snapshots:
            peer = self.peer()
            peer.hello()
            peer.send(PREFLIGHT_REQUEST, text(1, snapshot))
            peer.send(7, text(1, snapshot))  # Describe
            story = peer.last_words()
            self.assertTrue(story, snapshot)
            self.assertNotIn("\x1b", story)
            peer.close()
        self.assert_serves()

    def test_cut_in_the_middle(self):
        """A message that ends early, and a peer that vanishes."""
        peer = self.peer()
        peer.hello()
        peer.send_bytes(b"\x00\x10\x00\x00" + bytes(10))
        peer.close()
        peer = self.peer()
        peer.close()
        self.assert_serves()

    def test_silence(self):
        """Who says nothing after the handshake is not waited for."""
        peer = self.peer()
        self.assertIsNotNone(peer.last_words())
        self.assert_nothing_left(running=(self.moved,))

    def test_another_id(self):
        """The id in Hello is not that of the preface."""
        peer = self.peer()
        peer.migration_id = "ffffffffffffffff"
        peer.hello()
        self.assertIsNotNone(peer.last_words())
        wait_until("the story in the log",
                   lambda: "ffffffffffffffff inside TLS" in self.b.agent.log_tail())
        self.assert_serves()

    def test_other_roles(self):
        """A destination's keys, and those of another authority, open nothing."""
        strangers = Keys(self.folder / "strangers")
        for keys in (self.keys.path("a", "destination"), strangers.path("a", "source")):
            with self.assertRaises(OSError):
                Peer(self.a, self.b, keys).hello()
        self.assert_serves()

    def test_another_architecture(self):
        """A source of another kind of processor, or with more register state, hears no."""
        process = text(1, number(1, 7) + number(2, 7) + text(6, "/bin/true"))
        request = text(1, number(1, SNAPSHOT_VERSION) + text(3, process))
        for features, expected in (({"f3": "aarch64"}, "architecture-differs"),
                                   ({"f3": "x86_64", "f4": 1 << 63, "f7": 4096},
                                    "processor-state-missing"),
                                   ({"f3": "x86_64", "f7": 65536}, "page-size-differs")):
            peer = self.peer()
            peer.hello(f1="elsewhere", **features)
            self.assertEqual(peer.receive()[0], HELLO_ANSWER)
            peer.send(PREFLIGHT_REQUEST, request)
            kind, answer = peer.receive()
            self.assertEqual(kind, PREFLIGHT_ANSWER, answer)
            ids = [dict(fields(finding)).get(1, b"").decode()
                   for field, finding in fields(answer) if field == 1]
            self.assertIn(expected, ids)
            peer.close()
        self.assert_serves()


class FalseDestinations(BadInputCase):
    """A host with a destination's keys that answers what no destination does."""

    AGENTS = ()

    def migrate_to(self, *answers):
        """One migration to such a host."""
        other = FalseDestination(self.b, self.keys.path("b", "destination"), answers)
        try:
            return self.a.migrate(self.moved.pid, other.address)
        finally:
            other.close()

    def test_before_anything_is_touched(self):
        """Nonsense instead of the answers to Hello and to the description: refused."""
        chance = random.Random(8)
        hello = message(HELLO_ANSWER, number(1, 1) + text(3, bytes(32)))
        nonsense = [b"\xff\xff\xff\xff", bytes(4), message(11), message(14, text(1, "\x1b[2J no")),
                    message(PREFLIGHT_ANSWER)[:-1],
                    message(PREFLIGHT_ANSWER, text(1, text(1, "x") + text(3, "\x1b[2J no")))]
        for _ in range(6):
            data = chance.randbytes(chance.randrange(1, 2000))
            nonsense.append(len(data).to_bytes(4, "little") + data)
        for data in nonsense:
            for answers in ((data,), (hello, data)):
                run = self.migrate_to(*answers)
                self.assert_refused(run, "nothing was touched")
                self.assertNotIn("\x1b", run.said)
        self.assert_untouched()

    def test_while_building(self):
        """Nonsense, or an end, when the process has been described: rolled back."""
        hello = message(HELLO_ANSWER, number(1, 1) + text(3, bytes(32)))
        passed = message(PREFLIGHT_ANSWER, text(2, "namespace"))
        for data in (b"\xff\xff\xff\xff", b"", message(13), message(11, number(2, 1))):
            run = self.migrate_to(hello, passed, data)
            self.assertEqual(run.code, 1, str(run))
            self.assertEqual(run.report["state"], "RolledBack")
            self.assertTrue(run.report["error"]["story"])
        self.assert_untouched()


class DamagedLine(BadInputCase):
    """Something between the hosts changes or cuts what passes."""

    def setUp(self):
        super().setUp()
        self.line = None

    def migrate_over(self, damage, *extra):
        """One migration over a line with this damage."""
        self.line = Line(self.b, damage)
        self.addCleanup(self.line.close)
        try:
            return self.a.migrate(self.moved.pid, self.line.address, *extra)
        finally:
            self.line.close()

    def test_line_without_damage(self):
        """The line itself lets a migration pass."""
        run = self.migrate_over(lambda kind, way, at, data: data)
        self.assert_moved(run)
        self.moved.follow(self.b, run)
        self.assert_passes(self.moved)

    def test_garbage_on_the_page_connection(self):
        """Its handshake is none: rolled back."""
        run = self.migrate_over(lambda kind, way, at, data:
                                bytes(len(data)) if kind == b"P" and at >= 32 else data)
        self.assertEqual(run.code, 1, str(run))
        self.assertEqual(run.report["state"], "RolledBack")
        self.assert_untouched()

    def test_flipped_bits(self):
        """A bit of either connection, here and there: TLS sees it, one copy runs on."""
        self.at_offsets(lambda data, at: data[:at] + bytes([data[at] ^ 4]) + data[at + 1:])

    def test_cut(self):
        """Either connection ends, here and there."""
        self.at_offsets(lambda data, at: None)

    def at_offsets(self, damage_at):
        """Damages one byte of a way of a connection; one migration for each."""
        chance = random.Random(7)
        offsets = [(kind, way, chance.randrange(low, high))
                   for kind, way, low, high in
                   ((b"C", "out", 32, 1500), (b"C", "out", 1500, 4000), (b"C", "out", 4000, 16000),
                    (b"C", "back", 0, 1500), (b"C", "back", 1500, 2200), (b"C", "back", 2200, 3000),
                    (b"P", "out", 32, 1500), (b"P", "out", 1500, 4 << 20),
                    (b"P", "back", 0, 1000))]
        for kind, way, offset in offsets:
            with self.subTest(f"{kind.decode()} {way} {offset}"):
                self.one_copy_after_damage(kind, way, offset, damage_at)

    def one_copy_after_damage(self, kind, way, offset, damage_at):
        """The workload passes afterwards, wherever it is; the exit code says where."""
        self.moved = self.workload("memory_checker", "8", "1", "100")
        done = []

        def damage(seen_kind, seen_way, at, data):
            if (seen_kind, seen_way) != (kind, way) or done or not at <= offset < at + len(data):
                return data
            done.append(True)
            return damage_at(data, offset - at)
        run = self.migrate_over(damage)
        self.tell(f"{kind.decode()} {way} {offset}: code {run.code} {run.report.get('state')}: "
                  f"{(run.report.get('error') or {}).get('story', '')}")
        self.assertIn(run.code, (0, 1, 2), str(run))
        if run.code == 0:
            self.moved.follow(self.b, run)
        elif done:
            self.assertTrue(run.report["error"]["story"])
        self.assert_passes(self.moved)


if __name__ == "__main__":
    unittest.main(verbosity=2)
