"""The benchmarks run, at the smallest sizes, and their JSON has the names that others rely on."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

BENCH = pathlib.Path(__file__).resolve().parents[1] / "bench"
SPREADS = ("client_gap_ms", "client_gap_noise_ms", "client_gap_whole_ms",
           "client_gap_whole_noise_ms", "blackout_ms", "precopy_throughput_ratio", "total_ms",
           "bytes_over_resident", "agents_rss_mib")
POSTCOPY_SPREADS = ("blackout_ms", "client_gap_ms", "client_gap_noise_ms", "fault_latency_p50_ms",
                    "fault_latency_p99_ms", "fault_latency_max_ms", "faults", "zero_faults",
                    "bare_stream_ms", "postcopy_ms", "postcopy_over_bare", "recovery_ms",
                    "recovery_over_bare")
# `migrate` itself in the part of another mover: its report answers the contract. The second time
# it fails.
PEER = ('[ ! -e "$PEER_MARK" ] || { echo out of order >&2; exit 3; }; touch "$PEER_MARK"; '
        '"$PEER_PROGRAM" --pid "$GODWIT_PEER_PID" --to "$GODWIT_PEER_AGENT" '
        '--keys "$GODWIT_PEER_KEYS" --state-dir "$GODWIT_PEER_FOLDER" --addresses move --json -')


class BenchTest(unittest.TestCase):
    """Sizes and names, no speeds."""

    def bench(self, *words, **environment):
        """(exit code, JSON, output) of one run."""
        with tempfile.TemporaryDirectory(prefix="godwit-bench-test-") as folder:
            file = pathlib.Path(folder, "result.json")
            done = subprocess.run([sys.executable, BENCH, *words, "--json", file], text=True,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                  env=os.environ | environment, timeout=300)
            found = json.loads(file.read_text()) if file.exists() else None
        self.assertIsNotNone(found, done.stdout)
        return done.returncode, found, done.stdout

    def assert_spread(self, values, what):
        """min <= median <= max, all of them numbers."""
        self.assertLessEqual(0, values["min"], what)
        self.assertLessEqual(values["min"], values["median"], what)
        self.assertLessEqual(values["median"], values["max"], what)

    def check_pause(self, found, output):
        """One result of `pause`, of our own or of the peer."""
        for name in SPREADS:
            if found["summary"][name]["median"] is not None:
                self.assert_spread(found["summary"][name], name)
        for name in ("failed_commands", "reconnects", "counter_errors", "tcp_timeouts"):
            self.assertEqual(found[name], 0, f"{name}: {output}")
        for run in found["runs"]:
            self.assertGreater(run["blackout_ms"], 0)
            self.assertGreater(run["frozen_after_ms"], 0)
            self.assertLess(run["frozen_after_ms"], run["total_ms"])
            # The clients were stopped for as long as the report says, and it says when.
            self.assertGreater(run["client_gap_ms"], 0.5 * run["blackout_ms"])
            self.assertGreaterEqual(run["client_gap_whole_ms"], run["client_gap_ms"] - 1e-9)
        phases = found["blackout_phases_ms"]
        self.assertGreater(sum(phases.values()), 0.2 * found["summary"]["blackout_ms"]["median"])

    def test_pause_with_a_peer(self):
        """The fixed names, of two moves and of a peer that gets what the contract promises; its
        second move fails, which is told beside our own figures."""
        sys.path.insert(0, str(BENCH.parent))
        from harness import program
        with tempfile.TemporaryDirectory(prefix="godwit-bench-test-") as folder:
            code, found, output = self.bench(
                "pause", "--service", "redis", "--rss-mib", "8", "--clients", "5", "--rate", "1000",
                "--write-share", "0.25", "--runs", "2", "--quiet-s", "0.6", "--peer", PEER,
                PEER_PROGRAM=program("migrate"), PEER_MARK=f"{folder}/moved")
        self.assertEqual(code, 0, output)
        self.assertEqual((found["bench"], found["service"], found["rss_mib"]), ("pause", "redis", 8))
        self.check_pause(found, output)
        self.assertEqual(len(found["runs"]), 2)
        for name in SPREADS:
            self.assertIsNotNone(found["summary"][name]["median"], name)
        first, second = found["peer"].pop("runs")
        self.assertIn("out of order", second["error"])
        self.assertEqual((found["failed_moves"], found["peer"]["failed_moves"]), (0, 1))
        self.check_pause({**found["peer"], "runs": [first]}, output)

    def test_postcopy(self):
        """There and back; faults are counted and every page came."""
        code, found, output = self.bench(
            "postcopy", "--rss-mib", "48", "--clients", "5", "--rate", "1000", "--runs", "1",
            "--quiet-s", "0.6", "--after-s", "2")
        self.assertEqual(code, 0, output)
        self.assertEqual((found["bench"], found["rss_mib"]), ("postcopy", 48))
        for name in POSTCOPY_SPREADS:
            # On a busy machine the clients may not get their rate back in that time.
            if found["summary"][name]["min"] is not None or not name.startswith("recovery"):
                self.assert_spread(found["summary"][name], name)
        for name in ("failed_commands", "reconnects", "counter_errors", "tcp_timeouts"):
            self.assertEqual(found[name], 0, f"{name}: {output}")
        run = found["runs"][0]
        self.assertGreater(run["faults"], 0)
        self.assertEqual(run["missing_pages"], 0)
        self.assertGreater(run["missing_at_switch_mib"], 8)
        self.assertGreater(run["client_gap_ms"], 0.5 * run["blackout_ms"])
        if run["recovery_ms"] is not None:
            self.assertGreaterEqual(run["recovery_ms"], run["blackout_ms"] - 1e-3)
        self.assertGreater(run["fault_latency_p50_ms"], 0)
        self.assertAlmostEqual(run["postcopy_over_bare"], run["postcopy_ms"] / run["bare_stream_ms"])

    def test_image(self):
        """Saved while it runs on, restored whole and lazily; the shares are those of the times."""
        code, found, output = self.bench(
            "image", "--rss-mib", "8", "--clients", "5", "--rate", "1000", "--runs", "1",
            "--quiet-s", "0.6")
        self.assertEqual(code, 0, output)
        self.assertEqual((found["bench"], found["rss_mib"]), ("image", 8))
        for name, values in found["summary"].items():
            self.assert_spread(values, name)
        for name in ("failed_commands", "reconnects", "counter_errors", "failed_runs"):
            self.assertEqual(found[name], 0, f"{name}: {output}")
        run = found["runs"][0]
        self.assertGreater(run["image_mib"], 8)
        self.assertGreater(run["client_gap_ms"], 0.5 * run["blackout_ms"])
        self.assertGreater(run["lazy_first_reply_ms"], 1)
        self.assertGreater(run["lazy_ms"], 0)
        self.assertAlmostEqual(run["restore_speed_share"], run["read_copy_ms"] / run["restore_ms"])

    def test_throughput(self):
        """The ratio is that of the two speeds; the process is whole."""
        code, found, output = self.bench("throughput", "--rss-mib", "48", "--runs", "1")
        self.assertEqual(code, 0, output)
        run = found["runs"][0]
        self.assertAlmostEqual(found["summary"]["stream_over_tls"],
                               run["stream_bytes_per_s"] / run["tls_bytes_per_s"])
        self.assertEqual(run["cipher"], "TLS_AES_128_GCM_SHA256")
        self.assertGreaterEqual(run["streams"], 1)
        self.assertGreater(run["first_round_pages"] * 4096, 45 << 20)
        self.assertEqual(found["verdict"], "PASS")

    def test_scale(self):
        """One point of each kind; a size that cannot be is told, with an exit code."""
        code, found, output = self.bench("scale", "--quick", "--runs", "1", "--quiet-s", "0.1")
        self.assertEqual(code, 0, output)
        self.assertEqual([point["kind"] for point in found["points"]],
                         ["resident", "threads", "descriptors", "connections", "mappings", "mixed"])
        for point in found["points"]:
            self.assertGreater(point["blackout_ms"], 0, point)
            self.assertGreater(point["blackout_phases_ms"]["stop"], 0, point)
            self.assertGreater(point["client_gap_ms"], 0.5 * point["blackout_ms"], point)

    def test_scale_tells_a_failure(self):
        """More descriptors than a process may have."""
        code, found, output = self.bench("scale", "--only", "descriptors", "--sizes", "2000000",
                                         "--runs", "1")
        self.assertEqual(code, 1, output)
        self.assertIn("ended with", found["points"][0]["error"])


if __name__ == "__main__":
    unittest.main(verbosity=2)
