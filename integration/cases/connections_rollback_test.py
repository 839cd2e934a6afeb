"""Connections and datagrams outlive a migration that fails, at whatever instant it does."""

import time
import unittest

from harness import Client, MoveCase
from harness.counters import TcpCounters
from harness.network import SERVICE, SERVICE6
from harness.programs import descendants, name_of, send_signal


class ConnectionsRollbackTest(MoveCase):
    """The destination's session is killed; the clients are served from wherever the server runs."""

    PHASES = ("Building", "PreCopy", "Freezing", "Switching", "Prepared", "Committed")
    DATAGRAMS_PER_MS = 1  # of each client, as started below
    LOST_LATE_MS_MAX = 100

    def kill_in(self, moved, phase):
        """One migration whose destination dies. Gives the datagrams that may be lost with it.

        None as long as the source decides. Once it has sent the commit the destination may have said
        on the link that the address is there: what comes until the source knows better, and says
        so, dies with the session that held it.
        """
        there = self.other(moved.host)
        migration = moved.host.start_migrate(moved.pid, there, "-v", "--addresses", "move")
        migration.wait_for_line(f"phase={phase} ")
        for pid in descendants(there.agent.pid):
            if name_of(pid) == "dest-agent":
                send_signal(pid)
        run = migration.wait(60)
        doubt_ms = run.report["phases_ms"].get("InDoubt", 0)
        self.tell(f"killed in {phase}: code {run.code}, {run.report['state']}, "
                  f"in doubt {doubt_ms} ms")
        self.assertIn(run.code, (0, 1), f"{run}\n{self.agent_logs()}")
        if run.code == 0:
            moved.follow(there, run)
        time.sleep(0.5)
        self.assertTrue(moved.is_running(), f"{moved.story()}\n{self.agent_logs()}")
        if run.code != 0 and doubt_ms == 0:
            return 0
        return (doubt_ms + self.LOST_LATE_MS_MAX) * self.DATAGRAMS_PER_MS

    def check(self, moved, clients):
        """Failures in all phases, then a move that succeeds."""
        time.sleep(0.2)
        lost_max = 0
        for phase in self.PHASES:
            with self.subTest(phase):
                counters = TcpCounters(self.network, "c")
                lost_max += self.kill_in(moved, phase)
                self.tell(f"{phase}: clients' host: {counters.delta()}")
        self.assert_moved(moved.move(self.other(moved.host), "--addresses", "move"))
        time.sleep(0.3)
        for client in clients:
            found = client.stop()
            self.tell(f"{client.name} {found}")
            if 0 < found.get("lost", 0) <= lost_max:
                self.assertEqual((found["doubled"], found["damaged"], found["errors"]), (0, 0, 0))
                continue
            self.assertEqual(found["exit_code"], 0, f"{found}\n{self.agent_logs()}")
        self.assert_passes(moved)
        self.assert_nothing_left(service_on=moved.host.part)

    def test_tcp(self):
        """Every byte arrives once and no connection is reset."""
        moved = self.workload("tcp_server", "7000", SERVICE, SERVICE6)
        self.check(moved, [Client(self.c, "client_tcp_stream", address, 7000, "--connections", "3",
                                  "--bytes-per-s", "500000") for address in (SERVICE, SERVICE6)])

    def test_udp(self):
        """Held datagrams are not lost, and none comes twice."""
        moved = self.workload("udp_server", "7001", SERVICE, SERVICE6)
        self.check(moved, [Client(self.c, "client_udp", address, 7001, "--rate", "1000")
                           for address in (SERVICE, SERVICE6)])


if __name__ == "__main__":
    unittest.main(verbosity=2)
