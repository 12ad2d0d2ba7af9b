"""Commands as real processes that are forked from one which has loaded all they need.

Flow: test -> [Process, ForkedRoles] -> the nursery of this test process, started at first use -> a
fork, which goes through the command's own entry with arguments and environment of its own; its
streams and its exit status -> test. What differs from a process that was started is in `nursery`.

Invariants
  FR1  A process dies by a signal as any process does, and shares nothing with others.
  FR2  No role outlives the `with` statement; the nursery ends with the test process.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from tests.integration.nursery import MESSAGE_BYTES, ROOT, Task

WAIT_S = 60.0
_PAUSE_S = 0.02

Document = dict[str, object]


class Nursery:
    """The process that forks; one for each test process (FR2)."""

    def __init__(self) -> None:
        """Start it; it loads while the test goes on."""
        self._guard = threading.Lock()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.integration.nursery", str(theirs.fileno())],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        atexit.register(self.close)

    def fork(self, task: Task, streams: Sequence[int]) -> int:
        """Fork a command; returns its id.

        Args:
            task: what it is.
            streams: its standard input, output and error, and where its status is written to.
        """
        with self._guard:
            socket.send_fds(self._control, [task.encode()], streams)
            answer = self._control.recv(MESSAGE_BYTES)
        assert answer, f"the nursery ended with status {self._process.wait()}"
        return int(answer)

    def close(self) -> None:
        """Let it end."""
        self._control.close()
        self._process.wait()


@cache
def nursery() -> Nursery:
    """The one of this process."""
    return Nursery()


class Process:
    """One fork, used as a `subprocess.Popen` is."""

    def __init__(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        stderr: Path | None = None,
    ) -> None:
        """Start `megaphone ARGUMENTS`, with nothing to read, and nobody to read what it prints.

        Args:
            arguments: of the command.
            environment: all its variables.
            stderr: a file that it is put behind; else it is a pipe.
        """
        self.returncode: int | None = None
        with Path(os.devnull).open("r+b", buffering=0) as nothing:
            if stderr is not None:
                self.stderr: IO[str] | None = None
                err = os.open(stderr, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            else:
                read, err = os.pipe()
                self.stderr = os.fdopen(read, encoding="utf-8")
            self._told, tells = os.pipe()
            task = Task(list(arguments), dict(environment), str(ROOT))
            empty = nothing.fileno()
            self.pid = nursery().fork(task, [empty, empty, err, tells])
            for given in (err, tells):
                os.close(given)

    def poll(self) -> int | None:
        """Exit status, the negative number of the signal that ended it, None while it runs."""
        return self._look(0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end.

        Raises:
            TimeoutExpired: it was not there within `timeout` seconds.
        """
        status = self._look(timeout)
        if status is None:
            raise subprocess.TimeoutExpired(["fork", str(self.pid)], timeout or 0.0)
        return status

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to stop."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it."""
        self.send_signal(signal.SIGKILL)

    def _look(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._told], [], [], timeout)[0]:
            said = os.read(self._told, MESSAGE_BYTES)
            os.close(self._told)
            assert said, "the nursery ended before its fork"
            self.returncode = int(said)
        return self.returncode


class ForkedRole:
    """One process; what it has logged, and how it ended."""

    def __init__(
        self, arguments: Sequence[str], environment: Mapping[str, str], stderr: Path
    ) -> None:
        """Start it; its lines go to the file `stderr`."""
        self._stderr = stderr
        variables = {**os.environ, **environment}
        self.process = Process(arguments, variables, stderr)

    def lines(self, event: str = "") -> list[Document]:
        """Whole lines it has logged so far, of this event."""
        if not self._stderr.exists():
            return []
        *whole, _ = self._stderr.read_text(encoding="utf-8").split("\n")
        # Of a failing job the Kafka client may have something to say, too; its lines begin with %.
        found = [json.loads(text) for text in whole if not text.startswith("%")]
        return [line for line in found if event in ("", line["event"])]

    def errors(self) -> list[str]:
        """Messages of the errors it has logged."""
        return [str(line["message"]) for line in self.lines() if line["level"] == "error"]

    @property
    def status(self) -> int | None:
        """Exit status, the negative number of the signal that ended it, None while it runs."""
        return self.process.poll()

    def ended(self, timeout_s: float) -> bool:
        """Wait for its end; whether it came in time."""
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def await_(self, holds: Callable[[], object], what: str) -> None:
        """Wait until something holds, or until the process has ended without it."""
        deadline = time.monotonic() + WAIT_S
        while not holds():
            if self.ended(_PAUSE_S):
                assert holds(), f"ended with status {self.status} before {what}"
            assert time.monotonic() < deadline, f"no {what} within {WAIT_S:g} s"


class ForkedRoles:
    """A controller, workers and gateways of one job; use it in a `with` statement (FR2)."""

    def __init__(
        self,
        target: str,
        common: Sequence[str],
        folder: Path,
        *,
        workers: int,
        gateways: int,
        bins: int,
        controller: Sequence[str] = (),
        members: Sequence[str] = (),
        worker: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start all of them.

        Args:
            target: what to run.
            common: arguments of every role.
            folder: a new one, for what they say.
            workers: how many.
            gateways: how many.
            bins: bins of state.
            controller: arguments of the controller.
            members: arguments of workers and gateways.
            worker: arguments of workers alone.
            environment: variables beside this process's own.
        """
        folder.mkdir(parents=True)
        shape = ["--workers", workers, "--gateways", gateways, "--bins", bins]
        asked = {"controller": ["controller", target, *common, *map(str, shape), *controller]}
        for number in range(gateways):
            slot = ["--slot", str(number)]
            asked[f"gateway-{number}"] = ["gateway", target, *common, *slot, *members]
        for number in range(workers):
            slot = ["--slot", str(number)]
            asked[f"worker-{number}"] = ["worker", target, *common, *slot, *members, *worker]
        self.roles = {
            name: ForkedRole(arguments, environment or {}, folder / f"{name}.log")
            for name, arguments in asked.items()
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for name, role in self.roles.items():
            if error is not None:
                said = [json.dumps(line) for line in role.lines()[-8:]]
                error.add_note("\n".join([f"{name}, status {role.status}, said at last:", *said]))
            role.process.kill()
            role.process.wait()

    def await_running(self) -> None:
        """Wait until every process takes part in the generation."""
        for name, role in self.roles.items():
            began = "generation.began" if name == "controller" else "member.started"
            role.await_(partial(role.lines, began), f"{name} {began}")

    def await_ends(self) -> dict[str, int | None]:
        """Wait until all have ended; returns their statuses."""
        deadline = time.monotonic() + WAIT_S
        for role in self.roles.values():
            role.ended(max(0.0, deadline - time.monotonic()))
        return {name: role.status for name, role in self.roles.items()}
