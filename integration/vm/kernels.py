"""Debian's kernels, from the mirror that this machine uses: fetched by the package's name, taken
apart and never installed.

apt(8) gets lists and a cache of its own, in the cache's folder, so that the machine's are not
touched; only the address of the mirror is taken from the machine's configuration.
"""

import json
import lzma
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass

from . import cache

# What a kernel is called here: the suite and the package that depends on the newest one of it.
KERNELS = {
    "6.1": ("bookworm", "linux-image-cloud-amd64"),
    "6.12": ("bookworm-backports", "linux-image-cloud-amd64"),
}
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"

# Folders of modules that a host of migrations may need; the rest would only fill its memory.
WANTED = re.compile(r"kernel/(net/(?!(bluetooth|wireless|mac80211|sunrpc|9p|ceph|batman|openvswitch|"
                    r"tipc|sctp|dccp|rds|smc|nfc|rxrpc|mptcp|bridge/netfilter))|"
                    r"drivers/(virtio|net/(virtio_net|net_failover|tun|veth|dummy|macvlan)|"
                    r"char/(virtio_console|hw_random/virtio)|block/zram)|net/core|lib/|crypto/|mm/|"
                    r"drivers/block/zram|arch/x86/crypto)")


@dataclass
class Kernel:
    """One kernel in the cache."""

    name: str
    release: str  # as uname(1) says it
    folder: pathlib.Path

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
    suite, package = KERNELS[name]
    with tempfile.TemporaryDirectory(prefix="fetch-", dir=cache.folder()) as work:
        folder = pathlib.Path(work)
        apt = _private_apt(folder, suite)
        _run(["apt-get", *apt, "update"], folder)
        told = _run(["apt-cache", *apt, "depends", "--important", f"{package}/{suite}"], folder)
        found = re.search(r"Depends: (linux-image-\S+)", told)
        if not found:
            raise RuntimeError(f"{package} of {suite} depends on no kernel:\n{told}")
        _run(["apt-get", *apt, "download", f"{found[1]}/{suite}"], folder)
        [deb] = folder.glob("*.deb")
        _run(["dpkg", "-x", deb.name, "all"], folder)
        [image] = (folder / "all/boot").glob("vmlinuz-*")
        release = image.name.removeprefix("vmlinuz-")
        new = folder / "new"
        _take_modules(folder / "all", new / "root", release)
        shutil.copy(image, new / "vmlinuz")
        (new / "kernel.json").write_text(json.dumps({"release": release, "package": deb.name}))
        shutil.rmtree(place, ignore_errors=True)
        place.parent.mkdir(exist_ok=True)
        new.rename(place)


def _private_apt(folder: pathlib.Path, suite: str) -> list[str]:
    """Options that make apt work in `folder`, with the machine's mirror and these suites only."""
    mirror = _mirror()
    suites = sorted({"bookworm", suite})
    (folder / "sources.list").write_text(
        "".join(f"deb [signed-by={KEYRING}] {mirror} {each} main\n" for each in suites))
    for part in ("lists/partial", "archives/partial"):
        (folder / part).mkdir(parents=True)
    settings = {"Dir::Etc::sourcelist": folder / "sources.list", "Dir::Etc::sourceparts": "-",
                "Dir::State::lists": folder / "lists", "Dir::Cache": folder, "APT::Sandbox::User": "root",
                "Acquire::Languages": "none"}
    return [f"-o{key}={value}" for key, value in settings.items()]


def _mirror() -> str:
    """The address that the machine's own apt fetches Debian 12 from."""
    told = subprocess.run(["apt-get", "indextargets", "--format", "$(RELEASE) $(REPO_URI)",
                           "Created-By: Packages"], capture_output=True, text=True, check=True)
    for line in told.stdout.splitlines():
        release, _, address = line.partition(" ")
        if release in ("bookworm", "stable"):
            return address
    raise RuntimeError("this machine's apt knows no mirror of Debian 12 (bookworm): "
                       "apt-get update, or add one to /etc/apt/sources.list")


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
    _run(["depmod", "-b", str(root), release], root)


def _run(argv: list[str], folder: pathlib.Path) -> str:
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL,
                          env=os.environ | {"LC_ALL": "C"}, timeout=600)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(argv)}: exit code {done.returncode}\n{done.stdout[-1000:]}"
                           f"{done.stderr[-2000:]}")
    return done.stdout
