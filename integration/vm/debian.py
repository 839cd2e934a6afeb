"""apt(8) with lists and a cache of its own, in a given folder: packages are fetched by name and not
installed, and of the machine's configuration only the address of the mirror is used.
"""

import os
import pathlib
import subprocess

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


def private_apt(folder: pathlib.Path, suite: str, architecture: str = "amd64") -> list[str]:
    """Options that make apt work in `folder`, with the machine's mirror and this suite (and bookworm)
    only, as if nothing was installed."""
    mirror = _mirror()
    suites = sorted({"bookworm", suite})
    (folder / "sources.list").write_text(
        "".join(f"deb [signed-by={KEYRING}] {mirror} {each} main\n" for each in suites))
    for part in ("lists/partial", "archives/partial"):
        (folder / part).mkdir(parents=True)
    (folder / "status").touch()
    settings = {"APT::Architecture": architecture, "APT::Architectures": architecture,
                "Dir::State::status": folder / "status",
                "Dir::Etc::sourcelist": folder / "sources.list", "Dir::Etc::sourceparts": "-",
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


def run(argv: list[str], folder: pathlib.Path) -> str:
    """Runs a program in `folder`; what it wrote. Throws RuntimeError with the end of that."""
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL,
                          env=os.environ | {"LC_ALL": "C"}, timeout=600)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(argv)}: exit code {done.returncode}\n{done.stdout[-1000:]}"
                           f"{done.stderr[-2000:]}")
    return done.stdout
