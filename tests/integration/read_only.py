"""Runs a command where nothing can be written but the folders that are named.

usage: unshare --mount python -m tests.integration.read_only FOLDER... -- COMMAND...

Flow: every mount of a mount namespace of one's own -> read-only, but for the folders -> proof that
it is so -> the command in the place of this process. What the kernel itself shows (/proc, /sys,
/dev) stays as containers have it.

Invariants
  RO1  The command is not run unless a folder beside each named one refused to be written for that
       reason, and each named one did not.
  RO2  The mounts of everybody else are as before: without a namespace of its own it refuses to run.
"""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.integration.command import ROOT

_KERNELS_OWN = ("/proc", "/sys", "/dev")
#: Places that a program may think of, beside where it runs.
_ELSEWHERE = ("/", "/etc", "/tmp", "/var/tmp", "/var/lib")


def alone() -> list[str]:
    """The words before a command that give it a mount namespace, as root or as anybody."""
    words = ["unshare", "--mount", "--propagation", "private"]
    return words if os.geteuid() == 0 else [*words, "--map-root-user"]


def main() -> None:
    """Make everything read-only, prove it, become the command."""
    separator = sys.argv.index("--")
    folders, command = [*map(Path, sys.argv[1:separator])], sys.argv[separator + 1 :]
    # RO2
    if _namespace() == os.environ["MOUNTS_OF_OTHERS"]:
        sys.exit("not in a mount namespace of its own: begin with `unshare --mount`")
    for folder in folders:
        subprocess.run(["mount", "--bind", folder, folder], check=True)
    for place, options in _mounts():
        if place not in folders and not _under(place, _KERNELS_OWN):
            # Whoever is not root may not take other options away.
            rest = ",".join(each for each in options if each not in ("rw", "ro"))
            subprocess.run(["mount", "-o", f"remount,bind,ro,{rest}", place], check=True)
    for place in (
        ROOT,
        Path.home(),
        *(folder.parent for folder in folders),
        *map(Path, _ELSEWHERE),
    ):
        if not _refuses(place):
            sys.exit(f"{place} can be written")
    for folder in folders:
        if _refuses(folder):
            sys.exit(f"{folder} cannot be written")
    os.execvp(command[0], command)


def _namespace() -> str:
    """The mount namespace of this process."""
    return str(Path("/proc/self/ns/mnt").readlink())


def mounts_now() -> dict[str, str]:
    """The variable by which `main` knows the namespace that it must not touch."""
    return {"MOUNTS_OF_OTHERS": _namespace()}


def _mounts() -> list[tuple[Path, list[str]]]:
    """Where something is mounted and with which options of its own, each place once."""
    found = {}
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        words = line.split(" ")
        place = re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), words[4])
        found[Path(place)] = words[5].split(",")
    return [*found.items()]


def _under(place: Path, roots: tuple[str, ...]) -> bool:
    return any(place.is_relative_to(root) for root in roots)


def _refuses(folder: Path) -> bool:
    """Whether nothing can be written there; other reasons than a file system's are raised."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return False
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES):
            raise
        return True


if __name__ == "__main__":
    main()
