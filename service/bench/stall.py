"""How long this machine kept a process from running that wanted to run.

Flow: [StallProbe] starts `python -m service.bench.stall` -> one number when its stdin ends.

The probe asks to be woken every millisecond and keeps the largest delay beyond that: what the
kernel, the hypervisor or a busy neighbour takes from everybody. A probe that really spun would take
one of two cores from what is measured. It is a process of its own, because in the measured one the
interpreter lock would be counted too.

Cost: 1 to 2 % of a core, 10 MB.
"""

from __future__ import annotations

import gc
import select
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from service.clock import Clock, SystemClock
from service.errors import MegaphoneError

_ROOT = Path(__file__).parents[2]
_PERIOD_NS = 1_000_000
_ANSWER_SECONDS_MAX = 10.0


class StallProbe:
    """Watches for stalls during a `with` block; `stall_ms` is known behind it."""

    def __init__(self) -> None:
        #: Largest stall seen, milliseconds.
        self.stall_ms = 0.0

    def __enter__(self) -> Self:
        """Start the probe and wait until it watches."""
        self._child = subprocess.Popen(
            [sys.executable, "-m", "service.bench.stall"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=_ROOT,  # where `-m` looks for the package, installed or not
        )
        assert self._child.stdout is not None, "it is a pipe"
        self._child.stdout.readline()
        return self

    def end(self) -> None:
        """End the probe at once; it can give no answer then."""
        self._child.kill()
        self._child.wait()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the probe and take its answer.

        Raises:
            MegaphoneError: it gave none, and the block itself did not fail.
        """
        try:
            answer, _ = self._child.communicate(timeout=_ANSWER_SECONDS_MAX)
            self.stall_ms = int(answer) / 1e6
        except (subprocess.TimeoutExpired, ValueError) as failure:
            self.end()
            if error is None:
                raise MegaphoneError("the stall probe gave no answer; run it again") from failure


def largest_stall_ns(clock: Clock, stdin_fd: int) -> int:
    """Watch until `stdin_fd` ends or has something to read; the largest stall in nanoseconds."""
    worst = 0
    while True:
        before = clock.monotonic_ns()
        readable, _, _ = select.select([stdin_fd], [], [], _PERIOD_NS / 1e9)
        if readable:
            return worst
        worst = max(worst, clock.monotonic_ns() - before - _PERIOD_NS)


def main() -> None:
    """Say that it watches, watch, say what was seen."""
    gc.disable()
    sys.stdout.write("watching\n")
    sys.stdout.flush()
    sys.stdout.write(f"{largest_stall_ns(SystemClock(), sys.stdin.fileno())}\n")


if __name__ == "__main__":
    main()
