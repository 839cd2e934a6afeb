"""Writes archives of the kind that a kernel unpacks at boot: cpio, "new ASCII" format (cpio(5))."""

import os
import pathlib
import stat


class Archive:
    """An archive that is being written. Parent folders are added by themselves."""

    def __init__(self, output):
        self._output = output
        self._names: set[str] = set()
        self._inode = 0

    def __contains__(self, name: str) -> bool:
        return name.strip("/") in self._names

    def add(self, name: str, content: bytes, mode: int = 0o644, seconds: int = 0) -> None:
        """A file; `seconds`: when it was changed."""
        self._entry(name, stat.S_IFREG | mode, content, seconds)

    def link(self, name: str, target: str) -> None:
        """A symbolic link."""
        self._entry(name, stat.S_IFLNK | 0o777, target.encode(), 0)

    def folder(self, name: str, mode: int = 0o755) -> None:
        """A folder that may stay empty."""
        self._entry(name, stat.S_IFDIR | mode, b"", 0)

    def device(self, name: str, major: int, minor: int) -> None:
        """A character device."""
        self._entry(name, stat.S_IFCHR | 0o600, b"", 0, (major, minor))

    def copy(self, path: pathlib.Path, name: str | None = None) -> None:
        """A file or symbolic link of this machine, under its own name unless told otherwise."""
        name = name or str(path)
        if path.is_symlink():
            self.link(name, os.readlink(path))
            return
        facts = path.stat()
        self.add(name, path.read_bytes(), stat.S_IMODE(facts.st_mode), int(facts.st_mtime))

    def finish(self) -> None:
        """The mark of the end. More archives may follow it in the same file."""
        self._write("TRAILER!!!", 0, b"", 0, (0, 0))

    def _entry(self, name: str, mode: int, content: bytes, seconds: int, device=(0, 0)) -> None:
        name = name.strip("/")
        if name in self._names:
            return
        parent = os.path.dirname(name)
        if parent and parent not in self._names:
            self.folder(parent)
        self._names.add(name)
        self._write(name, mode, content, seconds, device)

    def _write(self, name: str, mode: int, content: bytes, seconds: int, device) -> None:
        self._inode += 1
        encoded = name.encode() + b"\0"
        links = 2 if stat.S_ISDIR(mode) else 1
        fields = (self._inode, mode, 0, 0, links, seconds, len(content), 0, 0, *device,
                  len(encoded), 0)
        head = b"070701" + b"".join(b"%08x" % field for field in fields)
        self._output.write(_padded(head + encoded) + _padded(content))


def _padded(text: bytes) -> bytes:
    return text + bytes(-len(text) % 4)
