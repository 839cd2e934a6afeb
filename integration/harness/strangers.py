"""Peers that are not what they should be: raw connections to a destination, and a line between the
agents that damages what passes.

The protocol is that of common/wire: 32 bytes of preface, TLS, messages behind their size. What is
sent inside is written by hand, field by field, since a wrong message is the point of it.
"""

import ctypes
import os
import pathlib
import select
import socket
import ssl
import struct
import threading

from .host import AGENT_PORT, Host

GREETING = b"G"
ABORT = 14  # fields of Envelope in proto/control.proto
HELLO = 1
HELLO_ANSWER = 2
PREFLIGHT_REQUEST = 3
PREFLIGHT_ANSWER = 4
_CLONE_NEWNET = 0x40000000


def inside(host: Host, body):
    """Runs body() in a thread that is in the host's network (setns(2)); sockets stay where they
    were made."""
    outcome = []

    def run():
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            network = os.open(f"/run/netns/{host.network.namespace(host.part)}", os.O_RDONLY)
            try:
                if libc.setns(network, _CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), "setns")
            finally:
                os.close(network)
            outcome.append((body(), None))
        except BaseException as error:  # handed to the caller
            outcome.append((None, error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    result, error = outcome[0]
    if error is not None:
        raise error
    return result


def preface(kind: bytes = b"C", migration_id: str = "0123456789abcdef") -> bytes:
    """The first bytes of a connection (common/wire/preface.h)."""
    return b"GODWIT1\n" + kind + migration_id.encode() + bytes(7)


def connect(source: Host, to: Host, count: int = 1, timeout_s: float = 20) -> list[socket.socket]:
    """Connections of `source` to the agent of `to`."""
    address = (to.management, AGENT_PORT)
    return inside(source, lambda: [socket.create_connection(address, timeout=timeout_s)
                                   for _ in range(count)])


def ends(peer: socket.socket) -> bool:
    """True when the other side closes within the socket's timeout, in whatever manner."""
    try:
        while peer.recv(65536):
            pass
        return True
    except ConnectionError:
        return True
    except TimeoutError:
        return False


def varint(number: int) -> bytes:
    """A number of a message."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def number(field: int, value: int) -> bytes:
    """A field that is a number."""
    return varint(field << 3) + varint(value)


def text(field: int, value: bytes | str) -> bytes:
    """A field that is a text, bytes or another message."""
    value = value.encode() if isinstance(value, str) else value
    return varint(field << 3 | 2) + varint(len(value)) + value


def fields(message: bytes) -> list[tuple[int, int | bytes]]:
    """The fields of a message in order: numbers, or the bytes of texts and messages."""
    at, found = 0, []

    def take_varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(message):
        key = take_varint()
        value = take_varint()
        if key & 7 == 2:
            value, at = message[at:at + value], at + value
        found.append((key >> 3, value))
    return found


class Peer:
    """A source that holds valid keys and says what it likes over a control connection."""

    def __init__(self, source: Host, to: Host, keys: pathlib.Path,
                 migration_id: str = "0123456789abcdef"):
        self.migration_id = migration_id
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False  # roles count, names don't
        context.load_verify_locations(keys / "ca.crt")
        context.load_cert_chain(keys / "host.crt", keys / "host.key")
        [plain] = connect(source, to)
        plain.sendall(preface(b"C", migration_id))
        self._stream = context.wrap_socket(plain)
        if self._stream.recv(1) != GREETING:
            raise ConnectionError("no greeting")

    def send_bytes(self, data: bytes) -> None:
        """Inside TLS; a peer that has closed already is no error."""
        try:
            self._stream.sendall(data)
        except OSError:
            pass

    def send(self, kind: int, body: bytes = b"") -> None:
        """One message."""
        self.send_bytes(message(kind, body))

    def hello(self, **features) -> None:
        """Says Hello as a source would; `features`: number or text of fields of HostFeatures."""
        host = b"".join(number(field, value) if isinstance(value, int) else text(field, value)
                        for field, value in ((int(name.lstrip("f")), value)
                                             for name, value in features.items()))
        self.send(HELLO, number(1, 1) + text(2, self.migration_id) + text(4, "auto") +
                  text(5, "keep") + text(7, host))

    def receive(self) -> tuple[int, bytes] | None:
        """The next message: its kind and body. None at the end."""
        head = self._exactly(4)
        if head is None:
            return None
        message = self._exactly(struct.unpack("<I", head)[0])
        return None if message is None else fields(message)[0]

    def last_words(self) -> str | None:
        """Reads to the end: the story of an Abort, "" for an end without; None when none comes."""
        story = ""
        try:
            while (message := self.receive()) is not None:
                if message[0] == ABORT:
                    story = dict(fields(message[1])).get(1, b"").decode()
        except TimeoutError:
            return None
        return story

    def close(self) -> None:
        """Closes without a word."""
        self._stream.close()

    def _exactly(self, count: int) -> bytes | None:
        data = b""
        while len(data) < count:
            try:
                part = self._stream.recv(count - len(data))
            except TimeoutError:
                raise
            except OSError:
                return None
            if not part:
                return None
            data += part
        return data


def message(kind: int, body: bytes = b"") -> bytes:
    """An envelope behind its size."""
    envelope = text(kind, body)
    return struct.pack("<I", len(envelope)) + envelope


class FalseDestination:
    """Listens on `host` with a destination's keys, and answers one message after the other with the
    next of `answers`, bytes inside TLS; then it closes. Page connections are closed at once."""

    def __init__(self, host: Host, keys: pathlib.Path, answers: list[bytes], port: int = 7072):
        self.address = f"{host.management}:{port}"
        self._answers = answers
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_verify_locations(keys / "ca.crt")
        self._context.load_cert_chain(keys / "host.crt", keys / "host.key")
        self._context.verify_mode = ssl.CERT_REQUIRED
        self._listener = inside(host, lambda: socket.create_server((host.management, port)))
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stops listening."""
        try:
            self._listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._listener.close()
        self._thread.join(timeout=10)

    def _serve(self) -> None:
        while True:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            if plain.recv(32, socket.MSG_WAITALL)[8:9] == b"C":
                threading.Thread(target=self._converse, args=(plain,), daemon=True).start()
            else:
                plain.close()

    def _converse(self, plain: socket.socket) -> None:
        try:
            with self._context.wrap_socket(plain, server_side=True) as stream:
                stream.settimeout(20)
                stream.sendall(GREETING)
                for answer in self._answers:
                    left = struct.unpack("<I", stream.recv(4))[0]
                    while left > 0:
                        left -= len(stream.recv(left))
                    stream.sendall(answer)
        except (OSError, struct.error):
            return


class Line:
    """Stands on `host` between a source and the agent there, and lets `damage` change what passes.

    damage(kind, way, at, data) gets the kind of the connection (b"C", b"P"), "out" for bytes of the
    source and "back" for those of the destination, how many bytes went that way before, and the
    bytes; it returns what is to be passed on, or None to cut the connection.
    """

    def __init__(self, host: Host, damage, port: int = 7071):
        self._host = host
        self._damage = damage
        self._port = port
        self._listener = inside(host, lambda: socket.create_server((host.management, port)))
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    @property
    def address(self) -> str:
        """What a source connects to."""
        return f"{self._host.management}:{self._port}"

    def close(self) -> None:
        """Ends every connection."""
        for item in (self._listener, *self._open):
            try:
                item.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            item.close()
        for thread in self._threads:
            thread.join(timeout=10)

    def _start(self, body, *arguments) -> None:
        thread = threading.Thread(target=body, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                source, _ = self._listener.accept()
            except OSError:
                return
            [agent] = connect(self._host, self._host)
            agent.settimeout(None)
            for end in (source, agent):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._open += [source, agent]
            self._start(self._carry, source, agent)

    def _carry(self, source, agent) -> None:
        """Both ways in one thread, so that `damage` is asked for one at a time."""
        first = source.recv(32, socket.MSG_PEEK | socket.MSG_WAITALL)
        kind = first[8:9]
        passed = {"out": 0, "back": 0}
        ways = {source: ("out", agent), agent: ("back", source)}
        try:
            while ways:
                for end in select.select(list(ways), [], [])[0]:
                    way, other = ways[end]
                    data = end.recv(65536)
                    if not data:
                        other.shutdown(socket.SHUT_WR)
                        del ways[end]
                        continue
                    changed = self._damage(kind, way, passed[way], data)
                    if changed is None:
                        return
                    passed[way] += len(data)
                    other.sendall(changed)
        except (OSError, ValueError):
            return
        finally:
            for end in (source, agent):
                try:
                    end.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
