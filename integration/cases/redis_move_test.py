"""A redis with clients writing and reading back moves there and back; nobody notices.

GODWIT_REDIS_MIB (256) of random values, GODWIT_MOVES (1) times there and back, GODWIT_RATE (10000).
"""

import time
import unittest

from harness import MoveCase, Redis, RedisLoad, TcpCounters
from harness.cases import number_from_environment
from harness.redis import largest_ms


class RedisMoveTest(MoveCase):
    """The whole path."""

    def move(self, redis):
        """One move under load."""
        run = redis.host.migrate(redis.pid, self.other(redis.host), "--addresses", "move")
        self.assert_moved(run)
        redis.follow(self.other(redis.host), run)
        report = run.report
        self.tell(f"to {redis.host.part}: blackout {report['blackout_ms']:.1f} ms "
                  f"{report.get('blackout_phases_ms')}, {len(report['rounds'])} rounds, "
                  f"{report['bytes_sent'] / 1e6:.0f} MB, {report['total_ms']:.0f} ms in all")
        self.assert_nothing_left(running=(redis,), service_on=redis.host.part)
        return run

    def judge(self, report, timeouts):
        """No failed command, wrong reply, reconnect, lost or doubled INCR, nor a timeout."""
        for name in ("failed_commands", "wrong_replies", "reconnects", "counter_errors"):
            self.assertEqual(report[name], 0, name)
        self.assertEqual(timeouts["TcpExt.TCPTimeouts"], 0, timeouts)

    def check_moves(self, mib, **load_options):
        """There and back under load, with every value read back at the end."""
        redis = Redis(self.a, mib)
        self.addCleanup(lambda: redis.process and (redis.process.kill(), redis.process.wait()))
        self.tell(f"filled: {redis.fill(self.c)}")
        counters = TcpCounters(self.network, "c")
        load = RedisLoad(self.c, **load_options)
        started_ns = time.time_ns()
        time.sleep(1)
        runs = []
        try:
            quiet_ns = (started_ns, time.time_ns())
            for _ in range(2 * number_from_environment("GODWIT_MOVES", 1)):
                runs.append(self.move(redis))
                time.sleep(0.5)
        finally:
            report = load.stop()
        for run in runs:
            self.tell(f"client gap {largest_ms(report, *run.switch_window_ns()):.1f} ms, whole "
                      f"{largest_ms(report, run.started_ns, run.ended_ns):.1f} ms")
        delta = counters.delta()
        self.tell(f"noise {largest_ms(report, *quiet_ns):.1f} ms, {report['ops']} operations, "
                  f"latency p99 {report['latency_p99_ms']:.2f} max {report['latency_max_ms']:.1f} "
                  f"ms, {delta}")
        self.judge(report, delta)
        self.tell(f"read back: {redis.verify(self.c)}")
        redis.stop(self.c)
        self.assert_nothing_left(service_on="a")

    def test_moves_under_load(self):
        """Fifty clients, every connection at work in the blackout."""
        self.check_moves(number_from_environment("GODWIT_REDIS_MIB", 256),
                         rate=number_from_environment("GODWIT_RATE", 10000))

    def test_moves_with_many_clients(self):
        """Of so many connections some stand still from the look at them to the switch, some do not."""
        self.check_moves(32, rate=3000, clients_count=300)


if __name__ == "__main__":
    unittest.main(verbosity=2)
