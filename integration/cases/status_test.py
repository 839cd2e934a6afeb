"""`migrate status` on both hosts, while a migration is in course."""

import json
import time
import unittest

from harness import MoveCase, programs
from harness.programs import program, wait_until


class StatusTest(MoveCase):
    """What is told is what goes on."""

    def status(self, host):
        """The list, which the text must agree with."""
        run = self.network.run(host.part, program("migrate"), "status", "--json", "--state-dir",
                               str(host.state_dir))
        self.assertEqual(run.returncode, 0, str(run))
        return json.loads(run.stdout)

    def text(self, host):
        """The same for people."""
        run = self.network.run(host.part, program("migrate"), "status", "--state-dir",
                               str(host.state_dir))
        self.assertEqual((run.returncode, run.stderr), (0, ""), str(run))
        return run.stdout

    def only(self, host, condition):
        """The one migration of the host, once the condition holds."""
        def look():
            found = self.status(host)
            self.assertLessEqual(len(found), 1)
            return found and condition(found[0]) and found[0]
        return wait_until(f"the status of {host.part}", look, 20)

    def test_nothing(self):
        """An empty list, and a sentence."""
        for host in (self.a, self.b):
            self.assertEqual(self.status(host), [])
            self.assertEqual(self.text(host), "no migration is in course on this host\n")
        run = self.network.run("a", program("migrate"), "status", "--state-dir", "/dev/null")
        self.assertEqual(run.returncode, 2, str(run))

    def test_precopy(self):
        """Rounds, with what is left of them and how fast it is written."""
        workload = self.workload("memory_checker", "64", "2", "4000")
        migration = self.a.start_migrate(workload.pid, self.b, "--mode", "pre", "--max-bandwidth",
                                         "16M", "--max-downtime", "1ms", "-v")
        seen = self.only(self.a, lambda each: each["round"] == 2 and each["pages_left"]
                         and each["dirty_pages_per_s"])
        text = self.text(self.a)
        there = self.only(self.b, lambda each: each["round"] >= 1)
        run = migration.cancel()
        self.assertEqual(run.code, 1, str(run))
        self.assertEqual((seen["role"], seen["pid"], seen["state"], seen["agent_pid"]),
                         ("source", workload.pid, "PreCopy", migration.pid))
        self.assertEqual(seen["migration_id"], run.report["migration_id"])
        self.assertLessEqual(seen["pages_left"], 64 * 256)
        self.assertGreater(seen["dirty_pages_per_s"], 100)
        self.assertTrue(4e6 < seen["bandwidth_bytes_per_s"] < 40e6, seen)
        self.assertIsNone(seen["post_copy"])
        self.assertLess(seen["told_ms_ago"], 2000)
        self.assertRegex(text, rf"source pid {workload.pid} to \S+: PreCopy\n  round \d+, ")
        self.assertEqual((there["role"], there["state"], there["migration_id"]),
                         ("destination", "PreCopy", seen["migration_id"]))
        self.assert_passes(workload)
        self.assert_nothing_left()

    def test_post_copy(self):
        """Pages missing, faults and how long they waited; the report has the same in the end."""
        workload = self.workload("memory_checker", "64", "2", "2000")
        migration = self.a.start_migrate(workload.pid, self.b, "--mode", "post", "--max-bandwidth",
                                         "10M", "-v")
        told = []
        for host in (self.a, self.b):
            told.append(self.only(host, lambda each: each["state"] == "PostCopy"
                                  and each["post_copy"] and each["post_copy"]["faults"] > 20
                                  and each["post_copy"]["complete_in_ms"]))
            text = self.text(host)
            self.assertRegex(text, r"\d+ of \d+ pages missing, complete in about ")
            self.assertRegex(text, r"\d+ faults \(\d+/s\) waited for ")
            self.assertRegex(text, r"below +\d")
        for each in told:
            pages = each["post_copy"]
            self.assertTrue(0 < pages["missing_pages"] < pages["pages"], pages)
            answered = sum(one["faults"] for one in pages["fault_latencies"])
            self.assertTrue(0 < answered <= pages["faults"], pages)
            self.assertGreater(pages["faults_per_s"], 0)
            self.assertFalse(each["source_away"])
        self.assertEqual([each["role"] for each in told], ["source", "destination"])
        run = migration.wait()
        self.assert_moved(run)
        report = run.report["post_copy"]
        self.assertGreaterEqual(report["faults"], told[1]["post_copy"]["faults"])
        answered = sum(one["faults"] for one in report["fault_latencies"])
        self.assertTrue(0 < answered <= report["faults"], report)
        self.assertLessEqual(report["fault_latency_p50_ms"], report["fault_latency_p99_ms"])
        self.assertLessEqual(report["fault_latency_p99_ms"], report["fault_latency_max_ms"])
        workload.follow(self.b, run)
        self.assert_passes(workload)
        self.assertEqual((self.status(self.a), self.status(self.b)), ([], []))
        self.assert_nothing_left()

    def test_agents_that_died(self):
        """The source's is told as gone; the destination's goes on alone, and says so."""
        workload = self.workload("memory_checker", "64", "2", "2000")
        migration = self.a.start_migrate(workload.pid, self.b, "--mode", "post", "--max-bandwidth",
                                         "10M", "-v")
        self.only(self.b, lambda each: each["state"] == "PostCopy" and each["post_copy"])
        time.sleep(0.5)
        programs.send_signal(migration.pid)
        migration.wait(10)
        here = self.only(self.a, lambda each: not each["agent_alive"])
        self.assertEqual(here["pid"], workload.pid)
        self.assertIn("its agent is gone", self.text(self.a))
        there = self.only(self.b, lambda each: each["source_away"])
        self.assertTrue(there["agent_alive"])
        self.assertGreater(there["post_copy"]["missing_pages"], 0)
        self.assertGreater(there["post_copy"]["pages"], there["post_copy"]["missing_pages"])
        self.assertIn("their source is away", self.text(self.b))
        recovered = self.a.recover()
        self.assertEqual(recovered.returncode, 0, str(recovered))
        workload.forget_original()
        workload.pid, workload.host = there["pid"], self.b
        self.assertEqual((self.status(self.a), self.status(self.b)), ([], []))
        self.assert_passes(workload)
        self.assert_nothing_left()


if __name__ == "__main__":
    unittest.main(verbosity=2)
