"""Images that machines boot: the project's programs with their libraries, redis, python, busybox and
the modules of one kernel. Made anew when any of it has changed."""

import hashlib
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass

from harness.programs import ROOT, build_dir

from . import cache, cross
from .cpio import Archive
from .kernels import Kernel

HERE = pathlib.Path(__file__).resolve().parent
PYTHON = pathlib.Path("/usr/bin/python3.11")
BUSYBOX = pathlib.Path("/bin/busybox")
# Programs of the system that scenarios use.
PROGRAMS = ("redis-server", "redis-cli", "ip", "nft")
# Libraries whose unit tests go to machines of another processor: those of what rests on the processor,
# in the order in which a port begins. An image takes its size twice of the machine's memory.
UNIT_TESTS = ("arch", "remote", "capture", "restore")
# Of python's library: what no program here imports.
PYTHON_LEFT_OUT = {"test", "idlelib", "tkinter", "lib2to3", "ensurepip", "pydoc_data", "turtledemo",
                   "distutils", "unittest", "dist-packages", "site-packages", "venv", "curses", "dbm",
                   "sqlite3", "xmlrpc", "wsgiref", "msilib", "asyncio", "config-3.11-x86_64-linux-gnu",
                   "config-3.11-aarch64-linux-gnu",
                   "zoneinfo", "multiprocessing", "html", "email", "http", "xml"}
KEPT_S = 86_400


def get_image(kernel: Kernel) -> pathlib.Path:
    """The image of that kernel with the programs as they are built now."""
    with cache.locked(f"image-{kernel.name}"):
        images = cache.folder() / "images"
        images.mkdir(exist_ok=True)
        origin = _origin(kernel.architecture)
        files = _files(origin)
        path = images / f"{kernel.name}-{_fingerprint(files, kernel)}.cpio"
        if not path.exists():
            _make(path, files, kernel, origin)
        os.utime(path)
        for old in images.glob(f"{kernel.name}-*"):
            if old != path and time.time() - old.stat().st_mtime > KEPT_S:
                old.unlink()
        return path


@dataclass(frozen=True)
class Origin:
    """Where the programs of one processor are on this machine."""

    root: pathlib.Path  # of a Debian for that processor
    build: pathlib.Path
    tools: str = ""  # what the names of strip(1) and readelf(1) begin with

    def at(self, name: pathlib.Path | str) -> pathlib.Path:
        """The file that has this name in the image."""
        return self.root / str(name).lstrip("/")


def _origin(architecture: str) -> Origin:
    if architecture == "arm64":
        return Origin(cross.get_sysroot(), cross.get_build(), cross.TOOLS)
    return Origin(pathlib.Path("/"), build_dir())


def _files(origin: Origin) -> dict[str, pathlib.Path]:
    """Everything of this machine that goes in: name in the image, path here."""
    files = {f"/godwit/{path.name}": path for path in (HERE / "guest").glob("agent.py")}
    files["/init"] = HERE / "guest/init"
    files["/etc/inittab"] = HERE / "guest/inittab"
    files["/etc/rc"] = HERE / "guest/rc"
    for name in ("migrate", "dest-agent", "page-server", "godwit-init"):
        files[f"/godwit/bin/{name}"] = origin.build / "bin" / name
    if origin.tools:
        for library in UNIT_TESTS:
            name = f"godwit_{library}_test"
            files[f"/godwit/tests/{name}"] = origin.build / "bin" / name
    for folder in ("workloads", "tracking"):
        for path in sorted((origin.build / folder).glob("*")):
            files[f"/godwit/{folder}/{path.name}"] = path
    files["/godwit/workloads/compute_check.py"] = ROOT / "integration/workloads/compute_check.py"
    for name in [str(BUSYBOX), str(PYTHON), *map(_which, PROGRAMS)]:
        path = origin.at(name)
        if not path.exists():
            raise RuntimeError(f"{path} is missing: apt-get install busybox-static, or the program's package")
        files[name] = path
    library = origin.at(f"/usr/lib/{PYTHON.name}")
    for path in sorted(library.rglob("*")):
        parts = path.relative_to(library).parts
        if path.is_file() and not PYTHON_LEFT_OUT.intersection(parts):
            files[f"/usr/lib/{PYTHON.name}/{path.relative_to(library)}"] = path
    return files | _libraries(list(files.values()), origin)


def _which(name: str) -> str:
    for folder in ("/usr/sbin", "/usr/bin", "/sbin", "/bin"):
        path = pathlib.Path(folder, name)
        if path.exists():
            return str(path)
    raise RuntimeError(f"{name} is not installed; deploy/setup installs what the tests need")


def _is_elf(path: pathlib.Path) -> bool:
    with open(path, "rb") as file:
        return file.read(4) == b"\x7fELF"


def _libraries(paths: list[pathlib.Path], origin: Origin) -> dict[str, pathlib.Path]:
    """The shared libraries that the programs load (ldd(1)), as they are named there."""
    programs = [path for path in paths if _is_elf(path)]
    if origin.tools:
        return cross.libraries(programs, origin.root)
    told = subprocess.run(["ldd", *map(str, programs)], capture_output=True, text=True).stdout
    missing = re.findall(r"(\S+) => not found", told)
    if missing:
        raise RuntimeError(f"libraries that are not installed: {', '.join(sorted(set(missing)))}")
    found = set(re.findall(r"(?:=>\s+|^\s+)(/\S+) \(0x", told, re.M))
    return {name: pathlib.Path(name) for name in sorted(found)}


def _fingerprint(files: dict[str, pathlib.Path], kernel: Kernel) -> str:
    digest = hashlib.sha256(kernel.release.encode())
    own = [HERE / "image.py", HERE / "cpio.py", kernel.folder / "kernel.json"]
    for name, path in sorted([*files.items(), *((path.name, path) for path in own)]):
        facts = path.stat()
        digest.update(f"{name} {facts.st_size} {facts.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _make(path: pathlib.Path, files: dict[str, pathlib.Path], kernel: Kernel, origin: Origin) -> None:
    print(f"vm: making the image of kernel {kernel.name}", file=sys.stderr, flush=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as output:
        archive = Archive(output)
        # Debian's folders of programs and libraries are links into /usr.
        for name in ("bin", "sbin", "lib", "lib64"):
            archive.folder(f"usr/{name}")
            archive.link(name, f"usr/{name}")
        archive.device("dev/console", 5, 1)
        archive.device("dev/null", 1, 3)
        for name in ("proc", "sys", "dev", "run", "var/lib", "root"):
            archive.folder(name)
        archive.folder("tmp", 0o1777)
        archive.link("var/run", "/run")
        archive.link("usr/bin/python3", PYTHON.name)
        archive.add("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n")
        archive.add("etc/group", b"root:x:0:\nnogroup:x:65534:\n")
        for name, source in files.items():
            _add(archive, _merged(name), source, origin.tools)
        # Of the same name, the programs themselves go before busybox's.
        for applet in subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True,
                                     check=True).stdout.split():
            archive.link(f"usr/bin/{applet}", "busybox")
        archive.link("usr/sbin/modprobe", "../bin/busybox")
        for module in sorted(kernel.modules.rglob("*")):
            if module.is_file():
                archive.copy(module, _merged("/" + str(module.relative_to(kernel.modules))))
        archive.finish()
    os.rename(output.name, path)


def _merged(name: str) -> str:
    """The name below /usr of what Debian reaches through its links in /."""
    return re.sub(r"^/(bin|sbin|lib|lib64)/", r"/usr/\1/", name)


def _add(archive: Archive, name: str, source: pathlib.Path, tools: str) -> None:
    facts = source.stat()
    mode = facts.st_mode & 0o7777
    if name.startswith(("/init", "/etc/rc")):
        mode = 0o755
    archive.add(name, _stripped(source, tools) if name.startswith("/godwit/") else source.read_bytes(),
                mode, int(facts.st_mtime))


def _stripped(path: pathlib.Path, tools: str) -> bytes:
    """A program of the project without what only a debugger reads: most of its size."""
    if not _is_elf(path):
        return path.read_bytes()
    with tempfile.NamedTemporaryFile() as output:
        subprocess.run([f"{tools}strip", "--strip-debug", "-o", output.name, path], check=True)
        return pathlib.Path(output.name).read_bytes()
