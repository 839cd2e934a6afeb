"""Every self-checking program passes after one move and after five more, there and back."""

import time
import unittest

from harness import Client, MoveCase, workload_names
from harness.network import SERVICE, SERVICE6

# Arguments of programs, and the clients that talk to them: (program, address, port, options).
ARGUMENTS = {
    "tcp_server": ("7000", SERVICE, SERVICE6),
    "udp_server": ("7001", SERVICE, SERVICE6),
    "memory_checker": ("64", "2", "5000"),
}
# Programs that write all of their memory again and again: no round makes the rest small.
OPTIONS = {"heap_growth": ("--max-downtime", "1s", "--max-rounds", "6")}
CLIENTS = {
    "tcp_server": (("client_tcp_stream", SERVICE, 7000, "--connections", "4", "--bytes-per-s", "1e6"),
                   ("client_tcp_stream", SERVICE6, 7000, "--connections", "2",
                    "--bytes-per-s", "1e6")),
    "udp_server": (("client_udp", SERVICE, 7001, "--rate", "1000"),
                   ("client_udp", SERVICE6, 7001, "--rate", "1000")),
}


class WorkloadsTest(MoveCase):
    """One test for each program in integration/workloads."""

    MODE = "hybrid"
    MOVES = 6

    def move(self, workload, *extra):
        """One move to the other host, verified."""
        run = workload.move(self.other(workload.host), "--verify", "--mode", self.MODE, *extra)
        self.assert_moved(run)
        self.blackouts.append(run.report["blackout_ms"])
        time.sleep(0.1)
        self.assertTrue(workload.is_running(), f"{workload.story()}\n{self.agent_logs()}")

    def check_program(self, name):
        """One move, then five more."""
        self.blackouts = []
        workload = self.workload(name, *ARGUMENTS.get(name, ()))
        clients = [Client(self.c, *words) for words in CLIENTS.get(name, ())]
        extra = (*OPTIONS.get(name, ()), *(("--addresses", "move") if clients else ()))
        time.sleep(0.1)
        for _ in range(self.MOVES):
            self.move(workload, *extra)
        for client in clients:
            found = client.stop()
            self.tell(f"{client.name} {found}")
            self.assertEqual(found["exit_code"], 0, f"{found}\n{self.agent_logs()}")
        self.tell("blackout " + ", ".join(f"{ms:.1f}" for ms in self.blackouts) + " ms")
        service_on = workload.host.part if clients else None
        self.assert_nothing_left(running=(workload,), service_on=service_on)
        self.assert_passes(workload)
        self.assert_nothing_left(service_on=service_on)

    def test_guard_regions(self):
        """Guard regions are moved, or refused by their name: never lost in silence."""
        try:
            workload = self.workload("mappings", "guard-regions")
        except RuntimeError as error:
            self.assertIn("MADV_GUARD_INSTALL: Invalid argument", str(error))
            self.skipTest(f"this kernel has none: {error}")
        run = workload.move(self.b, "--verify")
        if run.code == 2:
            self.assertTrue(any("guard" in finding for finding in run.finding_ids()), str(run))
        else:
            self.assert_moved(run)
        self.assert_passes(workload)
        self.assert_nothing_left()


def _add_tests():
    def test_of(name):
        def test(self):
            self.check_program(name)
        test.__doc__ = f"{name} passes after one and after six moves."
        return test
    for name in [*workload_names(), "compute_check.py"]:
        setattr(WorkloadsTest, f"test_{name.removesuffix('.py')}", test_of(name))


_add_tests()

if __name__ == "__main__":
    unittest.main(verbosity=2)
