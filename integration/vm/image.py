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

from harness.programs import ROOT, build_dir

from . import cache
from .cpio import Archive
from .kernels import Kernel

HERE = pathlib.Path(__file__).resolve().parent
PYTHON = pathlib.Path("/usr/bin/python3")
BUSYBOX = pathlib.Path("/bin/busybox")
# Programs of the system that scenarios use.
PROGRAMS = ("redis-server", "redis-cli", "ip", "nft")
# Of python's library: what no program here imports.
PYTHON_LEFT_OUT = {"test", "idlelib", "tkinter", "lib2to3", "ensurepip", "pydoc_data", "turtledemo",
                   "distutils", "unittest", "dist-packages", "site-packages", "venv", "curses", "dbm",
                   "sqlite3", "xmlrpc", "wsgiref", "msilib", "asyncio", "config-3.11-x86_64-linux-gnu",
                   "zoneinfo", "multiprocessing", "html", "email", "http", "xml"}
KEPT_S = 86_400


def get_image(kernel: Kernel) -> pathlib.Path:
    """The image of that kernel with the programs as they are built now."""
    with cache.locked(f"image-{kernel.name}"):
        images = cache.folder() / "images"
        images.mkdir(exist_ok=True)
        files = _files()
        path = images / f"{kernel.name}-{_fingerprint(files, kernel)}.cpio"
        if not path.exists():
            _make(path, files, kernel)
        os.utime(path)
        for old in images.glob(f"{kernel.name}-*"):
            if old != path and time.time() - old.stat().st_mtime > KEPT_S:
                old.unlink()
        return path


def _files() -> dict[str, pathlib.Path]:
    """Everything of this machine that goes in: name in the image, path here."""
    if not BUSYBOX.exists():
        raise RuntimeError(f"{BUSYBOX} is missing: apt-get install busybox-static")
    files = {f"/godwit/{path.name}": path for path in (HERE / "guest").glob("agent.py")}
    files["/init"] = HERE / "guest/init"
    files["/etc/inittab"] = HERE / "guest/inittab"
    files["/etc/rc"] = HERE / "guest/rc"
    files["/bin/busybox"] = BUSYBOX
    built = build_dir()
    for name in ("migrate", "dest-agent", "page-server", "godwit-init"):
        files[f"/godwit/bin/{name}"] = built / "bin" / name
    for folder in ("workloads", "tracking"):
        for path in sorted((built / folder).glob("*")):
            files[f"/godwit/{folder}/{path.name}"] = path
    files["/godwit/workloads/compute_check.py"] = ROOT / "integration/workloads/compute_check.py"
    python = PYTHON.resolve()
    files[str(python)] = python
    for name in PROGRAMS:
        path = _which(name)
        files[str(path)] = path
    library = pathlib.Path(f"/usr/lib/{python.name}")
    for path in sorted(library.rglob("*")):
        parts = path.relative_to(library).parts
        if path.is_file() and not PYTHON_LEFT_OUT.intersection(parts):
            files[str(path)] = path
    for path in _libraries(list(files.values())):
        files[str(path)] = path
    return files


def _which(name: str) -> pathlib.Path:
    for folder in ("/usr/sbin", "/usr/bin", "/sbin", "/bin"):
        path = pathlib.Path(folder, name)
        if path.exists():
            return path
    raise RuntimeError(f"{name} is not installed; deploy/setup installs what the tests need")


def _is_elf(path: pathlib.Path) -> bool:
    with open(path, "rb") as file:
        return file.read(4) == b"\x7fELF"


def _libraries(paths: list[pathlib.Path]) -> list[pathlib.Path]:
    """The shared libraries that the programs load (ldd(1)), as they are named there."""
    programs = [str(path) for path in paths if _is_elf(path)]
    told = subprocess.run(["ldd", *programs], capture_output=True, text=True).stdout
    missing = re.findall(r"(\S+) => not found", told)
    if missing:
        raise RuntimeError(f"libraries that are not installed: {', '.join(sorted(set(missing)))}")
    found = set(re.findall(r"(?:=>\s+|^\s+)(/\S+) \(0x", told, re.M))
    return [pathlib.Path(name) for name in sorted(found)]


def _fingerprint(files: dict[str, pathlib.Path], kernel: Kernel) -> str:
    digest = hashlib.sha256(kernel.release.encode())
    own = [HERE / "image.py", HERE / "cpio.py", kernel.folder / "kernel.json"]
    for name, path in sorted([*files.items(), *((path.name, path) for path in own)]):
        facts = path.stat()
        digest.update(f"{name} {facts.st_size} {facts.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _make(path: pathlib.Path, files: dict[str, pathlib.Path], kernel: Kernel) -> None:
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
        archive.link("usr/bin/python3", PYTHON.resolve().name)
        archive.add("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n")
        archive.add("etc/group", b"root:x:0:\nnogroup:x:65534:\n")
        for name, source in files.items():
            _add(archive, _merged(name), source)
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


def _add(archive: Archive, name: str, source: pathlib.Path) -> None:
    facts = source.stat()
    mode = facts.st_mode & 0o7777
    if name.startswith(("/init", "/etc/rc")):
        mode = 0o755
    archive.add(name, _stripped(source) if name.startswith("/godwit/") else source.read_bytes(),
                mode, int(facts.st_mtime))


def _stripped(path: pathlib.Path) -> bytes:
    """A program of the project without what only a debugger reads: most of its size."""
    if not _is_elf(path):
        return path.read_bytes()
    with tempfile.NamedTemporaryFile() as output:
        subprocess.run(["strip", "--strip-debug", "-o", output.name, path], check=True)
        return pathlib.Path(output.name).read_bytes()
