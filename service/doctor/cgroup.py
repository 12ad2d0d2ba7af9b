"""How much memory the control groups of this process let it take.

Flow: /proc/self/cgroup, /sys/fs/cgroup -> [memory_limit] -> command -> unpacking. Reads files,
changes nothing.

Invariants
  CG1  The least limit of the process's group and of every group around it counts, since the kernel
       ends a process for any of them.
  CG2  What cannot be read limits nothing: a container sees its own group at the root, and not the
       ones around it.

Source: Linux, Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_GROUPS = Path("/proc/self/cgroup")
_MOUNT = Path("/sys/fs/cgroup")
#: Version 1 says "no limit" by the largest multiple of a page, which is far beyond any machine.
_NONE = 1 << 60


def memory_limit(groups: Path = _GROUPS, mount: Path = _MOUNT) -> int | None:
    """Bytes that this process may take; None: no control group limits it.

    Args:
        groups: lines `number:controllers:path`, one a hierarchy.
        mount: where the hierarchies lie; version 1's for memory is its folder `memory`.
    """
    try:
        lines = groups.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None  # no Linux, or a kernel without control groups
    found: list[int] = []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            found += _limits(mount, path, "memory.max")
        elif "memory" in controllers.split(","):
            found += _limits(mount / "memory", path, "memory.limit_in_bytes")
    return min(found, default=None)


def _limits(root: Path, path: str, name: str) -> Iterator[int]:
    """Limits of a group and of those around it (CG1, CG2)."""
    # A group outside of the namespace's root is written with dots; it cannot be seen from here.
    parts = [part for part in PurePosixPath(path).parts if part not in ("/", "..")]
    for depth in range(len(parts) + 1):
        try:
            text = root.joinpath(*parts[:depth], name).read_text(encoding="ascii").strip()
        except OSError:
            continue
        if text.isdecimal() and int(text) < _NONE:
            yield int(text)
