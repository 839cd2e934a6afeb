"""What integration tests are made of: hosts in network namespaces, services, clients and a look for leftovers."""

from .cases import MoveCase
from .counters import TcpCounters
from .host import Host, Keys, Run
from .leftovers import Baseline
from . import programs
from .moved import Moved, Service
from .network import Network
from .programs import build_dir, program, touch_and_release
from .redis import Redis, RedisLoad
from .streams import Client
from .workload import Workload, workload_names

__all__ = [
    "Baseline", "Client", "Host", "Keys", "MoveCase", "Moved", "Network", "Redis", "RedisLoad",
    "Run", "Service", "TcpCounters", "Workload", "build_dir", "program", "programs",
    "touch_and_release", "workload_names",
]
