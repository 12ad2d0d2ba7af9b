"""Starts one job's processes on this machine and holds them together.

Flow: `megaphone run` -> [Launcher] -> controller, gateways and workers, each a role of the command.

Invariants
  LA1  If any process ends before the job was stopped, or ends badly, all are stopped and the
       launcher says which one it was and exits non-zero.
  LA2  A signal asks the controller for a plain stop once; a second one ends everything at once.
  LA3  No child outlives the launcher: each dies with its parent, and is killed at the end.
"""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import FrameType

from service.ids import Slot
from service.log import Log

_PR_SET_PDEATHSIG = 1
#: Between looks at the children.
_WATCH_S = 0.05
#: Children that are told to end get this long before they are killed.
_GRACE_S = 5.0


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """One process to start: its slot and its command line behind `python -m service`."""

    slot: Slot
    arguments: Sequence[str]


def _die_with_parent() -> None:
    """Ask Linux to end this child when its parent ends (LA3)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class Launcher:
    """Runs children until they are done, one fails, or a signal comes."""

    def __init__(self, children: Sequence[ChildSpec], stop_timeout_s: float, log: Log) -> None:
        """Start nothing yet; the first child is the controller."""
        self._specs = children
        self._stop_timeout_s = stop_timeout_s
        self._log = log
        self._signals = 0
        self._running: dict[Slot, subprocess.Popen[bytes]] = {}

    def run(self) -> int:
        """Start the children and wait for their end; returns the exit status."""
        previous = {
            number: signal.signal(number, self._on_signal)
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            for spec in self._specs:
                self._running[spec.slot] = subprocess.Popen(
                    [sys.executable, "-m", "service", *spec.arguments],
                    stdin=subprocess.DEVNULL,
                    preexec_fn=_die_with_parent,
                    # A group of its own: Ctrl-C reaches the launcher, which stops the job plainly.
                    process_group=0,
                )
            return self._watch()
        finally:
            self._end_all()
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        self._signals += 1

    def _watch(self) -> int:
        asked: float | None = None
        while self._running:
            if self._signals > 1:
                self._log.error("job.interrupted", message="stopped at once by a second signal")
                return 1
            if self._signals == 1 and asked is None:
                asked = time.monotonic()
                # The controller cuts the job at one epoch; everyone else follows the log.
                self._running[self._specs[0].slot].send_signal(signal.SIGTERM)
            if asked is not None and time.monotonic() - asked > self._stop_timeout_s:
                waiting = ", ".join(str(slot) for slot in self._running)
                self._log.error(
                    "job.stop_failed",
                    message=f"still running {self._stop_timeout_s:g} s after the stop: {waiting}",
                )
                return 1
            for slot, process in list(self._running.items()):
                status = process.poll()
                if status is None:
                    continue
                if status != 0:
                    self._log.error(
                        "process.lost",
                        lost=str(slot),
                        status=status,
                        message=f"{slot} ended with status {status}; the job stops. Its own error, "
                        "if it had one, is above; start the job again to go on from its "
                        "last checkpoint",
                    )
                    return 2 if status == 2 else 1
                del self._running[slot]
            time.sleep(_WATCH_S)
        return 0

    def _end_all(self) -> None:
        for process in self._running.values():
            if process.poll() is None:
                process.kill() if self._signals > 1 else process.send_signal(signal.SIGINT)
        deadline = time.monotonic() + _GRACE_S
        for process in self._running.values():
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._running.clear()
