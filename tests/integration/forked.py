"""Roles of a job as real processes that are forked from one which has loaded all they need.

Flow: test -> [ForkedRoles] -> a fork for each role, which goes through `megaphone`'s own entry with
arguments and environment of its own; its stderr and its exit status -> test.

A job that `command.Roles` starts imports the service in each of its processes, for many seconds of
CPU; a test whose subject is what happens after that, again and again, begins here instead.

Invariants
  FR1  A process is what `python -m service ARGUMENTS` is, but for who loaded its modules: nothing
       is shared with other roles, and it dies by a signal as any process does.
  FR2  No process outlives the `with` statement.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import Self

from service.entry import main

WAIT_S = 60.0
_PAUSE_S = 0.02

Document = dict[str, object]

_forks = multiprocessing.get_context("forkserver")
# What a role imports; the kernels in it are loaded once, before the first fork.
_forks.set_forkserver_preload([__name__, "service.roles_cli", "tests.integration.flows"])


def _play(arguments: Sequence[str], environment: Mapping[str, str], stderr: str) -> None:
    """Be one role, in a process of its own (FR1)."""
    told = os.open(stderr, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(told, 2)
    os.environ.update(environment)
    sys.argv = ["megaphone", *arguments]
    main()


class ForkedRole:
    """One process; what it has logged, and how it ended."""

    def __init__(
        self, arguments: Sequence[str], environment: Mapping[str, str], stderr: Path
    ) -> None:
        """Start it; its lines go to the file `stderr`."""
        self._stderr = stderr
        self.process: BaseProcess = _forks.Process(
            target=_play, args=(list(arguments), dict(environment), str(stderr)), daemon=True
        )
        self.process.start()

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
        return self.process.exitcode

    def await_(self, holds: Callable[[], object], what: str) -> None:
        """Wait until something holds, or until the process has ended without it."""
        deadline = time.monotonic() + WAIT_S
        while not holds():
            self.process.join(_PAUSE_S)
            if self.status is not None:
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
            role.process.join()

    def await_running(self) -> None:
        """Wait until every process takes part in the generation."""
        for name, role in self.roles.items():
            began = "generation.began" if name == "controller" else "member.started"
            role.await_(partial(role.lines, began), f"{name} {began}")

    def await_ends(self) -> dict[str, int | None]:
        """Wait until all have ended; returns their statuses."""
        deadline = time.monotonic() + WAIT_S
        for role in self.roles.values():
            role.process.join(max(0.0, deadline - time.monotonic()))
        return {name: role.status for name, role in self.roles.items()}
