"""The processes the demo starts, and its promise that none outlives it.

Flow: command lines -> [Children] -> processes; their JSON lines -> callbacks, stderr -> files.

Invariants
  C1  No child outlives `Children.close`, nor (on Linux) the demo itself however it ends.
  C2  A child that ends without being asked to, or with another status than 0, is an error that
      names it and shows the last lines of its stderr.
  C3  Ctrl-C reaches the demo only: each child leads a process group of its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

import psutil

from service.errors import MegaphoneError

_PR_SET_PDEATHSIG = 1
_TAIL_LINES = 12
_TAIL_BYTES = 16_384
#: What a child gets to end by itself before it is killed, when the demo ends early.
_GRACE_S = 5.0

#: Loaded here: between fork and exec nothing may allocate or take a lock.
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None

OnDocument = Callable[[dict[str, object]], None]


class ChildFailed(MegaphoneError):
    """A process of the demo ended as it should not have."""

    def __init__(self, name: str, status: int, tail: Sequence[str]) -> None:
        """Name the child, its exit `status`, and show the `tail` of its stderr."""
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        said = "".join(f"\n    {line}" for line in tail) or " nothing"
        super().__init__(f"{name} {how}; the last it said:{said}")
        self.name = name


class Child:
    """One process; its stdout is read as JSON lines, its stderr goes to a file."""

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        log: Path,
        on_document: OnDocument | None = None,
    ) -> None:
        """Start `python ARGUMENTS`. Call it from the main thread: C1 hangs on the thread's life.

        Args:
            name: what messages call it.
            arguments: behind the interpreter.
            log: file for its stderr.
            on_document: called with each JSON object it prints, from a thread of its own.
        """
        self.name = name
        self.log = log
        self._asked = False
        self._killed = False
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE if on_document else subprocess.DEVNULL,
                stderr=errors,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - one system call, loaded before
                process_group=0,
            )
        self._reader: threading.Thread | None = None
        if self._process.stdout is not None and on_document is not None:
            self._reader = threading.Thread(
                target=_read_documents, args=(self._process.stdout, on_document), daemon=True
            )
            self._reader.start()

    def check(self) -> None:
        """Look whether it is well.

        Raises:
            ChildFailed: it ended by itself, or badly (C2).
        """
        status = self._process.poll()
        if status is not None and (status != 0 or not self._asked):
            raise ChildFailed(self.name, status, self.tail())

    @property
    def ended(self) -> bool:
        """Whether it has ended and all it printed has been read."""
        if self._process.poll() is None:
            return False
        return self._reader is None or not self._reader.is_alive()

    def may_end(self) -> None:
        """Take its end, from now on, as what it was asked for."""
        self._asked = True

    def ask_to_stop(self) -> None:
        """Ask it to end well: SIGTERM, and the end of its stdin."""
        self._asked = True
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        self._close_stdin()

    def tail(self) -> list[str]:
        """The last lines of its stderr."""
        with self.log.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
        return [_message_of(line) for line in lines[-_TAIL_LINES:]]

    def end(self, grace_s: float = _GRACE_S) -> None:
        """End it and everything it started: asked first, killed after `grace_s`."""
        family = _family(self._process.pid) if self._process.poll() is None else []
        self.ask_to_stop()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(grace_s)
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()
        if self._reader is not None:
            self._reader.join(1.0)

    def _close_stdin(self) -> None:
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()


class Children:
    """All processes of a run, ended together (C1)."""

    def __init__(self, log_folder: Path) -> None:
        """Keep the children's stderr in `log_folder`, which exists."""
        self._log_folder = log_folder
        self._children: list[Child] = []

    def start(
        self, name: str, arguments: Sequence[str], on_document: OnDocument | None = None
    ) -> Child:
        """Start `python ARGUMENTS` as `name`."""
        log = self._log_folder / f"{name.replace(' ', '-')}.log"
        child = Child(name, arguments, log, on_document)
        self._children.append(child)
        return child

    def check(self) -> None:
        """Look whether all are well.

        Raises:
            ChildFailed: one is not (C2).
        """
        for child in self._children:
            child.check()

    def close(self) -> None:
        """End what still runs, the last started first."""
        for child in reversed(self._children):
            child.end()
        self._children.clear()


def _die_with_parent() -> None:
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _family(pid: int) -> list[psutil.Process]:
    """The process and its descendants, as handles that a reused number cannot mislead."""
    try:
        process = psutil.Process(pid)
        return [*process.children(recursive=True), process]
    except psutil.NoSuchProcess:
        return []


def _read_documents(stream: IO[bytes], on_document: OnDocument) -> None:
    with stream:
        for line in stream:
            try:
                document = json.loads(line)
            except ValueError:
                continue  # not ours: a library that prints
            if isinstance(document, dict):
                on_document(document)


def _message_of(line: str) -> str:
    """A line for a person: of a structured one, who says it and its message."""
    try:
        entry = json.loads(line)
    except ValueError:
        return line
    if not isinstance(entry, dict) or "event" not in entry:
        return line
    rest = {k: v for k, v in entry.items() if k not in ("t_us", "level", "slot", "event")}
    said = rest.pop("message", None)
    fields = " ".join(f"{name}={value}" for name, value in rest.items())
    return f"{entry.get('slot', '?')}: {entry['event']} {said or fields}".rstrip()
