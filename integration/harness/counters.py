"""TCP counters of a namespace (/proc/net/snmp, /proc/net/netstat), read through a process inside it."""

from .network import Network


class TcpCounters:
    """What the kernel counted in one part of the network since this object was made."""

    NAMES = ("TcpExt.TCPTimeouts", "Tcp.RetransSegs", "TcpExt.TCPSynRetrans", "Tcp.EstabResets")

    def __init__(self, network: Network, part: str):
        self._network = network
        self._part = part
        self._before = self._read()

    def delta(self) -> dict[str, int]:
        """Counter names and how far each moved."""
        now = self._read()
        return {name: now[name] - self._before[name] for name in self.NAMES}

    def _read(self) -> dict[str, int]:
        text = self._network.run(self._part, "cat", "/proc/net/netstat", "/proc/net/snmp",
                                 check=True).stdout
        lines = text.splitlines()
        values = {}
        for heads, numbers in zip(lines[::2], lines[1::2]):
            kind, _, names = heads.partition(":")
            for name, number in zip(names.split(), numbers.split()[1:]):
                values[f"{kind}.{name}"] = int(number)
        return values
