"""Starts one job's processes on this machine and holds them together.

Flow: `megaphone run` -> [Launcher] -> controller, gateways and workers, each a role of the command.

Invariants
  LA1  If any process ends badly, all are ended, and the launcher says which one it was and exits
       with 2 if that one did, else with 1.
  LA2  A signal asks the controller for a plain stop once; a second one ends everything at once.
  LA3  No child outlives the launcher by more than a plain stop: each holds the other end of a pipe
       that ends with the launcher, however that ends, and is killed when `run` returns.
"""

from __future__ import annotations

import math
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import FrameType
from typing import IO, Protocol

from service.ids import Slot
from service.log import Log
from service.stop_signals import ASKS_PLAINLY

#: Between looks at the children.
_WATCH_S = 0.05
#: What the others get to end by themselves, and to say why, when one was lost.
_GRACE_S = 5.0


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """One process to start: its slot and its command line behind `python -m service`."""

    slot: Slot
    arguments: Sequence[str]


class Child(Protocol):
    """What the launcher needs of a process; `subprocess.Popen` has it."""

    stdin: IO[bytes] | None

    def poll(self) -> int | None:
        """Exit status, the negative number of a signal, None while it runs."""

    def wait(self) -> int:
        """Wait for its end; returns the same."""

    def send_signal(self, number: int, /) -> None:
        """Send it a signal, unless it has ended."""

    def kill(self) -> None:
        """End it."""


class Launcher:
    """Runs children until they are done, one fails, or a signal comes."""

    def __init__(
        self,
        children: Sequence[ChildSpec],
        stop_timeout_s: float,
        log: Log,
        command: Sequence[str] = (sys.executable, "-m", "service"),
    ) -> None:
        """Start nothing yet.

        Args:
            children: what to start; the first is the controller.
            stop_timeout_s: how long a plain stop may take.
            log: says what went wrong.
            command: what each child's arguments are put behind; `--tied` is put behind those.
        """
        self._specs = children
        self._command = command
        self._controller = children[0].slot
        self._stop_timeout_s = stop_timeout_s
        self._log = log
        self._signals = 0
        self._running: dict[Slot, Child] = {}
        #: Who was asked to stop, each once.
        self._asked: set[Slot] = set()

    def run(self) -> int:
        """Start the children and wait for their end; returns the exit status."""
        previous = {
            number: signal.signal(number, self._on_signal)
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            for spec in self._specs:
                self._running[spec.slot] = self.started(spec)
            return self._watch()
        finally:
            self._end_all()
            for number, handler in previous.items():
                signal.signal(number, handler)

    def started(self, spec: ChildSpec) -> Child:
        """Start one child; whoever starts them otherwise overrides this."""
        return subprocess.Popen(
            [*self._command, *spec.arguments, "--tied"],
            # Ends with us, which the child watches (LA3); nothing is ever written to it.
            stdin=subprocess.PIPE,
            # A group of its own: Ctrl-C reaches the launcher, which stops the job plainly.
            process_group=0,
        )

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        self._signals += 1

    def _watch(self) -> int:
        """Until all have ended (0), or something is wrong (LA1)."""
        asked = left = False
        deadline = math.inf
        while self._running:
            if self._signals > 1:
                self._log.error("job.interrupted", message="ended at once by a second signal")
                return 1
            if self._signals and not asked:
                asked = True
                deadline = time.monotonic() + self._stop_timeout_s
                # The controller cuts the job at one epoch; everyone else follows the log.
                self._ask(self._controller)
            if self._controller not in self._running and not left:
                left = True
                deadline = time.monotonic() + self._stop_timeout_s
                # Who takes part is ending already; who still waits for a job waits for nothing.
                self._ask(*self._running)
            if time.monotonic() > deadline:
                waiting = ", ".join(str(slot) for slot in self._running)
                self._log.error(
                    "job.stop_failed",
                    message=f"still running {self._stop_timeout_s:g} s after the stop: {waiting}",
                )
                return 1
            for slot in list(self._running):
                status = self._running[slot].poll()
                if status == 0 or (status == -ASKS_PLAINLY and slot in self._asked):
                    # The signal ends a process that is still starting, too.
                    self._forget(slot)
                elif status is not None:
                    return self._lost(slot, status)
            time.sleep(_WATCH_S)
        return 0

    def _ask(self, *slots: Slot) -> None:
        """Ask processes for a plain stop."""
        for slot in slots:
            if slot in self._running and slot not in self._asked:
                self._asked.add(slot)
                self._running[slot].send_signal(ASKS_PLAINLY)

    def _lost(self, slot: Slot, status: int) -> int:
        """One ended badly: let the others notice it, say what they know, and end."""
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        self._forget(slot)
        self._log.error("process.lost", lost=str(slot), status=status, message=f"{slot} {how}")
        self._ask(*self._running)
        deadline = time.monotonic() + _GRACE_S
        while self._running and self._signals < 2 and time.monotonic() < deadline:
            for other in list(self._running):
                if self._running[other].poll() is not None:
                    self._forget(other)
            time.sleep(_WATCH_S)
        killed = ", ".join(str(other) for other in self._running)
        self._log.error(
            "job.failed",
            message=f"the job failed: {slot} {how}; its own error, if it had one, is above"
            + (f". Still there, so killed: {killed}" if killed else ""),
        )
        return 2 if status == 2 else 1

    def _forget(self, slot: Slot) -> None:
        process = self._running.pop(slot)
        if process.stdin is not None:
            process.stdin.close()

    def _end_all(self) -> None:
        for process in self._running.values():
            process.kill()
        for slot in list(self._running):
            self._running[slot].wait()
            self._forget(slot)
