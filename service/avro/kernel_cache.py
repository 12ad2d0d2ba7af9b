"""Kernels generated as source text, their machine code kept on disk between processes.

Flow: decoder, encoder -> source text -> [load_kernel] -> compiled function.

A numba function can be cached on disk only if its source is a file, because numba names and dates
the machine code after that file. So the text is written into a folder of ours, once, and compiled
under that file's name. Several processes start at once and want the same kernel.

Invariants
  K1  A file's name is the digest of everything that decides the machine code: text, signature,
      versions. Text never changes under a name; helpers stand in the text, not in imports.
  K2  A file appears whole and keeps its first date (the winner of a race links it, nobody replaces
      it), so no process invalidates the machine code another has just cached.
  K3  What runs is the text in memory. A file that differs is never executed.
  K4  Without a usable folder kernels still work; only the time to compile is paid again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

import numba
from numba.core.types import Type

Kernel = Callable[..., None]

#: Environment variable that names the folder; mainly for tests and read-only containers.
FOLDER_VARIABLE = "MEGAPHONE_CACHE_DIR"


def cache_folder() -> Path:
    """The folder for kernels: MEGAPHONE_CACHE_DIR, or `megaphone` in the user's cache folder."""
    named = os.environ.get(FOLDER_VARIABLE)
    if named:
        return Path(named)
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "megaphone"


def load_kernel(label: str, source: str, signature: tuple[Type, ...]) -> Kernel:
    """Compile the function `kernel` of `source`, or fetch its machine code from the disk.

    Args:
        label: start of the file name, for people who look into the folder.
        source: text of a module that defines `kernel`, and nothing that depends on other modules
            but numba and numpy (K1).
        signature: numba types of the arguments.

    Returns:
        The compiled function; it releases the interpreter lock while it runs.

    Cost: a few milliseconds from the disk, 0.3 to 2 s when compiled.
    """
    stamp = "\0".join((source, repr(signature), numba.__version__))
    digest = hashlib.sha256(stamp.encode()).hexdigest()[:24]
    path = _place(f"{label}_{digest}.py", source)
    kernel = _function(source, str(path or f"<{label}>"))
    if path is not None:
        try:
            return _compiled(kernel, signature, cache=True)
        except (OSError, EOFError):
            pass  # A full disk or a torn cache file costs time, not the start (K4).
    return _compiled(kernel, signature, cache=False)


def _function(source: str, file: str) -> Kernel:
    """The function `kernel` of `source`, compiled as if it had been read from `file`."""
    # Machine code from the disk is bound to the module its function names, which must exist.
    namespace: dict[str, object] = {"__name__": __name__}
    exec(compile(source, file, "exec"), namespace)  # noqa: S102 - text made by this package (K3)
    kernel = namespace["kernel"]
    assert callable(kernel)
    return kernel


def _compiled(kernel: Kernel, signature: tuple[Type, ...], *, cache: bool) -> Kernel:
    compiled: Kernel = numba.njit(signature, cache=cache, nogil=True)(kernel)
    return compiled


def _place(name: str, source: str) -> Path | None:
    """Put `source` under `name` into the folder (K2), or return None if that cannot be (K4)."""
    try:
        folder = cache_folder()
        path = folder / name
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_private(folder):
            return None
        if not path.exists():
            _link_once(folder, path, source)
        return path if path.read_text(encoding="utf-8") == source else None
    except (OSError, UnicodeDecodeError, RuntimeError):  # RuntimeError: the user has no home.
        return None


def _is_private(folder: Path) -> bool:
    """Whether only we can write here. Cached machine code is trusted, so its folder must be."""
    found = folder.stat()
    return found.st_uid == os.getuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _link_once(folder: Path, path: Path, source: str) -> None:
    """Write `source` aside and link it to `path`, unless another process has been faster."""
    handle, aside = tempfile.mkstemp(dir=folder, suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(source)
        with contextlib.suppress(FileExistsError):
            os.link(aside, path)
    finally:
        Path(aside).unlink()
