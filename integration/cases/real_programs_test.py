"""Programs that people run are moved there and back, twice, while they work under load.

Servers of others with clients that know every answer, runtimes that compile code as they go, a
database, and programs of many threads, datagrams or streams that are never idle.
"""

import os
import sqlite3
import time
import unittest

from harness import Client, MoveCase, Service, TcpCounters
from harness.network import SERVICE, SERVICE6

MOVES = 4
WORK_S = 0.3  # between two moves
# They share the processors with their clients and write to the same pages all the time.
BUSY = ("--max-downtime", "500ms")

NGINX = """
daemon off;
master_process off;
worker_processes 1;
pid {folder}/pid;
error_log {folder}/log;
events {{ worker_connections 512; }}
http {{
  access_log {folder}/access;
  sendfile on;
  keepalive_requests 1000000;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  server {{ listen {address}:80; root {folder}; }}
}}
"""


class RealProgramsTest(MoveCase):
    """One program each."""

    def service(self, argv, port, folder=None):
        """A server that listens on `port` of host a."""
        started = Service(self.a, argv, port, folder)
        self.addCleanup(started.kill)
        return started

    def move(self, program, *extra):
        """There and back twice; the program works on all the time."""
        reports = []
        for _ in range(MOVES):
            time.sleep(WORK_S)
            run = program.move(self.other(program.host), *extra)
            self.assert_moved(run)
            reports.append(run.report)
            self.assertTrue(program.is_running(), f"{program.story()}\n{self.agent_logs()}")
        time.sleep(WORK_S)
        longest = max(reports, key=lambda report: report["blackout_ms"])
        self.tell("blackout " + ", ".join(f"{report['blackout_ms']:.1f}" for report in reports) +
                  f" ms, the longest {longest['blackout_phases_ms']}")

    def move_under_load(self, program, *loads):
        """The same with clients (what Client takes behind the host) that judge every answer."""
        counters = TcpCounters(self.network, "c")
        clients = [Client(self.c, *load) for load in loads]
        try:
            self.move(program, "--addresses", "move", *BUSY)
        finally:
            found = [client.stop() for client in clients]
        for client, report in zip(clients, found):
            self.tell(f"{client.name} {report}")
            self.assertEqual(report["exit_code"], 0, f"{report}\n{self.agent_logs()}")
        if program.name != "tcp_server":  # what it has queued takes its time
            self.assertEqual(counters.delta()["TcpExt.TCPTimeouts"], 0, counters.delta())
        self.assert_nothing_left(running=(program,), service_on=program.host.part)

    def test_memcached(self):
        """Every value that was stored last comes back; counters neither lose nor double."""
        memcached = self.service(["memcached", "-u", "root", "-l", SERVICE, "-p", "11211",
                                  "-m", "256"], 11211)
        self.move_under_load(memcached, ("client_memcached", SERVICE, 11211, "--keys", "4000",
                                         "--pause-us", "500"))

    def test_nginx(self):
        """No request fails: on connections that are kept, on new ones, in the midst of files."""
        folder = self.folder / "nginx"
        folder.mkdir()
        (folder / "small").write_bytes(os.urandom(10_000))
        (folder / "large").write_bytes(os.urandom(20_000_000))
        (folder / "conf").write_text(NGINX.format(folder=folder, address=SERVICE))
        nginx = self.service(["nginx", "-p", folder, "-c", folder / "conf", "-e", folder / "log"],
                             80, folder)
        self.move_under_load(nginx, ("client_http", SERVICE, 80, "--small", folder / "small",
                                     "--large", folder / "large"))

    def test_tcp_streams(self):
        """Ten connections that are full both ways, every byte compared."""
        server = self.workload("tcp_server", "7000", SERVICE, SERVICE6)
        self.move_under_load(server, ("client_tcp_stream", SERVICE, 7000, "--connections", "10",
                                      "--bytes-per-s", "1e10"))
        self.assert_passes(server)

    def test_datagrams(self):
        """Numbered datagrams of two families: none is lost, none doubled."""
        server = self.workload("udp_server", "7001", SERVICE, SERVICE6)
        self.move_under_load(server,
                             ("client_udp", SERVICE, 7001, "--rate", "1000"),
                             ("client_udp", SERVICE6, 7001, "--rate", "1000"))
        self.assert_passes(server)

    def test_thousand_threads(self):
        """A thousand threads that hand a token round by futexes, others that come and go."""
        threads = self.workload("many_threads", "1000")
        self.move(threads, *BUSY)
        self.assert_nothing_left(running=(threads,))
        self.assert_passes(threads)

    def test_node(self):
        """Code that is compiled as it gets hot, workers, timers."""
        self.check_computer(self.workload("compute_check.js"))

    def test_jvm(self):
        """The same in a JVM, whose collector works all the time."""
        self.check_computer(self.workload("compute_check.java"))

    def check_computer(self, program):
        """A program that finds out for itself when something is wrong."""
        self.move(program, *BUSY)
        self.assert_nothing_left(running=(program,))
        self.assert_passes(program)

    def test_sqlite(self):
        """Transactions on a shared folder: none is lost, and the database is whole."""
        database = self.folder / "database"
        writer = self.workload("sqlite_writer.py", database)
        self.move(writer, *BUSY)
        self.assert_nothing_left(running=(writer,))
        self.assert_passes(writer)
        with sqlite3.connect(database) as connection:
            self.assertEqual(connection.execute("pragma integrity_check").fetchall(), [("ok",)])
            self.tell(f"{connection.execute('select count(*) from transfers').fetchone()[0]} "
                      "transactions")
        connection.close()


if __name__ == "__main__":
    unittest.main(verbosity=2)
