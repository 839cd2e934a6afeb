"""Debian's kernels, from the mirror that this machine uses: fetched by the package's name, taken
apart and never installed.
"""

import json
import lzma
import pathlib
import re
import shutil
import tempfile
from dataclasses import dataclass

from . import cache
from .debian import private_apt, run

# What a kernel is called here: the suite, the package that depends on the newest one of it, and the
# processor as Debian calls it.
KERNELS = {
    "6.1": ("bookworm", "linux-image-cloud-amd64", "amd64"),
    "6.12": ("bookworm-backports", "linux-image-cloud-amd64", "amd64"),
    "6.12-arm64": ("bookworm-backports", "linux-image-cloud-arm64", "arm64"),
}

# Folders of modules that a host of migrations may need; the rest would only fill its memory.
WANTED = re.compile(r"kernel/(net/(?!(bluetooth|wireless|mac80211|sunrpc|9p|ceph|batman|openvswitch|"
                    r"tipc|sctp|dccp|rds|smc|nfc|rxrpc|mptcp|bridge/netfilter))|"
                    r"drivers/(virtio|net/(virtio_net|net_failover|tun|veth|dummy|macvlan)|"
                    r"char/(virtio_console|hw_random/virtio)|block/zram)|net/core|lib/|crypto/|mm/|"
                    r"drivers/block/zram|arch/(x86|arm64)/crypto)")


@dataclass
class Kernel:
    """One kernel in the cache."""

    name: str
    release: str  # as uname(1) says it
    folder: pathlib.Path

    @property
    def architecture(self) -> str:
        """The processor that it is for, as Debian calls it."""
        return KERNELS[self.name][2]

    @property
    def image(self) -> pathlib.Path:
        """What the machine boots."""
        return self.folder / "vmlinuz"

    @property
    def modules(self) -> pathlib.Path:
        """The folder that holds lib/modules."""
        return self.folder / "root"


def get_kernel(name: str, refresh: bool = False) -> Kernel:
    """The kernel of that name; fetched when it is not there yet, or `refresh` asks for the newest."""
    if name not in KERNELS:
        raise ValueError(f"no kernel {name}; known are {', '.join(KERNELS)}")
    with cache.locked(f"kernel-{name}"):
        place = cache.folder() / "kernels" / name
        facts = place / "kernel.json"
        if refresh or not facts.exists():
            _fetch(name, place)
        return Kernel(name, json.loads(facts.read_text())["release"], place)


def _fetch(name: str, place: pathlib.Path) -> None:
    suite, package, architecture = KERNELS[name]
    with tempfile.TemporaryDirectory(prefix="fetch-", dir=cache.folder()) as work:
        folder = pathlib.Path(work)
        apt = private_apt(folder, suite, architecture)
        run(["apt-get", *apt, "update"], folder)
        told = run(["apt-cache", *apt, "depends", "--important", f"{package}/{suite}"], folder)
        found = re.search(r"Depends: (linux-image-\S+)", told)
        if not found:
            raise RuntimeError(f"{package} of {suite} depends on no kernel:\n{told}")
        run(["apt-get", *apt, "download", f"{found[1]}/{suite}"], folder)
        [deb] = folder.glob("*.deb")
        run(["dpkg", "-x", deb.name, "all"], folder)
        [image] = (folder / "all/boot").glob("vmlinuz-*")
        release = image.name.removeprefix("vmlinuz-")
        new = folder / "new"
        _take_modules(folder / "all", new / "root", release)
        shutil.copy(image, new / "vmlinuz")
        (new / "kernel.json").write_text(json.dumps({"release": release, "package": deb.name}))
        shutil.rmtree(place, ignore_errors=True)
        place.parent.mkdir(exist_ok=True)
        new.rename(place)


def _take_modules(tree: pathlib.Path, root: pathlib.Path, release: str) -> None:
    """Copies the modules that a host needs, unpacked, and lists what depends on what."""
    source = tree / "lib/modules" / release
    target = root / "lib/modules" / release
    for path in source.rglob("*.ko*"):
        name = path.relative_to(source)
        if not WANTED.match(str(name)):
            continue
        content = path.read_bytes()
        if path.suffix == ".xz":
            content, name = lzma.decompress(content), name.with_suffix("")
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_bytes(content)
    for path in source.glob("modules.*"):
        shutil.copy(path, target / path.name)
    run(["depmod", "-b", str(root), release], root)
