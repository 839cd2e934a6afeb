"""Copies folders from a machine to the other one, or to this machine, over the network between them."""

from typing import Callable

from .machine import Machine

PORT = "7999"
SEND = """
import socket, sys, tarfile
with socket.create_server((sys.argv[1], int(sys.argv[2]))) as server:
    server.settimeout(60)
    line, _ = server.accept()
with line, line.makefile("wb") as stream, tarfile.open(fileobj=stream, mode="w|") as archive:
    archive.add(sys.argv[3] + "/" + sys.argv[4], sys.argv[4])
"""
# The other one may be starting. An archive that ends too early is an error.
RECEIVE = """
import socket, sys, tarfile, time
for left in range(200, -1, -1):
    try:
        line = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=60)
        break
    except ConnectionRefusedError:
        if left == 0: raise
        time.sleep(0.1)
with line, line.makefile("rb") as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
    archive.extractall(sys.argv[3])
"""


def send_folder(machine: Machine, address: str, folder: str, name: str) -> None:
    """Begins to offer a folder of a machine, of which `address` is; the first who asks gets it."""
    machine.start("/usr/bin/python3", "-c", SEND, address, PORT, folder, name, log="/dev/null")


def receive_folder(address: str, folder: str, run: Callable) -> None:
    """Takes it, where `run` runs a program. Throws AssertionError."""
    done = run("/usr/bin/python3", "-c", RECEIVE, address, PORT, folder)
    code = done.code if hasattr(done, "code") else done.returncode
    if code != 0:
        raise AssertionError(f"no folder from {address}: {done}")
