"""Where kernels and images are kept between runs: outside of the source tree."""

import contextlib
import fcntl
import os
import pathlib


def folder() -> pathlib.Path:
    """GODWIT_VM_CACHE, else godwit-vm in XDG_CACHE_HOME or /var/cache."""
    given = os.environ.get("GODWIT_VM_CACHE")
    if given:
        path = pathlib.Path(given)
    else:
        path = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "/var/cache") / "godwit-vm"
    path.mkdir(parents=True, exist_ok=True)
    return path


@contextlib.contextmanager
def locked(name: str):
    """One run at a time makes the thing of this name; the others wait and find it there."""
    with open(folder() / f"{name}.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
