"""The files of an arm64 Debian: what the project is built against for that processor, and the programs
that its machines have. Packages are fetched by name with what they depend on, taken apart, and never
installed, so that the machine's own packages stay as they are.
"""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

from harness.programs import ROOT

from . import cache
from .debian import private_apt, run

TOOLS = "aarch64-linux-gnu-"
# The libraries of deploy/setup, and what an image takes of the system.
PACKAGES = (
    "libprotobuf-dev", "libssl-dev", "libnl-3-dev", "libnl-route-3-dev", "libnftables-dev",
    "libcli11-dev", "libspdlog-dev", "libfmt-dev", "libxxhash-dev", "libseccomp-dev", "libcap-ng-dev",
    "nlohmann-json3-dev", "liburing-dev", "libzstd-dev", "liblz4-dev", "libgtest-dev", "libgmock-dev",
    "libbenchmark-dev", "redis-server", "python3", "busybox-static", "nftables", "iproute2")


def get_sysroot(refresh: bool = False) -> pathlib.Path:
    """The folder that stands for its root; made when it is not there yet or other packages go in."""
    with cache.locked("sysroot-arm64"):
        place = cache.folder() / "sysroot-arm64"
        facts = place / "packages.json"
        if refresh or not facts.exists() or json.loads(facts.read_text()) != list(PACKAGES):
            _fetch(place)
        return place / "root"


def _fetch(place: pathlib.Path) -> None:
    with tempfile.TemporaryDirectory(prefix="fetch-", dir=cache.folder()) as work:
        folder = pathlib.Path(work)
        apt = private_apt(folder, "bookworm", "arm64")
        run(["apt-get", *apt, "update"], folder)
        run(["apt-get", *apt, "install", "--yes", "--no-install-recommends", "--download-only",
             *PACKAGES], folder)
        new = folder / "new"
        root = new / "root"
        # Debian's folders of programs and libraries are links into /usr.
        for name in ("bin", "sbin", "lib", "lib64"):
            (root / "usr" / name).mkdir(parents=True)
            (root / name).symlink_to(f"usr/{name}")
        for deb in sorted((folder / "archives").glob("*.deb")):
            with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", deb], stdout=subprocess.PIPE) as tar:
                subprocess.run(["tar", "-x", "--keep-directory-symlink", "-C", root], stdin=tar.stdout,
                               check=True)
            if tar.returncode != 0:
                raise RuntimeError(f"{deb.name} cannot be taken apart")
        _make_links_relative(root)
        (new / "packages.json").write_text(json.dumps(PACKAGES))
        shutil.rmtree(place, ignore_errors=True)
        new.rename(place)


def _make_links_relative(root: pathlib.Path) -> None:
    """Links to /... would lead to this machine's own files."""
    for path in root.rglob("*"):
        if path.is_symlink() and path.readlink().is_absolute():
            target = os.path.relpath(root / str(path.readlink()).lstrip("/"), path.parent)
            path.unlink()
            path.symlink_to(target)


def get_build(*targets: str) -> pathlib.Path:
    """The build folder for arm64: GODWIT_ARM64_BUILD as it is, else build/arm64, built now; all of it
    or `targets`."""
    given = os.environ.get("GODWIT_ARM64_BUILD")
    if given:
        return pathlib.Path(given)
    folder = ROOT / "build" / "arm64"
    with cache.locked("build-arm64"):
        if not (folder / "build.ninja").exists():
            run(["cmake", "--preset", "arm64", f"-DGODWIT_SYSROOT={get_sysroot()}"], ROOT)
        print("vm: building for arm64", file=sys.stderr, flush=True)
        subprocess.run(["cmake", "--build", folder, "--target", *(targets or ["all"])], check=True,
                       stdout=sys.stderr)
    return folder


def libraries(programs: list[pathlib.Path], root: pathlib.Path) -> dict[str, pathlib.Path]:
    """The shared libraries that the programs load, by their names below `root`."""
    folder = "/usr/lib/aarch64-linux-gnu"
    found: dict[str, pathlib.Path] = {"/usr/lib/ld-linux-aarch64.so.1": root / folder[1:] /
                                      "ld-linux-aarch64.so.1"}
    while programs:
        told = run([f"{TOOLS}readelf", "--dynamic", "--wide", *map(str, programs)], ROOT)
        programs = []
        for name in sorted(set(re.findall(r"\(NEEDED\).*\[(.+)\]", told))):
            path = root / folder[1:] / name
            if f"{folder}/{name}" in found:
                continue
            if not path.exists():
                raise RuntimeError(f"{name} is in no package of PACKAGES (integration/vm/cross.py)")
            found[f"{folder}/{name}"] = path
            programs.append(path)
    return found


if __name__ == "__main__":  # as `python3 -m vm.cross [TARGET...]`
    get_build(*sys.argv[1:])
