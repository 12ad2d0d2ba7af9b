"""Processes that a benchmark starts: what they say, and their end.

Flow: a command line -> [Child] -> its standard output and error in files -> JSON lines.

Invariants
  CH1  No child outlives its `with` block; those that a job has started end with its launcher.
  CH2  A child that ends badly, or does not do in time what is waited for, is an error that names it
       and the last it said.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from service.clock import SystemClock, sleep
from service.errors import MegaphoneError

_ROOT = Path(__file__).parents[3]
_LOOK_EVERY_S = 0.05
_TAIL_LINES = 5
_GRACE_S = 20.0

Document = dict[str, Any]


class Child:
    """`python ARGUMENTS`, with its output in files; use it in a `with` statement (CH1)."""

    def __init__(
        self, name: str, arguments: Sequence[str], folder: Path, python: Path | None = None
    ) -> None:
        """Start it.

        Args:
            name: what errors call it, and its files.
            arguments: behind the interpreter.
            folder: where its output goes.
            python: another interpreter than this one.
        """
        self.name = name
        self.out, self._err = folder / f"{name}.out", folder / f"{name}.err"
        self._read_to = {self.out: 0, self._err: 0}
        self._documents: dict[Path, list[Document]] = {self.out: [], self._err: []}
        with self.out.open("wb") as out, self._err.open("wb") as err:
            self._process = subprocess.Popen(
                [str(python or sys.executable), *arguments],
                cwd=_ROOT,  # where `-m` finds the packages, installed or not
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=err,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End it if it is still there: asked first, killed then."""
        if self._process.poll() is None:
            self.ask_to_stop()
            try:
                self._process.wait(_GRACE_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        elif self._process.stdin is not None:
            self._process.stdin.close()

    @property
    def pid(self) -> int:
        """Its number."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def said(self, **fields: object) -> list[Document]:
        """JSON lines of its standard output and error so far that have these fields."""
        found = []
        for path in (self._err, self.out):
            self._read(path)
            found += [each for each in self._documents[path] if fields.items() <= each.items()]
        return found

    def await_(self, holds: Callable[[], bool], what: str, seconds: float) -> None:
        """Wait until something holds (CH2).

        Raises:
            MegaphoneError: it ended before, or it took too long.
        """
        clock = SystemClock()
        deadline = clock.monotonic_ns() + int(seconds * 1e9)
        while not holds():
            if not self.running and not holds():
                raise MegaphoneError(f"{self.name} ended before {what}; it said: {self.last_words}")
            if clock.monotonic_ns() > deadline:
                raise MegaphoneError(
                    f"{self.name}: not {what} within {seconds:g} s; it said: {self.last_words}"
                )
            sleep(_LOOK_EVERY_S)

    def ask_to_stop(self) -> None:
        """Ask it to end well: SIGTERM, and the end of its standard input."""
        if self._process.poll() is None:
            self._process.terminate()
        if self._process.stdin is not None:
            self._process.stdin.close()

    def finish(self, seconds: float) -> None:
        """Wait until it has ended well.

        Raises:
            MegaphoneError: it failed, or goes on (CH2).
        """
        try:
            status = self._process.wait(seconds)
        except subprocess.TimeoutExpired as error:
            raise MegaphoneError(
                f"{self.name} goes on after {seconds:g} s; it said: {self.last_words}"
            ) from error
        if status:
            raise MegaphoneError(f"{self.name} ended with {status}; it said: {self.last_words}")

    def _read(self, path: Path) -> None:
        """Take the lines that have been completed since the last look."""
        with path.open("rb") as file:
            file.seek(self._read_to[path])
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._read_to[path] += len(whole)
        for line in whole.splitlines():
            try:
                document = json.loads(line)
            except ValueError:
                continue  # a library that prints
            if isinstance(document, dict):
                self._documents[path].append(document)

    @property
    def last_words(self) -> str:
        """The last lines of its standard error."""
        lines = self._err.read_text("utf-8", errors="replace").splitlines()
        return " | ".join(lines[-_TAIL_LINES:]) or "nothing"
