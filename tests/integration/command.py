"""One `megaphone` command as a process: what it says on stderr, and how it ends.

Flow: test -> [Command] -> `python -m service …`; JSON lines, other lines and exit status -> test.
For whole jobs there is `job.py`; this is for commands that are to fail and roles started alone.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import psutil

ROOT = Path(__file__).parents[2]
#: A command imports and compiles first; two cores may be shared with others.
WAIT_S = 60.0
_PAUSE_S = 0.05

Document = dict[str, object]


class Command:
    """A running command; use it in a `with` statement, which leaves nothing of it behind."""

    def __init__(
        self,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        cwd: Path = ROOT,
        module: str = "service",
    ) -> None:
        """Start `megaphone ARGUMENTS`, or another command by its module."""
        self.started = time.monotonic()
        self._guard = threading.Lock()
        self._lines: list[Document] = []
        #: What is no JSON line.
        self.noise: list[str] = []
        variables = {**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})}
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=cwd,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stderr is not None
        self._reader = threading.Thread(target=self._read, args=(self.process.stderr,), daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            said = [json.dumps(line) for line in self.lines()[-25:]] + self.noise[-40:]
            error.add_note("\n".join(["it said, at last:", *said]))
        if self.process.poll() is None:
            for child in psutil.Process(self.process.pid).children(recursive=True):
                child.kill()
            self.process.kill()
        self.process.wait()
        self._reader.join(WAIT_S)

    def lines(self, event: str = "") -> list[Document]:
        """Lines it has logged so far, of this event."""
        with self._guard:
            return [line for line in self._lines if event in ("", line["event"])]

    def errors(self) -> list[str]:
        """Messages of the errors it has logged."""
        return [str(line["message"]) for line in self.lines() if line["level"] == "error"]

    def await_line(self, event: str, timeout_s: float = WAIT_S) -> Document:
        """Wait for the first line of an event."""
        self.await_(lambda: bool(self.lines(event)), event, timeout_s)
        return self.lines(event)[0]

    def await_(self, holds: Callable[[], bool], what: str, timeout_s: float = WAIT_S) -> None:
        """Wait until something holds, or until the command has ended without it."""
        deadline = time.monotonic() + timeout_s
        while not holds():
            try:
                self.process.wait(_PAUSE_S)
            except subprocess.TimeoutExpired:
                assert time.monotonic() < deadline, f"no {what} within {timeout_s:g} s"
                continue
            self._reader.join(WAIT_S)
            assert holds(), f"ended with status {self.process.returncode} before {what}"

    def signal(self, number: int = signal.SIGTERM) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def finish(self, status: int, timeout_s: float = WAIT_S) -> float:
        """Wait for its end with a status; returns how many seconds that took from now."""
        begun = time.monotonic()
        found = self.process.wait(timeout_s)
        took = time.monotonic() - begun
        self._reader.join(WAIT_S)
        assert found == status
        return took

    def _read(self, stream: IO[str]) -> None:
        with stream:
            for text in stream:
                try:
                    line = json.loads(text)
                except ValueError:
                    line = None
                with self._guard:
                    if isinstance(line, dict):
                        self._lines.append(line)
                    else:
                        self.noise.append(text.rstrip())


def _is_ready(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://{address}/readyz", timeout=WAIT_S):
            return True
    except urllib.error.HTTPError:
        return False  # it answers, and not yet


def query(names: tuple[str, str]) -> list[str]:
    """Arguments that let the built-in query read and write a test's topics."""
    return ["--topic-prefix", names[0].removesuffix("-events"), "--output-topic", names[1]]


class Roles:
    """A job whose processes were started one by one, as on several machines."""

    def __init__(
        self,
        bootstrap_servers: str,
        app: str,
        folder: Path,
        names: tuple[str, str],
        *,
        workers: int = 2,
        gateways: int = 1,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start the controller, the workers and the gateways."""
        common = ["nexmark:auction_bids", "--bootstrap-servers", bootstrap_servers, "--app", app]
        common += query(names)
        shape = ["--workers", str(workers), "--gateways", str(gateways), "--bins", "64"]
        self.commands: dict[str, Command] = {
            "controller": Command("controller", *common, *shape, environment=environment)
        }
        for role, count in (("worker", workers), ("gateway", gateways)):
            for number in range(count):
                arguments = [role, *common, "--slot", str(number), "--state-dir", str(folder)]
                self.commands[f"{role}-{number}"] = Command(*arguments, environment=environment)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for command in self.commands.values():
            command.__exit__(kind, error, trace)

    def await_running(self) -> None:
        """Wait until every process takes part in the generation and knows all others."""
        for slot, command in self.commands.items():
            began = "generation.began" if slot == "controller" else "member.started"
            address = str(command.await_line(began)["http"])
            command.await_(partial(_is_ready, address), f"{slot} ready")

    def finish(self, status: int, timeout_s: float = WAIT_S, *, but: str = "") -> None:
        """Wait until all have ended with a status, except the process `but`."""
        for slot, command in self.commands.items():
            if slot != but:
                command.finish(status, timeout_s)
